"""What a plan says of a run's file is what the run writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.methods import METHODS
from deltatune.recipe import Recipe
from deltatune.recipe.baselines import TRAIN_NOTHING
from deltatune.training.before.dry_run import plan
from deltatune.training.single.run import run

# What trains nothing, or needs another base, a package, or a search: 4 bits, the bridge, hard prompts.
_NOT_HERE = {*TRAIN_NOTHING, "loftq", "peft", "hard_prompt"}


@pytest.mark.parametrize("method", [name for name in METHODS.names() if name not in _NOT_HERE])
def test_the_planned_file_is_the_written_one(
    method: str, make_recipe: Callable[..., Recipe], make_classifier: Callable[..., Recipe], tmp_path: Path
) -> None:
    make = make_classifier if method == "head" else make_recipe
    recipe = make(methods=[method])
    entry = recipe.methods[0]
    planned = plan(recipe, entry, 0)
    cost = run(recipe, entry, 0, tmp_path / "run").cost
    assert planned["stored_parameters"] == pytest.approx(cost.stored_parameters, rel=0.1)
    header = 200 * (len(planned["sites"]) + 2) * 4  # names, shapes and metadata of the file
    assert cost.file_bytes - header <= 1.1 * planned["file_bytes_about"]
    assert planned["file_bytes_about"] <= 1.1 * cost.file_bytes


def test_memory_is_measured_where_training_ends_within_the_first_epoch(
    make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe("train.max_steps=2", "train.batch_size=2")
    for seed in range(3):  # the largest batch of the epoch lies elsewhere for each
        result = run(recipe, recipe.methods[0], seed, tmp_path / f"run-{seed}")
        assert result.memory.measured.total > 0
