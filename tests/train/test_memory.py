"""A run measures its memory beside what was predicted, and is not altered by that."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deltatune.core.loss import summed_loss
from deltatune.errors import TrainingError
from deltatune.memory.fit import OVERHEAD
from deltatune.memory.predict import Setup
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.recipe.train_section import TrainSpec
from deltatune.results.plan import Machine
from deltatune.training import Context, run
from deltatune.training.before.forecast import forecast
from deltatune.training.before.machine_speed import MachineSpeed
from deltatune.training.loop.micro_batches import out_of_memory_explained, try_batch
from deltatune.training.loop.trainer import Trainer

pytestmark = pytest.mark.predicts
begin_module: Any = importlib.import_module("deltatune.training.single.begin")
predicted_module: Any = importlib.import_module("deltatune.training.before.expected_memory")


class Listening(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_holds_predicted_beside_measured(
    make_recipe: Callable[..., Recipe], tmp_path: Path, method: str
) -> None:
    recipe = make_recipe(f"methods=[{method}]", "train.micro_batch_size=4", "train.epochs=1")
    memory = run(recipe, recipe.methods[0], 0, tmp_path / "run").memory
    assert memory.measured.kind == "tensors"
    assert memory.predicted.total == pytest.approx(memory.measured.total, rel=0.01)
    assert memory.predicted.weights == memory.measured.weights
    assert memory.predicted.optimizer == memory.measured.optimizer > 0


@pytest.mark.parametrize("method", ["lora", "full"])
def test_of_a_causal_model_whose_rows_have_targets_of_several_lengths(
    make_recipe: Callable[..., Recipe], llama_folder: Path, tmp_path: Path, method: str
) -> None:
    recipe = make_recipe(f"methods=[{method}]", "train.epochs=1", task="causal-lm", model=str(llama_folder))
    memory = run(recipe, recipe.methods[0], 0, tmp_path / "run").memory
    assert memory.predicted.total == pytest.approx(memory.measured.total, rel=0.01)


def test_an_untuned_run_has_nothing_to_measure(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe("methods=[untuned]")
    memory = run(recipe, recipe.methods[0], 0, tmp_path / "run").memory
    assert memory.as_dict() == {"predicted": None, "measured": None}


def test_the_measured_step_is_like_the_others(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("methods=[{lora: {dropout: 0.1}}]", "train.base_dropout=true", "train.epochs=1")
    run(recipe, recipe.methods[0], 0, tmp_path / "measured")
    monkeypatch.setattr("deltatune.training.loop.step_memory.StepMemory._due", lambda *_: False)
    other = run(recipe, recipe.methods[0], 0, tmp_path / "plain")
    assert other.memory.measured is None
    tensors = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("measured", "plain")]
    assert tensors[0].read_bytes() == tensors[1].read_bytes()


def test_a_plan_needs_no_weights(make_recipe: Callable[..., Recipe], t5_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "config-only"
    folder.mkdir()
    for path in t5_folder.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    recipe = make_recipe(
        "methods=[lora, {vera: {targets: [nowhere]}}]", f"model={folder}", "train.micro_batch_size=4"
    )
    found = forecast(recipe, memory=2**30 + 2_000_000)
    lora, refused = found.entries
    assert "nowhere" in refused.error
    assert found.lengths == "data"
    assert lora.steps == 8
    assert lora.fits == (lora.memory.total <= 2_000_000)
    assert lora.proposal is not None
    assert lora.trained_parameters == 12 * 8 * 64


def test_steps_that_do_not_fit_into_the_time_are_left_out(
    make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpointing, which the memory asks for, makes the steps longer and their number smaller."""
    recipe = make_recipe("methods=[full]", "train.micro_batch_size=4")
    setups = []

    def rate(rates: MachineSpeed, setup: Setup) -> float:
        setups.append(setup)
        return 1e6

    monkeypatch.setattr(MachineSpeed, "of", rate)
    (plain,) = forecast(recipe, memory=2**40, calibrate=True).planned
    assert plain.proposal.settings == {}
    assert plain.seconds == plain.steps * plain.step_seconds
    enough = plain.seconds
    (same,) = forecast(recipe, memory=2**40, seconds=1.01 * enough).planned
    assert same.proposal.settings == {}
    (fewer,) = forecast(recipe, memory=2**40, seconds=enough / 2).planned
    assert fewer.proposal.settings == {"train.max_steps": plain.steps // 2}
    assert fewer.steps_in_time == plain.steps // 2
    tight = plain.memory.total + OVERHEAD - 1
    monkeypatch.setattr("deltatune.memory.fit._in_micro_batches", lambda setup, rows: setup)
    (slower,) = forecast(recipe, memory=tight, seconds=1.01 * enough).planned
    assert slower.proposal.settings == {
        "train.gradient_checkpointing": True,
        "train.max_steps": int(1.01 * enough / slower.proposal.step_seconds),
    }
    assert slower.proposal.step_seconds > plain.step_seconds
    assert setups[-1].checkpointing


def test_trying_the_largest_batch_first_alters_nothing(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("methods=[{lora: {dropout: 0.1}}]", "train.base_dropout=true", "train.epochs=1")
    tried = []

    def try_largest(trainer: Trainer) -> None:
        batch = trainer.encoder.collate([trainer.train.features[row] for row in trainer._largest.rows])
        try_batch(trainer.model, trainer.adapter, batch, "text-to-text", autocast=False)
        tried.append(batch["input_ids"].shape)

    run(recipe, recipe.methods[0], 0, tmp_path / "plain")
    monkeypatch.setattr(Trainer, "_try_largest", try_largest)
    run(recipe, recipe.methods[0], 0, tmp_path / "tried")
    assert len(tried) == 1
    tensors = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("plain", "tried")]
    assert tensors[0].read_bytes() == tensors[1].read_bytes()


def test_running_out_of_memory_says_what_to_change() -> None:
    spec = TrainSpec(batch_size=8, gradient_checkpointing=True)
    with pytest.raises(TrainingError) as raised, out_of_memory_explained(spec, quantized=False):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
    message = str(raised.value)
    assert "micro_batch_size=4 (the same result), or train.auto_micro_batch=true, or quantization" in message
    assert "deltatune plan" in message
    assert "gradient_checkpointing" not in message


def test_halved_micro_batches_train_as_if_they_had_been_asked_for(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory "runs out" in the middle of a step, with gradients and dropout masks of its first half made."""
    shared = ("train.batch_size=8", "train.max_steps=3")
    methods = [{"lora": {"dropout": 0.2}}]
    asked = make_recipe(*shared, "train.micro_batch_size=2", methods=methods)
    run(asked, asked.methods[0], 0, tmp_path / "asked")
    sizes: list[int] = []

    def scarce(model: Any, batch: dict[str, Tensor], *arguments: Any, **options: Any) -> Tensor:
        sizes.append(len(batch["labels"]))
        if sizes in ([8], [8, 4, 4]):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return summed_loss(model, batch, *arguments, **options)

    monkeypatch.setattr("deltatune.training.loop.losses.summed_loss", scarce)
    observer = Listening()
    automatic = make_recipe(*shared, "train.auto_micro_batch=true", methods=methods)
    result = run(automatic, automatic.methods[0], 0, tmp_path / "automatic", observer=observer)
    assert sizes[:3] == [8, 4, 4]
    assert set(sizes[3:]) == {2}
    assert [text for text in observer.warnings if "memory ran out" in text] == [
        "The GPU's memory ran out; from now on it gets 4 rows at once.",
        "The GPU's memory ran out; from now on it gets 2 rows at once.",
    ]
    assert result.cost.micro_batch_size == 2
    assert result.memory.predicted is None
    tensors = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("asked", "automatic")]
    assert tensors[0].read_bytes() == tensors[1].read_bytes()


def test_a_row_that_does_not_fit_ends_the_run(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*arguments: Any, **options: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("deltatune.training.loop.losses.summed_loss", none)
    recipe = make_recipe("train.auto_micro_batch=true", methods=["lora"])
    with pytest.raises(TrainingError, match="with 1 rows at once"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")


@pytest.mark.parametrize("memory", [2**31, 2**36])
def test_where_memory_is_ample_nothing_is_predicted(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    order = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: order.append(name) or function(*args, **options)

    monkeypatch.setattr(
        predicted_module, "this_machine", lambda _: Machine(device="cpu", memory_bytes=memory)
    )
    monkeypatch.setattr(begin_module, "ample_memory", predicted_module.ample_memory)
    monkeypatch.setattr(begin_module, "predicted_run", noted("predicted", begin_module.predicted_run))
    monkeypatch.setattr(Trainer, "_step", noted("step", Trainer._step))
    monkeypatch.setattr(predicted_module, "COPIES", 10_000)  # as if the tiny base were a larger one
    recipe = make_recipe("methods=[lora]", "train.epochs=1")
    found = run(recipe, recipe.methods[0], 0, tmp_path / "run").memory
    assert found.measured.total > 0
    if memory == 2**36:
        assert "predicted" not in order
        assert found.predicted is None
    else:
        assert order.count("predicted") == 1
        assert order[0] == "predicted"
        assert found.predicted.total == pytest.approx(found.measured.total, rel=0.01)


@pytest.mark.parametrize(("task", "method"), [("text-to-text", "full"), ("causal-lm", "lora")])
def test_ample_memory_is_many_times_what_a_step_takes(
    make_recipe: Callable[..., Recipe], llama_folder: Path, tmp_path: Path, task: str, method: str
) -> None:
    options: dict[str, Any] = {"task": task}
    if task == "causal-lm":
        options["model"] = str(llama_folder)
    recipe = make_recipe(f"methods=[{method}]", "train.epochs=1", "train.precision=fp32", **options)
    [entry], context = recipe.methods, Context.open(recipe, Silent())
    most = predicted_module.at_most(context, entry, context.base(entry), 0)
    predicted = predicted_module.predicted_run(context, entry, entry.build_config(), context.base(entry), 0)
    assert most > 2 * predicted["total"]
