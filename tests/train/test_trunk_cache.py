"""Outputs of frozen layers are kept for a whole run: the same to rounding, and bit for bit once resumed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.tasks.task import Feature
from deltatune.testing import tiny
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from deltatune.training import run
from deltatune.training.loop import trunk_cache
from deltatune.training.loop.trunk_cache import TrunkCache, _groups, record_trunk

Make = Callable[..., Recipe]
DECODER = [{"lora": {"targets": ["decoder.query", "cross.value"], "dropout": 0.2}}]
"""Leaves the encoder of the tiny T5 alone."""
DELTA = "adapter/adapter_model.safetensors"


class Listening(Silent):
    """Notes what is said, and presses Ctrl-C after a number of training steps, if one is given."""

    def __init__(self, steps: int = -1) -> None:
        self.said: list[str] = []
        self.left = steps

    def log(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        if task == "Training" and numbers:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)

    @property
    def kept(self) -> list[str]:
        return [text for text in self.said if text.startswith("Frozen layers' cache")]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] if "loss" in line else line["validation"]["loss"] for line in lines]


@pytest.fixture
def bert_recipe(make_recipe: Make, tmp_path: Path) -> Make:
    """A text classifier on BERT, whose lower two layers are not touched."""
    tokenizer = tiny_tokenizer("bert")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_labels=8,
        intermediate_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    lora = {"lora": {"targets": ["*.layer.2.*.query", "*.layer.2.*.value"], "dropout": 0.2}}
    sections = {"task": "text-classification", "model": str(tmp_path / "bert"), "methods": [lora]}
    return lambda *overrides: make_recipe(*overrides, **sections, evaluation={"batch_size": 8})


@pytest.mark.parametrize("checkpointing", ["false", "true"])
@pytest.mark.parametrize("base", ["t5", "bert"])
def test_a_run_is_the_same_to_rounding(
    make_recipe: Make, bert_recipe: Make, tmp_path: Path, base: str, checkpointing: str
) -> None:
    results = {}
    for flag in ("true", "false"):
        changes = ("train.epochs=3", "train.micro_batch_size=3", "train.precision=fp32")
        changes += (f"train.gradient_checkpointing={checkpointing}", f"train.cache_trunk={flag}")
        recipe = make_recipe(*changes, methods=DECODER) if base == "t5" else bert_recipe(*changes)
        observer = Listening()
        with mock.patch.object(
            TrunkCache, "replaying", autospec=True, side_effect=TrunkCache.replaying
        ) as replays:
            results[flag] = run(recipe, recipe.methods[0], 0, tmp_path / flag, observer=observer)
        assert bool(replays.call_count) == (flag == "true")
        what = "the encoder" if base == "t5" else "layers 0-1 of 3"
        assert len(observer.kept) == (1 if flag == "true" else 0)
        assert all(
            text.startswith(f"Frozen layers' cache: the outputs of {what} for 28 rows (")
            for text in observer.kept
        )
    assert losses(tmp_path / "true") == pytest.approx(losses(tmp_path / "false"), rel=1e-4)
    checks = [[(line.check, line.passed) for line in results[f].certificate] for f in results]
    assert checks[0] == checks[1]


@pytest.mark.parametrize("stop_at", [1, 6, 11])
def test_an_interrupted_run_goes_on_bit_for_bit(make_recipe: Make, tmp_path: Path, stop_at: int) -> None:
    recipe = make_recipe("train.epochs=3", "train.micro_batch_size=3", methods=DECODER)
    entry = recipe.methods[0]
    whole = run(recipe, entry, 3, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, entry, 3, tmp_path / "parts", observer=Listening(stop_at))
    observer = Listening()
    rest = run(recipe, entry, 3, tmp_path / "parts", resume=True, observer=observer)
    assert observer.kept
    assert (tmp_path / "whole" / DELTA).read_bytes() == (tmp_path / "parts" / DELTA).read_bytes()
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert rest.metrics == whole.metrics


def test_a_run_that_began_without_goes_on_without(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("train.epochs=3", methods=DECODER)
    monkeypatch.setattr(trunk_cache, "available_memory", lambda: 0)
    monkeypatch.setattr(trunk_cache, "DISK_SHARE", 2**60)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=Listening(5))
    monkeypatch.undo()
    observer = Listening()
    run(recipe, recipe.methods[0], 0, tmp_path / "run", resume=True, observer=observer)
    assert not observer.kept


def test_a_file_takes_the_place_of_memory(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("train.epochs=2", methods=DECODER)
    run(recipe, recipe.methods[0], 0, tmp_path / "memory")
    files: list[set[str]] = []

    def looked(trunk: TrunkCache, rows: Sequence[int], original: Any = TrunkCache.replaying) -> Any:
        files.append({path.name for path in (tmp_path / "file").iterdir()})
        assert type(trunk._kept.base).__name__ == "memmap"
        return original(trunk, rows)

    monkeypatch.setattr(trunk_cache, "available_memory", lambda: 0)
    monkeypatch.setattr(TrunkCache, "replaying", looked)
    observer = Listening()
    run(recipe, recipe.methods[0], 0, tmp_path / "file", observer=observer)
    assert observer.kept[0].endswith("37.6 kB in a file).")
    assert (tmp_path / "memory" / DELTA).read_bytes() == (tmp_path / "file" / DELTA).read_bytes()
    assert all(
        names <= {"recipe.yaml", "metrics.jsonl", "resume", "manifest.json", ".deltatune-lock"}
        for names in files
    )
    assert len(files) == 8


def test_a_full_disk_is_said_and_survived(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def write(self, data: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(trunk_cache, "available_memory", lambda: 0)
    monkeypatch.setattr(trunk_cache, "tempfile", SimpleNamespace(TemporaryFile=lambda dir: Full()))
    recipe = make_recipe("train.epochs=2", methods=DECODER)
    observer = Listening()
    run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=observer)
    assert not observer.kept
    assert any("could not be cached" in text and "No space left" in text for text in observer.said)
    assert (tmp_path / "run" / DELTA).exists()


@pytest.mark.parametrize(
    "change", ["train.epochs=1", "train.max_steps=4", "train.base_dropout=true", "methods=[lora]"]
)
def test_not_where_nothing_is_spared(make_recipe: Make, tmp_path: Path, change: str) -> None:
    methods = {} if change.startswith("methods") else {"methods": DECODER}
    recipe = make_recipe(change, **methods)
    observer = Listening()
    run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=observer)
    assert not observer.kept


@pytest.mark.predicts
def test_the_predicted_memory_stays_true(make_recipe: Make, bert_recipe: Make, tmp_path: Path) -> None:
    """The lower layers leave nothing for the backward pass, so they are not part of the peak.

    Unless the forward pass of a frozen encoder is the peak, as in the tiny T5 in float32: then the step takes
    less than is predicted, which is with that pass.
    """
    for name, recipe in (
        ("t5", make_recipe("train.precision=bf16", methods=DECODER)),
        ("t5-fp32", make_recipe("train.precision=fp32", methods=DECODER)),
        ("bert", bert_recipe()),
    ):
        observer = Listening()
        memory = run(recipe, recipe.methods[0], 0, tmp_path / name, observer=observer).memory
        assert observer.kept
        predicted, measured = (part.total for part in (memory.predicted, memory.measured))
        if name == "t5-fp32":
            assert measured < predicted
        else:
            assert predicted == pytest.approx(measured, rel=0.01)


class Collating:
    """As much of an encoder as is needed."""

    task = "causal-lm"

    def collate(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        pad = torch.nn.utils.rnn.pad_sequence
        ids = [torch.tensor(feature["input_ids"]) for feature in features]
        mask = pad([torch.ones_like(row) for row in ids], batch_first=True)
        padded = pad(ids, batch_first=True)
        return {
            "input_ids": padded,
            "attention_mask": mask,
            "labels": padded.masked_fill(mask == 0, -100),
        }


def upper_llama() -> tuple[AdaptedModel, list[Feature]]:
    model = AdaptedModel(tiny.model("llama"))
    tiny.perturb(model.attach("a", METHODS.get("lora")(targets=["layers.1.self_attn.q_proj"])))
    generator = torch.Generator().manual_seed(0)
    lengths = (5, 9, 3, 7, 4, 9, 6)
    return model, [{"input_ids": torch.randint(3, 48, (n,), generator=generator).tolist()} for n in lengths]


def kept_of(model: AdaptedModel, features: list[Feature], folder: Path) -> TrunkCache | None:
    encoder: Any = Collating()
    return record_trunk(model, "a", encoder, features, rows_at_once=3, folder=folder, observer=Silent())


def test_rows_come_back_in_any_company(tmp_path: Path) -> None:
    model, features = upper_llama()
    found = kept_of(model, features, tmp_path)
    assert found is not None
    inputs = []
    handle = model.base.model.layers[1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    for rows in ([4], [0, 1, 2], [6, 3], list(range(7))):
        batch = Collating().collate([features[row] for row in rows])
        with torch.no_grad():
            model.labelled_logits(batch)
            with found.replaying(rows):
                model.labelled_logits(batch)
        plain, replayed = inputs[-2:]
        seen = batch["attention_mask"].bool()
        torch.testing.assert_close(replayed[seen], plain[seen])
        assert not replayed[~seen].any()
    handle.remove()


def test_a_bfloat16_base_is_kept_in_its_type(tmp_path: Path) -> None:
    model, features = upper_llama()
    model.base.to(torch.bfloat16)
    found = kept_of(model, features, tmp_path)
    assert found is not None
    assert found._padded([1, 2]).dtype == torch.bfloat16
    assert found._kept.shape == (43, 2 * tiny.D)


def test_a_layer_that_hands_something_on_by_the_side_is_found_out(tmp_path: Path) -> None:
    """Nothing that can be seen from outside: layer 1 adds what layer 0 has left in a place of its own."""
    model, features = upper_llama()
    left: list[Tensor] = []
    first, second = model.base.model.layers
    first.mlp.register_forward_hook(lambda module, args, output: left.append(output.mean()))
    second.register_forward_pre_hook(lambda module, args: (args[0] + left[-1], *args[1:]))
    assert kept_of(model, features, tmp_path) is None


def test_an_architecture_that_breaks_is_trained_without(tmp_path: Path) -> None:
    model, features = upper_llama()
    first, second = model.base.model.layers
    left: list[Tensor] = []
    first.mlp.register_forward_hook(lambda module, args, output: left.append(output))
    second.register_forward_pre_hook(lambda module, args: (args[0] + left[-1], *args[1:]))
    assert kept_of(model, features, tmp_path) is None
    assert "forward" not in first.__dict__


def test_too_few_rows_are_not_worth_it(tmp_path: Path) -> None:
    model, features = upper_llama()
    assert kept_of(model, features[:3], tmp_path) is None
    assert kept_of(model, features[:4], tmp_path) is not None


def test_groups_are_large_or_of_one_length():
    lengths = [10] * 9 + [12] * 9 + [13] * 20 + [100, 200]
    groups = list(_groups(range(len(lengths)), lengths, 16))
    assert [row for group in groups for row in group] == list(range(len(lengths)))
    assert [len(group) for group in groups] == [16, 16, 8]
    assert [len(group) for group in _groups(range(4), [1, 5, 9, 20], 16)] == [4]
    assert [len(group) for group in _groups(range(20), [10] * 12 + [20] * 8, 16)] == [12, 8]
