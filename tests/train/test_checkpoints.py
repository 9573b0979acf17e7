"""Deltas of checkpoints that are kept: which, what they hold, and what they take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deltatune.checkpoint.saved import read_adapter
from deltatune.recipe import Recipe
from deltatune.training import run
from deltatune.training.before.forecast import forecast
from deltatune.training.loop.checkpoints import Checkpoints
from deltatune.training.loop.trainer import Trainer
from tests.train.test_disk import size

Make = Callable[..., Recipe]
KEEPING = ("train.max_steps=6", "train.epochs=9", "train.checkpoint_every=2", "train.keep_checkpoints=2")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_latest_are_kept_and_are_those_of_their_steps(make_recipe: Make, tmp_path: Path) -> None:
    steady = ("train.epochs=9", "train.schedule=constant", "train.warmup=0")
    recipe = make_recipe(*KEEPING, *steady)
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert names(tmp_path / "run") == ["step-4", "step-6"]
    shorter = make_recipe("train.max_steps=4", "train.evaluate_every=4", *steady)
    run(shorter, shorter.methods[0], 0, tmp_path / "shorter")
    kept = read_adapter(tmp_path / "run/checkpoints/step-4").tensors
    alone = read_adapter(tmp_path / "shorter/adapter").tensors
    assert kept.keys() == alone.keys()
    assert all(torch.equal(kept[key], alone[key]) for key in kept)


def test_a_run_killed_behind_its_state_has_the_checkpoint_afterwards(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(*KEEPING)
    run(recipe, recipe.methods[0], 0, tmp_path / "whole")
    add = Checkpoints.add

    def killed(kept: Checkpoints, step: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")
    monkeypatch.setattr(Checkpoints, "add", add)
    made: list[int] = []
    monkeypatch.setattr(Checkpoints, "add", lambda kept, step: (made.append(step), add(kept, step))[1])
    run(recipe, recipe.methods[0], 0, tmp_path / "run", resume=True)
    assert made == [2, 4, 6]
    for name in names(tmp_path / "whole"):
        files = [
            tmp_path / at / "checkpoints" / name / "adapter_model.safetensors" for at in ("run", "whole")
        ]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_what_lies_beside_them_is_left_alone(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "deltatune.json").touch()

    (tmp_path / "c/step-1").mkdir(parents=True)  # somebody's, without our file
    (tmp_path / "c/notes.txt").touch()
    kept = Checkpoints(tmp_path / "c", 1, write)
    for step in (9, 10, 11):
        kept.add(step)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["notes.txt", "step-1", "step-11"]
    Checkpoints(tmp_path / "none", 0, write).add(3)
    assert not (tmp_path / "none").exists()


def test_the_disk_holds_no_more_than_was_planned(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(*KEEPING)
    planned, held = forecast(recipe).planned[0].disk, [0]
    save = Trainer.save

    def saving(trainer: Trainer) -> None:
        save(trainer)
        held.append(size(trainer.out))

    monkeypatch.setattr(Trainer, "save", saving)
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert max(held) <= planned.most
    assert size(tmp_path / "run") <= planned.left
    assert planned.checkpoints == 2 * planned.delta
    assert size(tmp_path / "run/checkpoints") >= planned.checkpoints
