"""What is measured, concluded and kept.

`read` runs a section of docs/concepts/pitfalls.md and compares its output with the page. The tests judge
the variables that it leaves: that the other library's mistake is there, that nobody is told where the page
says so, that the other library is right where the page says so, and that ours is right. Where a new version
of peft or Transformers mends something, its test fails, and the page is to be changed.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.oracle import bridge
from tests.pitfalls.page import Read, Shared

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*deprecated and will be removed", "ignore:Position ids are not"
)


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
    moved, off = {}, {}
    for kind in ("PromptTuningConfig", "PrefixTuningConfig"):  # what the page says of `generate`
        model = peft.PeftModel.from_pretrained(found["llama"](), kind).eval()
        alone = model(**found["single"]).logits[0, -1]
        single = {**found["single"], "attention_mask": torch.ones_like(found["single"]["input_ids"])}
        generated = model.generate(**single, **options).logits[0][0]
        moved[kind] = (model.generate(**found["padded"], **options).logits[0][1] - generated).abs().max()
        off[kind] = (generated - alone).abs().max()
        ours = found["deltatune"].AdaptedModel(found["llama"]())
        ours.load(kind)
        assert (ours(**found["single"]).logits[0, -1] - alone).abs().max() < 1e-4  # the same delta
        found_alone = ours.generate(**single, **options).logits[0][0]
        assert (found_alone - alone).abs().max() < 1e-4
        assert (ours.generate(**found["padded"], **options).logits[0][1] - found_alone).abs().max() < 1e-4
    assert moved["PromptTuningConfig"] > 0.1
    assert off["PromptTuningConfig"] < 1e-4
    if bridge.CACHE_IS_CALLED_CACHE:
        assert off["PrefixTuningConfig"] > 0.1
    else:
        assert max(moved["PrefixTuningConfig"], off["PrefixTuningConfig"]) < 1e-4


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
    assert measured.max_abs_logit_difference < 1e-3
    assert measured.max_abs_difference_to_quantized > 0.5 * measured.logit_scale  # "that is far"


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
def test_peft_cannot_resume_an_adalora_with_dropped_ranks(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
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
