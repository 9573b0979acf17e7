"""Runs whose rows are packed: the steps, losses and memory that they should have, and when `auto` packs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from deltatune.core.model import AdaptedModel
from deltatune.data.batches import batches, padding_share
from deltatune.errors import RecipeError, TargetError
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.results import RunResult
from deltatune.testing import tiny
from deltatune.testing.folders import save_tiny
from deltatune.training import run
from deltatune.training.before.dry_run import plan
from deltatune.training.before.forecast import forecast
from deltatune.training.before.preview import preview
from deltatune.training.loop.trainer import Trainer
from deltatune.training.proof.certificate import Proof
from deltatune.training.proof.packing import LINE, try_packing

Make = Callable[..., Recipe]
DELTA = "adapter/adapter_model.safetensors"


class Listening(Silent):
    """Notes what is said, and presses Ctrl-C after a number of training steps, if one is given."""

    def __init__(self, steps: int = -1) -> None:
        self.said: list[str] = []
        self.left = steps

    def log(self, text: str) -> None:
        self.said.append(text)

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        if task == "Training" and numbers:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def make(make_recipe: Make, llama_folder: Path) -> Make:
    """A recipe on a tiny Llama and rows of 20 to 60 or so tokens, batched at random."""

    def build(*overrides: str, **sections: Any) -> Recipe:
        common = ("train.bucket_by_length=false", "train.precision=fp32")
        return make_recipe(
            *common, *overrides, **{"task": "causal-lm", "model": str(llama_folder)} | sections
        )

    return build


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(folder: Path) -> list[float]:
    return [line["loss"] if "loss" in line else line["validation"]["loss"] for line in lines(folder)]


def trained(recipe: Recipe, out: Path, **options: Any) -> RunResult:
    found = run(recipe, recipe.methods[0], 0, out, **options)
    assert isinstance(found, RunResult)
    return found


SLOW = pytest.mark.slow


@pytest.mark.parametrize("method", [
    "{lora: {targets: [all-linear]}}", pytest.param("prefix", marks=SLOW), pytest.param("prompt", marks=SLOW),
])  # fmt: skip
def test_a_run_makes_the_same_steps(make: Make, tmp_path: Path, method: str) -> None:
    changes = (f"methods=[{method}]", "train.micro_batch_size=5", "train.epochs=2", "train.weight_decay=0.01")
    results = {}
    for packing in ("true", "false"):
        recipe = make(*changes, f"data.packing={packing}")
        results[packing] = trained(recipe, tmp_path / packing)
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), rel=1e-4)
    tokens = [[line.get("tokens") for line in lines(tmp_path / flag)] for flag in results]
    assert tokens[0] == tokens[1]
    packed, padded = results["true"], results["false"]
    assert packed.padding is not None
    assert padded.padding is not None
    assert (packed.padding.packed, padded.padding.packed) == (True, False)
    assert packed.padding.share == padded.padding.share > 0.1
    assert [line.check for line in packed.certificate if line.check == LINE] == [LINE]
    assert LINE not in [line.check for line in padded.certificate]
    assert packed.memory is not None
    assert padded.memory is not None
    assert packed.memory.measured is not None
    assert padded.memory.measured is not None
    assert packed.memory.measured.total < padded.memory.measured.total


@pytest.mark.parametrize("method", [
    "{lora: {targets: [all-linear], dropout: 0.1}}", pytest.param("full", marks=SLOW),
    pytest.param("prefix", marks=SLOW), pytest.param("prompt", marks=SLOW),
])  # fmt: skip
@pytest.mark.parametrize("checkpointing", ["false", pytest.param("true", marks=SLOW)])
@pytest.mark.predicts
def test_memory_is_predicted(make: Make, tmp_path: Path, method: str, checkpointing: str) -> None:
    recipe = make(
        f"methods=[{method}]", "data.packing=true", "train.epochs=1", "train.micro_batch_size=4",
        f"train.gradient_checkpointing={checkpointing}", "data.limit={test: 2, validation: 2}",
    )  # fmt: skip
    memory = trained(recipe, tmp_path / "run").memory
    assert memory is not None
    assert memory.predicted is not None
    assert memory.measured is not None
    assert memory.predicted.total == pytest.approx(memory.measured.total, rel=0.01)


@pytest.mark.parametrize("stop_at", [pytest.param(1, marks=SLOW), 4])
def test_an_interrupted_run_goes_on_bit_for_bit(make: Make, tmp_path: Path, stop_at: int) -> None:
    recipe = make("methods=[{lora: {dropout: 0.2}}]", "train.micro_batch_size=3", "data.packing=true")
    whole = trained(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, tmp_path / "parts", observer=Listening(stop_at))
    rest = trained(recipe, tmp_path / "parts", resume=True)
    assert (tmp_path / "whole" / DELTA).read_bytes() == (tmp_path / "parts" / DELTA).read_bytes()
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert rest.metrics == whole.metrics
    assert rest.padding == whole.padding


def test_a_run_that_began_with_padded_rows_goes_on_with_them(make: Make, tmp_path: Path) -> None:
    """As those of version 0.1, whose state does not say it."""
    recipe = make()
    save = Trainer.save

    def without(trainer: Trainer) -> None:
        del trainer.progress.packs  # falls back to the default of the class
        save(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deltatune.training.before.packing.PAYS_FROM", 1.1)
        patch.setattr(Trainer, "save", without)
        with pytest.raises(KeyboardInterrupt):
            trained(recipe, tmp_path / "run", observer=Listening(3))
    rest = trained(recipe, tmp_path / "run", resume=True)
    assert rest.padding is not None
    assert not rest.padding.packed


@pytest.mark.parametrize(("packing", "bucket", "packed"), [
    ("auto", "false", True), ("auto", "true", False), pytest.param("true", "true", True, marks=SLOW),
    pytest.param("false", "false", False, marks=SLOW),
])  # fmt: skip
def test_auto_packs_where_much_is_padding(
    make: Make, tmp_path: Path, packing: str, bucket: str, packed: bool
) -> None:
    changes = (f"train.bucket_by_length={bucket}", f"data.packing={packing}")
    recipe = make(*changes, "train.batch_size=4", "train.max_steps=7")
    entry = recipe.methods[0]
    observer = Listening()
    result = trained(recipe, tmp_path / "run", observer=observer)
    assert result.padding is not None
    assert result.padding.packed == packed
    share = result.padding.share
    assert share < 0.1 if bucket == "true" else share > 0.2
    said = f"lora: padding {share:.0%} -> 0% by packing (attention alone sees padded rows)."
    assert (said in observer.said) == packed
    assert plan(recipe, entry, 0)["padding"] == result.padding.as_dict()
    [planned] = forecast(recipe).planned
    assert planned.padding == result.padding
    [reading] = preview(recipe).models
    assert reading.padding == result.padding


@pytest.mark.slow
def test_the_plan_counts_it(make: Make) -> None:
    totals = {}
    for packing in ("true", "false"):
        [entry] = forecast(make(f"data.packing={packing}")).planned
        totals[packing] = entry.memory.total, entry.flops
    assert totals["true"][0] < totals["false"][0]
    assert totals["true"][1] < totals["false"][1]


def test_kept_layers_are_put_into_packed_rows(make: Make, tmp_path: Path) -> None:
    lora = "methods=[{lora: {targets: ['model.layers.1.*.q_proj']}}]"
    for packing in ("true", "false"):
        observer = Listening()
        trained(make(lora, f"data.packing={packing}"), tmp_path / packing, observer=observer)
        assert any(
            text.startswith("Frozen layers' cache: the outputs of layer 0 of 2") for text in observer.said
        )
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), rel=1e-4)


def test_conversations_are_packed(make: Make, tmp_path: Path) -> None:
    chats = [
        {"messages": [
            {"role": "user", "content": "and" + " so on" * (number % 7)},
            {"role": "assistant", "content": "medals" + " ships" * (number % 3)},
        ]}
        for number in range(30)
    ]  # fmt: skip
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)), encoding="utf-8")
    data = {"source": str(tmp_path / "chats.jsonl"), "split": {"validation": 0.2, "test": 0.2}}
    data["chat_template"] = "plain"
    recipe = make("train.batch_size=4", task="conversation", data=data)
    for packing in ("true", "false"):
        changed = make(f"data.packing={packing}", "train.batch_size=4", task="conversation", data=data)
        assert trained(changed, tmp_path / packing).padding is not None
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), rel=1e-4)
    assert recipe.data.packing is None


@pytest.mark.parametrize("base", ["bloom", pytest.param("mamba", marks=SLOW)])
def test_a_base_that_cannot_pack_is_refused_before_it_is_trained(
    make: Make, tmp_path: Path, base: str
) -> None:
    folder = save_tiny("llama", tmp_path / base)  # for its tokenizer
    config: Any = transformers.MambaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=2, state_size=4)
    kind: Any = transformers.MambaForCausalLM
    if base == "bloom":
        config = transformers.BloomConfig(vocab_size=400, hidden_size=16, n_layer=2, n_head=4)
        kind = transformers.BloomForCausalLM
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    method = "methods=[{lora: {targets: [all-linear]}}]"
    asked = make(method, "data.packing=true", model=str(folder))
    for attempt in (lambda: trained(asked, tmp_path / "run"), lambda: preview(asked)):
        with pytest.raises(TargetError, match="is true, and the rows of a batch cannot be packed"):
            attempt()
    [refused] = forecast(asked).unplanned
    assert "data.packing" in refused.error
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_what_mixes_tokens_beside_attention_is_found_by_trial(tmp_path: Path) -> None:
    """A model with short convolutions (LFM2) says nothing of them: packed rows would run into each other."""
    config = transformers.Lfm2Config(
        vocab_size=48, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=32, layer_types=["conv", "full_attention"], pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    for base in (transformers.Lfm2ForCausalLM(config).eval(), tiny.model("llama")):
        model = AdaptedModel(base)
        proof = Proof(tmp_path / "certificate.json", {})
        why = try_packing(proof, model, *_rows())
        if base.config.model_type == "lfm2":
            assert why is not None
            assert not proof.lines
        else:
            assert why is None
            assert [line.check for line in proof.lines] == [LINE]


def _rows() -> Any:
    from types import SimpleNamespace

    def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        length = max(len(feature["input_ids"]) for feature in features)
        ids = [feature["input_ids"] + [0] * (length - len(feature["input_ids"])) for feature in features]
        mask = torch.tensor(ids).ne(0).long()
        return {
            "input_ids": torch.tensor(ids), "attention_mask": mask,
            "labels": torch.tensor(ids).masked_fill(mask == 0, -100),
        }  # fmt: skip

    features = [{"input_ids": list(range(3, 3 + n)), "prompt_length": 0} for n in (4, 9, 6)]
    encoded = SimpleNamespace(features=features, lengths=[4, 9, 6])
    return SimpleNamespace(collate=collate, task="causal-lm"), encoded


def test_packing_is_for_decoders(make_recipe: Make) -> None:
    for value in ("auto", "false"):
        assert make_recipe(f"data.packing={value}").data.packing is not None
    with pytest.raises(RecipeError, match="is for the task causal-lm or conversation"):
        make_recipe("data.packing=true")
    for wrong in ("maybe", "1", "[]", "yes please"):
        with pytest.raises(RecipeError, match=r"data\.packing"):
            make_recipe(f"data.packing={wrong}")


def test_the_share_of_padding() -> None:
    assert padding_share([4, 4], [[0, 1]], 2) == 0
    assert padding_share([2, 4], [[0, 1]], 2) == 0.25
    assert padding_share([2, 4], [[0, 1]], 1) == 0
    assert padding_share([1, 3, 1, 3], [[0, 1], [2, 3]], 2) == pytest.approx(1 / 3)
    lengths = [1 + 37 * n % 50 for n in range(500)]
    shares = [padding_share(lengths, batches(lengths, 10, 0, 0, bucket), 10) for bucket in (True, False)]
    assert shares[0] < 0.05
    assert shares[1] > 0.3
