"""A run that several processes make is the run that one makes, to rounding."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from deltatune.core.ranks import Ranks
from deltatune.errors import RecipeError
from deltatune.recipe import Recipe
from deltatune.training import run
from deltatune.training.given.shared_run import own_folder
from tests.launched import (
    KINDS,
    TRAINED,
    dropping,
    evaluated,
    require_equal,
    several,
    train,
    train_interrupted,
    trained,
)


def train_failing(rank: int, recipe: Recipe, out: Path) -> None:
    """The same, and the second process fails in its first step."""
    if rank == 1:
        importlib.import_module("deltatune.training.loop.losses").summed_loss = lambda *_, **__: 1 / 0
    train(rank, recipe, out)


def train_each(rank: int, recipes: dict[str, Recipe], out: Path) -> dict[str, Any]:
    """Train one recipe after the other, each of one method; what went wrong, by method."""
    wrong = {}
    for name, recipe in recipes.items():
        try:
            train(rank, recipe, out / name)
        except Exception as error:
            wrong[name] = repr(error)
    return wrong


@pytest.mark.parametrize(
    "methods", [KINDS, pytest.param(TRAINED, marks=pytest.mark.slow)], ids=["kinds", "all"]
)
def test_two_processes_make_the_run_of_one(make_recipe, tmp_path, methods):
    """All in one launch, one after the other: to start processes takes longer than to train."""
    changes = ("train.micro_batch_size=2", "train.batch_size=7", "train.max_steps=3")
    recipes = {name: make_recipe(*changes, methods=[dropping(name)]) for name in methods}
    assert train_each(0, recipes, tmp_path / "one") == {}
    assert several(2, train_each, recipes, tmp_path / "two") == [{}, {}]
    for name in recipes:
        require_equal(tmp_path / "one" / name, tmp_path / "two" / name)


def train_after_failing(rank: int, recipe: Recipe, out: Path) -> None:
    """Train twice, and the first time the second process fails in its first step."""
    broken = patch("deltatune.training.loop.losses.summed_loss", side_effect=ZeroDivisionError)
    with broken if rank == 1 else contextlib.nullcontext(), contextlib.suppress(Exception):
        train(rank, recipe, out / "failing")
    train(rank, recipe, out / "next")


def test_a_run_that_fails_leaves_the_processes_fit_for_the_next(make_recipe, tmp_path):
    """A script may go on with another recipe: the next group has nothing of the one that broke."""
    recipe = make_recipe("train.micro_batch_size=4", "train.max_steps=2")
    assert several(2, train_after_failing, recipe, tmp_path) == [None, None]
    assert not (tmp_path / "failing" / "result.json").exists()
    assert (tmp_path / "next" / "result.json").exists()


def test_rows_that_share_a_loss(make_recipe, bert_folder, tmp_path):
    """Every row of a step is a negative of every other, on whichever process it is."""
    recipe = make_recipe(
        "train.micro_batch_size=2",
        task="embedding",
        model=str(bert_folder),
        methods=[dropping("lora")],
        evaluation={"batch_size": 4},
    )
    trained(recipe, tmp_path / "one")
    trained(recipe, tmp_path / "two", 2)
    require_equal(tmp_path / "one", tmp_path / "two")


def test_three_processes_with_two_micro_batches(make_classifier, tmp_path):
    """One has nothing to do in a step, and makes the same run all the same."""
    recipe = make_classifier("train.micro_batch_size=4", "train.max_steps=6", methods=["lora"])
    trained(recipe, tmp_path / "one")
    trained(recipe, tmp_path / "three", 3)
    require_equal(tmp_path / "one", tmp_path / "three")


@pytest.mark.slow
def test_interrupted_on_two_and_resumed_on_two_or_on_one_and_then_two(make_recipe, tmp_path):
    recipe = make_recipe("train.micro_batch_size=4", "train.max_steps=5", methods=["lora"])
    trained(recipe, tmp_path / "whole", 2)

    assert ["Stopped" in answer for answer in several(2, train_interrupted, recipe, tmp_path / "a")] == [
        True,
        True,
    ]
    assert (tmp_path / "a" / "resume").is_dir()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    trained(recipe, tmp_path / "a", 2, resume=True)
    require_equal(tmp_path / "whole", tmp_path / "a", exactly=True)
    (stopped,) = several(1, train_interrupted, recipe, tmp_path / "b", 1, True)
    assert "Stopped" in stopped
    trained(recipe, tmp_path / "b", 2, resume=True)
    require_equal(tmp_path / "whole", tmp_path / "b")


def test_one_that_fails_ends_the_others(make_recipe, tmp_path):
    recipe = make_recipe("train.micro_batch_size=2", methods=["lora"])

    first, second = several(2, train_failing, recipe, tmp_path / "run")
    assert first.startswith("TrainingError: ")
    assert "lost the others" in first
    assert "division by zero" in second


def test_others_copy_what_a_run_wrote_and_nothing_else(tmp_path, monkeypatch):
    """A folder that is refused may hold the user's whole data, and pipes; the states of a run are large."""
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "rows.bin").write_bytes(b"0" * 9)
    wrote = ("resume/state.json", "adapter/deltatune.json", "checkpoints/step-1/x", "result.json", "runs")
    for name in wrote:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("{}")
    os.mkfifo(tmp_path / "out" / "pipe")
    monkeypatch.setattr(Ranks, "gather", lambda self, value: [value] * self.count)
    with own_folder(Ranks(rank=1, count=2), tmp_path / "out") as mine:
        there = {path.relative_to(mine).as_posix() for path in mine.rglob("*") if path.is_file()}
        assert there == {"resume/state.json", "adapter/deltatune.json", "result.json", "runs", "data", "pipe"}
        assert (mine / "data").stat().st_size == 0
    assert not mine.exists()


@pytest.mark.parametrize("setting", ["auto_micro_batch", "base_dropout"])
def test_what_each_would_decide_by_itself_is_refused(make_recipe, tmp_path, monkeypatch, setting):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    recipe = make_recipe(f"train.{setting}=true")
    with pytest.raises(RecipeError, match=f"{setting}.*one process"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluation_is_shared(make_recipe, tmp_path):
    recipe = make_recipe("train.max_steps=2", "evaluation.batch_size=2")
    trained(recipe, tmp_path / "run")
    alone = evaluated(0, tmp_path / "run")
    first, second = several(2, evaluated, tmp_path / "run")
    assert first == second == alone


def test_a_folder_that_is_refused_is_so_by_the_first(make_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("a letter")
    first, second = several(2, train, make_recipe(methods=["lora"]), tmp_path / "run")
    assert str(tmp_path / "run") in first
    assert second == "TrainingError: process 0 of this launch cannot begin the run, and says why."
