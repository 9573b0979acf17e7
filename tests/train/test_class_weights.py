"""`train.class_weights`: the weighted mean of torch, whatever a step is made of."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from deltatune.core.loss import summed_loss, weight_of
from deltatune.core.model import AdaptedModel
from deltatune.errors import DataError, RecipeError
from deltatune.observer import Silent
from deltatune.recipe import Recipe, parse_recipe
from deltatune.results import RunResult
from deltatune.tasks import TASKS
from deltatune.tasks.classes import class_weights
from deltatune.testing import tiny
from deltatune.training import Context, run
from deltatune.training.race.lanes import Starter
from deltatune.training.race.race import race

from ..tiny_recipe import WORDS

Make = Callable[..., Recipe]
TASK = "text-classification"


def steps(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter/adapter_model.safetensors")


def assert_same(one: Path, other: Path) -> None:
    assert steps(one) == pytest.approx(steps(other), rel=1e-5)
    for name, tensor in tensors(one).items():
        torch.testing.assert_close(tensor, tensors(other)[name], rtol=1e-3, atol=1e-5)


def test_the_mean_of_a_batch_is_torchs() -> None:
    """Transformers' own classes, too, take the mean of `cross_entropy`: over weights, not over rows."""
    model = AdaptedModel(tiny.model("bert"), tiny.heads("bert"))
    batch = tiny.batch("bert")
    classes = model.class_logits(batch).shape[1]
    batch["labels"] = torch.arange(len(batch["input_ids"])) % classes
    weights = torch.rand(classes) + 0.1
    found = summed_loss(model, batch, TASK, weights=weights) / weight_of(batch, TASK, weights)
    wanted = functional.cross_entropy(model.class_logits(batch), batch["labels"], weights)
    torch.testing.assert_close(found, wanted)
    assert weight_of(batch, TASK, None) == len(batch["labels"])


def test_balanced_is_scikit_learns() -> None:
    rows = {"a": 70, "b": 20, "c": 10}
    targets = [label for label, count in rows.items() for _ in range(count)]
    wanted = compute_class_weight("balanced", classes=np.array(["c", "a", "b"]), y=targets)
    assert class_weights("balanced", ["c", "a", "b"], rows) == pytest.approx(list(wanted))
    assert class_weights({"b": 3}, ["c", "a", "b"], rows) == [1.0, 1.0, 3.0]
    assert class_weights(None, ["a"], rows) is None
    assert class_weights("balanced", ["a", "b", "none"], rows)[2] == 1.0  # of a limit that left it no rows


def test_a_step_is_the_same_in_any_micro_batches_and_among_others(
    make_classifier: Make, tmp_path: Path
) -> None:
    weighted = {"class_weights": dict.fromkeys(WORDS[:4], 9.0)}
    methods = [
        {"lora": {"r": 2}, "name": "weighted", "train": weighted},
        {"lora": {"r": 2}, "name": "plain"},
        {"lora": {"r": 2}, "name": "in parts", "train": {**weighted, "micro_batch_size": 3}},
    ]
    recipe = make_classifier(methods=methods)
    context = Context.open(recipe, Silent())
    alone = {entry.name: tmp_path / entry.slug for entry in recipe.methods}
    for entry in recipe.methods:
        run(recipe, entry, 0, alone[entry.name], context=context)
    assert_same(alone["in parts"], alone["weighted"])
    assert steps(alone["plain"])[1] != pytest.approx(steps(alone["weighted"])[1], rel=1e-3)
    starters = [Starter(entry, 0, tmp_path / f"race-{entry.name}") for entry in recipe.methods[:2]]
    race(context, starters)
    for name in ("weighted", "plain"):
        assert_same(tmp_path / f"race-{name}", alone[name])


