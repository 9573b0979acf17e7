"""What `plan` says of the disk is what runs write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.recipe import Recipe
from deltatune.training import run
from deltatune.training.before.disk import runs_of
from deltatune.training.before.forecast import forecast
from deltatune.training.loop.trainer import Trainer

Make = Callable[..., Recipe]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("method", ["adalora", "full", "untuned"])
def test_runs_write_what_was_planned(
    method: str, make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"target_r": 2, "init_r": 3} if method == "adalora" else {}
    recipe = make_recipe(methods=[{method: settings}])
    found = forecast(recipe)
    disk, states = found.planned[0].disk, [0]
    save = Trainer.save

    def saving(trainer: Trainer) -> None:
        save(trainer)
        states.append(size(trainer.resume_folder))

    monkeypatch.setattr(Trainer, "save", saving)
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert 0 <= disk.state + 100_000 - max(states) <= 100_000 + 0.1 * disk.state
    assert max(states) - 60_000 <= disk.state
    assert size(tmp_path / "run/adapter") <= 1.3 * disk.delta + 60_000
    assert (tmp_path / "run/predictions.jsonl").stat().st_size <= disk.predictions
    assert size(tmp_path / "run") <= disk.left
    assert disk.most == disk.left + 2 * disk.state + disk.kept
    assert found.disk.runs == 1


def test_all_runs_of_a_comparison(make_recipe: Make) -> None:
    recipe = make_recipe(methods=["untuned", "lora"], seeds=[0, 1], tune={"lr": [0.001, 0.01, 0.1]})
    untuned, lora = recipe.methods
    assert (runs_of(recipe, untuned), runs_of(recipe, lora)) == (2, 4)
    found = forecast(recipe)
    of_untuned, of_lora = (entry.disk for entry in found.planned)
    assert found.disk.runs == 6
    assert found.disk.left == 2 * of_untuned.left + 4 * of_lora.left
    assert found.disk.most - found.disk.left == 5 * of_lora.state + of_lora.kept
    assert of_untuned.state == of_untuned.kept == 0


def test_frozen_layers_may_take_a_file(make_recipe: Make) -> None:
    recipe = make_recipe(
        methods=[{"lora": {"targets": ["decoder.query"]}}, {"name": "all", "method": "lora"}]
    )
    below, without = (entry.disk.kept for entry in forecast(recipe).planned)
    assert below > 0
    assert without == 0
