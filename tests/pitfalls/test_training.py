"""What is trained, and what is taught.

`read` runs a section of docs/concepts/pitfalls.md and compares its output with the page. The tests judge
the variables that it leaves: that the other library's mistake is there, that nobody is told where the page
says so, that the other library is right where the page says so, and that ours is right. Where a new version
of peft or Transformers mends something, its test fails, and the page is to be changed.
"""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

from tests.pitfalls.page import Read, Shared

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*deprecated and will be removed", "ignore:Position ids are not"
)


def test_adalora(read: Read) -> None:
    found = read("AdaLoRA keeps its whole budget")
    assert found["alive"].all()
    assert len(found["alive"]) > 50
    assert not found.said
    reached = found["result"]("out/adalora")["method_result"]
    assert reached["budget"] == reached["target_budget"] > 0
    stored = load_file("out/adalora/adapter/adapter_model.safetensors")
    living = sum(int((tensor != 0).sum()) for key, tensor in stored.items() if "lora_E" in key)
    assert 0 < living <= reached["target_budget"]


def test_targets(read: Read) -> None:
    found = read("A target that matches nothing")
    assert {name.split(".")[-1] for name in found["model"].targeted_module_names} == {"q", "v"}
    assert not found.said
    peft = found["peft"]
    with pytest.raises(ValueError, match="not found in the base model"):  # as the page says
        peft.get_peft_model(found["t5"](), peft.LoraConfig(target_modules=["wi"]))


def test_defaults(read: Read) -> None:
    found = read("Equal names, unequal budgets")
    assert found["kinds"] == ["k", "o", "q", "v", "wo"]  # of six: `wi` is not in a gated T5
    assert found["trained"] > 3 * 6144
    assert not found.said
    lora, adalora = (found["deltatune"].METHODS.get(name)() for name in ("lora", "adalora"))
    assert lora.targets == adalora.targets


def test_prefix(read: Read) -> None:
    found = read("A prefix for the decoder only")
    assert {path.split(".")[0] for path in found["adapter"].keys_values} == {"encoder", "decoder"}
    assert (found["prefixed"] - found["plain"]).abs().max() > 0.1
    assert not found.said
    peft, batch = found["peft"], found["batch"]
    settings = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=20)
    output = peft.get_peft_model(found["t5"](), settings)(**batch)
    assert (output.logits - found["t5"]()(**batch).logits).abs().max() > 0.1  # the decoder does see it


def test_head(read: Read) -> None:
    found = read("A new head that is not trained")
    assert not any("classifier" in key for key in load_file("no-head/adapter_model.safetensors"))
    assert any("classifier" in key for key in load_file("with-head/adapter_model.safetensors"))
    assert not found.said
    peft = found["peft"]
    for settings in ({"task_type": "SEQ_CLS"}, {"modules_to_save": ["classifier"]}):  # as the page says
        model = peft.get_peft_model(found["vit"](), peft.LoraConfig(target_modules=["q_proj"], **settings))
        assert any(p.requires_grad and "classifier" in name for name, p in model.named_parameters())


def test_precision(read: Read) -> None:
    found = read("A head in half precision")
    assert found["head"].dtype == torch.bfloat16
    assert 0 < (found["head"] != found["before"]).float().mean() < 0.3
    assert not found.said
    model, adapter = found["model"].train(), found["adapter"]
    head = [parameter for _, parameter in adapter.deltas["classifier"].named_parameters()]
    before, optimizer = copy.deepcopy(head), torch.optim.AdamW(head, lr=1e-4)
    images = torch.stack([row["pixel_values"] for row in found["rows"]])
    for _ in range(10):
        model(pixel_values=images, labels=torch.arange(16) % 2).loss.backward()
        optimizer.step()
    assert all((new != old).all() for new, old in zip(head, before, strict=True))


def test_precision_in_the_other_libraries(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, names = shared
    monkeypatch.chdir(folder)
    peft, base = names["peft"], names["T5ForConditionalGeneration"]
    model = peft.get_peft_model(names["vit"]().bfloat16(), peft.LoraConfig(target_modules=["q_proj"]))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    half = base.from_pretrained("tiny-t5", dtype=torch.float16)
    dtypes = {name.split(".")[-2]: p.dtype for name, p in half.named_parameters()}
    assert dtypes["wo"] == torch.float32
    assert dtypes["wi_0"] == torch.float16
    ids = torch.tensor([row["input_ids"] for row in names["PAIRS"]])
    assert half(input_ids=ids, labels=ids).logits.isfinite().all()


def test_checkpointing(read: Read) -> None:
    found = read("Checkpointing that stops gradients")
    assert not any(found["moved"])
    assert all(found["reached"])
    assert any("None of the inputs have requires_grad" in text for text in found.said)  # as the page says
    again, settings = found["peft"].get_peft_model, found["settings"]
    run = {"max_steps": 2, "learning_rate": 1e-2, "gradient_checkpointing": True}
    model = again(found["vit"](), settings)
    found["trainer"](model, found["IMAGES"], **run).train()  # not reentrant, as by default
    assert all(p.any() for name, p in model.named_parameters() if "lora_B" in name)
    text = again(found["t5"](), found["peft"].LoraConfig(task_type="SEQ_2_SEQ_LM"))
    reentrant = {"gradient_checkpointing_kwargs": {"use_reentrant": True}}
    found["trainer"](text, found["PAIRS"], **run, **reentrant).train()
    assert all(p.any() for name, p in text.named_parameters() if "lora_B" in name)


def test_longest_batch(read: Read) -> None:
    found = read("The longest batch comes late")
    assert sorted(found["widths"])[-2] < max(found["widths"])
    assert found["widths"].index(max(found["widths"])) > 0
    from deltatune.training.before.forecast import forecast

    recipe = found["deltatune"].load_recipe("lengths.yaml", ["train.micro_batch_size=4"])
    [entry] = forecast(recipe, memory=1026 * 2**20).planned  # what it proposes does fit
    assert entry.fits


def test_tokenizer(read: Read) -> None:
    found = read("Another model's tokenizer")
    words, labels = found["bart_words"], found["labels"]
    assert (labels == words.pad_token_id).any()
    assert not (labels == words.bos_token_id).any()
    assert not found.said
    from transformers import DataCollatorForSeq2Seq

    rows = [dict(words(text, text_target=text)) for text in ("the cat", "the dog ran over the mat")]
    right = DataCollatorForSeq2Seq(words)(rows)["labels"]
    assert (right == words.bos_token_id).sum() == 2
    assert not (right == words.pad_token_id).any()


def test_end_token(read: Read) -> None:
    found = read("The end token is taken for padding")
    words = found["llama_words"]
    assert all(row["input_ids"][-1] == words.eos_token_id for row in found["rows"])
    assert not (found["collator"](found["rows"])["labels"] == words.eos_token_id).any()
    assert not found.said
    assert found["result"]("out/lm")["metrics"]["test"]["stop_rate"] == 1


def test_truncation(read: Read) -> None:
    found = read("Truncation takes every label")
    assert set(found["labels"]) == {-100}
    assert not found.said
    assert not any(p.isnan().any() for p in found["run"].model.parameters())


def test_begin_tokens(read: Read) -> None:
    found = read("Two begin tokens")
    words = found["llama_words"]
    assert not found.said
    turn = [{"role": "user", "content": "the cat sat"}]
    ids = words.apply_chat_template(turn, tokenize=True, return_dict=True)["input_ids"]
    assert ids.count(words.bos_token_id) == 1  # as the page says
