"""Every block of docs/pitfalls.md runs and prints what the page says, and what the page claims holds.

`read` runs a section and compares its output with the page. The tests below judge the variables that it
leaves: that the other library's mistake is there, that nobody is told where the page says so, that the other
library is right where the page says so, and that ours is right. Where a new version of peft or Transformers
mends something, its test fails, and the page is to be changed.
"""

from __future__ import annotations

import copy
import re
import weakref
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import parse
from safetensors.torch import load_file

from tests.pitfalls import page
from tests.pitfalls.page import Outcome

pytest.importorskip("bitsandbytes", reason="the page shows a quantized base too")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*deprecated and will be removed", "ignore:Position ids are not"),
    pytest.mark.skipif(
        parse(version("transformers")) < parse("5.23"), reason="the page tells of Transformers 5.23"
    ),
]

SECTIONS = page.sections()
Read = Callable[[str], Outcome]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder that all sections work in, and the names of the page's setup."""
    folder, names = tmp_path_factory.mktemp("pitfalls"), {"__name__": "pitfalls"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(torch.cuda, "is_available", lambda: False)  # the page shows numbers of a CPU
        page.play(SECTIONS["Setup"], names)
        yield folder, names


@pytest.fixture
def read(shared: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Read:
    """Run the section with this heading, behind the setup and independent of the others."""
    folder, names = shared
    monkeypatch.chdir(folder)
    return lambda heading: page.play(SECTIONS[heading], dict(names))


def test_every_section_is_tested() -> None:
    tested = re.findall(r'read\("(.+?)"\)', Path(__file__).read_text(encoding="utf-8"))
    assert sorted(tested) == sorted(SECTIONS.keys() - {"", "Setup"})
    for heading in tested:
        languages = [block.language for block in SECTIONS[heading]]
        assert languages[:2] == ["python", "text"], heading  # the mistake, and what it prints
        assert {"console", "python"} & set(languages[2:]), heading  # ours


def test_the_page_is_linked_and_lists_its_sections() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    anchors = [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in SECTIONS]
    assert re.findall(r"\]\(#([^)]+)\)", text) == anchors[2:]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"[Pitfalls](docs/pitfalls.md) reproduces {len(anchors) - 2} such mistakes" in readme
    assert "(pitfalls.md)" in (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("wanted", "printed"),
    [
        ("one\ntwo", "one\nthree"),
        ("one", "one\ntwo"),
        ("one\ntwo", "one"),
        ("...\ntwo", "one\nthree"),
        ("5 of 6", "6 of 6"),
        ("loss 1.20", "loss 1.50"),
        ("by 0.000", "by 0.004"),
        ("Warning: 3 rows ...", "Warning: 4 rows of many"),
    ],
)
def test_another_output_is_noticed(wanted: str, printed: str) -> None:
    with pytest.raises(AssertionError):
        page.compare(wanted, printed)


def test_left_out_lines_and_rounding_are_allowed() -> None:
    page.compare("a\n...\nloss 1.20, 5 steps\nand so ...", "a\nb\nc\nloss 1.24, 5 steps\nand so on and on")


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


def test_what_the_page_says_of_precision_in_the_other_libraries(
    shared: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_teacher_forcing(read: Read) -> None:
    found = read("Scoring text that the model did not write")
    assert not set(found["forced"]) <= set(found["known"])  # texts that nobody wrote
    assert set(found["written"]) == {"cat sat on mat"}
    assert not found.said


def test_bleu(read: Read) -> None:
    found = read("BLEU with its references the wrong way round")
    assert found["found"]["metrics"]["test"]["bleu"] > 0
    assert len(found["rows"]) > 10
    assert not found.said
    sacrebleu, titles = found["sacrebleu"], found["titles"]
    for rest in (["x", "y"], ["x y z", ""]):  # the other texts do not count at all
        assert sacrebleu.corpus_bleu([titles[0], *rest], [[title] for title in titles]).score > 99


def test_logits(read: Read) -> None:
    found = read("All logits at once")
    run: Any = found["run"]
    alive: list[weakref.ref[torch.Tensor]] = []

    def watch(layer: Any, inputs: Any, logits: torch.Tensor) -> None:
        alive.append(weakref.ref(logits))
        assert sum(one() is not None for one in alive) <= 2, "logits of earlier batches are kept"

    run.model.base.lm_head.register_forward_hook(watch)
    found["loss_on"](run.model, found["rows"], run.encoder, batch_size=8)
    assert len(alive) == 9
    assert found["predicted"].predictions[0].nbytes == 72 * 5 * 32 * 4
    assert not found.said


def test_left_padding(read: Read) -> None:
    found = read("Padding that moves a prompt")
    peft = found["peft"]
    options = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
    moved = {}
    for kind in ("PromptTuningConfig", "PrefixTuningConfig"):  # what the page says of `generate`
        model = peft.PeftModel.from_pretrained(found["llama"](), kind).eval()
        single = {**found["single"], "attention_mask": torch.ones_like(found["single"]["input_ids"])}
        alone = model.generate(**single, **options).logits[0][0]
        moved[kind] = (model.generate(**found["padded"], **options).logits[0][1] - alone).abs().max()
        ours = found["deltatune"].AdaptedModel(found["llama"]())
        ours.load(kind)
        assert (ours(**found["single"]).logits[0, -1] - alone).abs().max() < 1e-4  # the same delta
    assert moved["PromptTuningConfig"] > 0.1
    assert moved["PrefixTuningConfig"] < 1e-4


def test_selection(read: Read) -> None:
    found = read("Selecting on the test rows")
    assert abs(found["right"].mean() - 0.94) < 1e-3
    assert found["right"].mean(axis=2).max(axis=1).mean() > 0.95


def test_noise(read: Read) -> None:
    found = read("A difference within noise")
    assert len(found["pairs"]) == 15
    assert all(pair.tie for pair in found["pairs"])
    assert found["widest"].examples_needed > 582


def test_duplicates(read: Read) -> None:
    found = read("Test rows that were trained on")
    assert sum(row["text"] in found["known"] for row in found["test"]) > 5
    assert not found.said


def test_seed(read: Read) -> None:
    found = read("A seed that comes too late")
    assert not found.said
    from transformers import set_seed

    made = []
    for start in (1, 2):
        torch.manual_seed(start)
        set_seed(0)  # as the page says
        model = found["peft"].get_peft_model(
            found["t5"](), found["peft"].LoraConfig(task_type="SEQ_2_SEQ_LM")
        )
        found["trainer"](model, found["PAIRS"], max_steps=2, seed=0).train()
        made.append([p for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_inert(read: Read) -> None:
    found = read("An adapter that does nothing")
    peft, llama, ids = found["peft"], found["llama"], found["ids"]
    assert not found.said
    right = peft.PeftModel.from_pretrained(llama(), "lora")
    assert (right(ids).logits - llama()(ids).logits).abs().max() > 1e-2  # on its own model it acts
    with pytest.warns(UserWarning, match="missing adapter keys"):  # as the page says
        peft.PeftModel.from_pretrained(llama().model, "lora")
    ours = found["deltatune"].AdaptedModel(llama())
    ours.load("lora")
    assert (ours(input_ids=ids).logits - right(ids).logits).abs().max() < 1e-4


def test_file(read: Read) -> None:
    found = read("A file with the vocabulary in it")
    assert any("save_embedding_layers" in text for text in found.said)  # as the page says
    large, lean = (load_file(f"{name}/adapter_model.safetensors") for name in ("large", "lean"))
    assert sum(key.endswith("base_layer.weight") for key in large) == 1
    assert {key for key in large if "base_layer" not in key} == set(lean)
    model = found["peft"].get_peft_model(found["llama"](), found["settings"])
    model.save_pretrained("without", save_embedding_layers=False)
    assert not any("base_layer" in key for key in load_file("without/adapter_model.safetensors"))


def test_four_bits(read: Read) -> None:
    found = read("Merging into four bits")
    assert any(
        "different generations due to rounding errors" in text for text in found.said
    )  # as the page says
    from deltatune.runs import merge

    measured = merge(Path("out/qlora"), Path("merged-again"))
    assert measured["max_abs_logit_difference"] < 1e-3
    assert measured["max_abs_difference_to_quantized"] > 0.5 * measured["logit_scale"]  # "that is far"


def test_resuming(read: Read) -> None:
    found = read("Going on with a saved adapter")
    assert not found.said
    settings = found["peft"].LoraConfig(task_type="SEQ_2_SEQ_LM", lora_dropout=0.1)
    steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2}
    made = []
    for checkpoint in (None, "hf/checkpoint-2"):  # `Trainer` itself is exact, as the page says
        torch.manual_seed(0)
        model = found["peft"].get_peft_model(found["t5"](), settings)
        found["trainer"](model, found["PAIRS"], **steps).train(resume_from_checkpoint=checkpoint)
        made.append([p for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


@pytest.mark.slow
def test_an_adalora_of_peft_that_has_dropped_ranks_cannot_be_resumed(
    shared: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, names = shared
    monkeypatch.chdir(folder)
    from transformers import TrainerCallback

    class Allocate(TrainerCallback):
        """The call that peft leaves to the user."""

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **found: Any) -> None:
            found["model"].base_model.update_and_allocate(state.global_step + 1)

    steps = {"max_steps": 12, "save_strategy": "steps", "save_steps": 8, "learning_rate": 1e-2}
    schedule = {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 2, "deltaT": 1, "total_step": 12}

    def run() -> Any:
        settings = names["peft"].AdaLoraConfig(task_type="SEQ_2_SEQ_LM", **schedule)
        made = names["trainer"](
            names["peft"].get_peft_model(names["t5"](), settings), names["PAIRS"], **steps
        )
        made.add_callback(Allocate())
        return made

    run().train()
    with pytest.raises(RuntimeError, match="size mismatch"):
        run().train(resume_from_checkpoint="hf/checkpoint-8")