class StopAfter(Silent):
    """Presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        self.left -= bool("Training" in task and numbers)
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.predicts
def test_evaluation_is_not_weighted_and_memory_and_resuming_are_as_ever(
    make_classifier: Make, tmp_path: Path
) -> None:
    recipe = make_classifier("train.class_weights=balanced", "train.max_steps=3")
    entry, delta = recipe.methods[0], "adapter/adapter_model.safetensors"
    result = run(recipe, entry, 0, tmp_path / "whole")
    assert isinstance(result, RunResult)
    lines = (tmp_path / "whole/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert result.metrics.test["loss"] == pytest.approx(sum(row["nll"] for row in rows) / len(rows))
    assert result.memory.predicted.total == pytest.approx(result.memory.measured.total, rel=0.01)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, entry, 0, tmp_path / "parts", observer=StopAfter(2))
    run(recipe, entry, 0, tmp_path / "parts", resume=True)
    assert (tmp_path / "parts" / delta).read_bytes() == (tmp_path / "whole" / delta).read_bytes()
    assert steps(tmp_path / "parts") == steps(tmp_path / "whole")
    other = make_classifier("train.class_weights={medals: 2}", "train.max_steps=3")
    with pytest.raises(RecipeError, match="train"):
        run(other, other.methods[0], 0, tmp_path / "parts", resume=True)


def test_a_loss_of_its_own_is_not_weighted() -> None:
    class Own(type(TASKS.get(TASK))):  # type: ignore[misc]
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return outputs.sum()

    assert TASKS.get(TASK).weighs_classes
    assert TASKS.get("image-classification").weighs_classes
    assert not Own().weighs_classes
    assert not TASKS.get("text-regression").weighs_classes


def test_weights_may_be_an_axis(make_classifier: Make) -> None:
    grid = make_classifier(
        methods=[{"lora": {}, "grid": {"train.class_weights": [None, "balanced", {"medals": 2.0}]}}]
    )
    assert [e.train.class_weights for e in grid.methods] == [None, "balanced", {"medals": 2.0}]
    assert len({entry.name for entry in grid.methods}) == 3
    assert parse_recipe(grid.dump()) == grid


def test_weights_are_written_where_they_are_given(make_classifier: Make) -> None:
    """A recipe without them is written as it was before there were any."""
    assert "class_weights" not in make_classifier().dump()["train"]
    entries = [{"lora": {}, "name": "a"}, {"lora": {}, "name": "b", "train": {"class_weights": None}}]
    both = make_classifier("train.class_weights={medals: 2}", methods=entries)
    assert [entry.train.class_weights for entry in both.methods] == [{"medals": 2.0}, None]
    own = make_classifier(methods=[{"lora": {}, "train": {"class_weights": "balanced"}}, "prefix"])
    for recipe in (both, own):
        assert parse_recipe(recipe.dump()) == recipe


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"medal": 2.0}, "Did you mean 'medals'?"),
        ({1: 2.0}, "'1' is none of the data's classes"),
        ({True: 2.0}, "'True' is none of the data's classes"),
    ],
)
def test_names_that_no_class_has_are_refused(make_classifier: Make, value: Any, said: str) -> None:
    recipe = make_classifier(methods=[{"lora": {}, "train": {"class_weights": value}}])
    with pytest.raises(DataError) as caught:
        Context.open(recipe, Silent())
    assert said in str(caught.value)
    assert caught.value.field == "methods.0.train.class_weights"


@pytest.mark.parametrize(
    "value",
    ["balance", {"medals": 0}, {"medals": -1.0}, {"medals": float("inf")}, {"medals": "2"}, 3, {"": 1.0}],
)
def test_what_is_no_weight_is_refused(make_classifier: Make, value: Any) -> None:
    with pytest.raises(RecipeError, match="class_weights"):
        make_classifier(methods=[{"lora": {}, "train": {"class_weights": value}}])


def test_tasks_without_classes_have_no_use_for_weights(make_recipe: Make) -> None:
    for where in (
        {"train": {"class_weights": "balanced"}},
        {"methods": [{"lora": {}, "train": {"class_weights": {"a": 1.0}}}]},
    ):
        with pytest.raises(RecipeError, match="no classes"):
            make_recipe(**where)
    with pytest.raises(RecipeError, match=r"evaluation\.positive"):
        make_recipe("evaluation.positive=medals")
