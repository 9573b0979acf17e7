"""Runs that are trained at once are the runs that each would be alone, to rounding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deltatune.core.observer import Silent
from deltatune.recipe import Recipe
from deltatune.train import Context, run
from deltatune.train.race import Starter, race

Make = Callable[..., Recipe]
METHODS: list[Any] = [
    {"lora": {"r": 4, "targets": ["all-linear"]}},
    {"lora": {"r": 2, "dropout": 0.2}, "name": "lora dropout", "train": {"lr": 0.02}},
    {"lora": {"r": 2, "dropout": 0.1}, "name": "lora small", "train": {"batch_size": 4, "max_steps": 9}},
    {"adalora": {"interval": 2}},
    {"prefix": {"n_tokens": 3}},
    {"prompt": {"n_tokens": 5}, "train": {"lr": 0.1}},
    {"diff_pruning": {"density": 0.1}},
]


def starters(recipe: Recipe, out: Path, seeds: tuple[int, ...] = (0,)) -> list[Starter]:
    return [Starter(e, seed, out / f"{e.slug}-s{seed}") for e in recipe.methods for seed in seeds]


def alone(recipe: Recipe, out: Path, seeds: tuple[int, ...] = (0,)) -> list[dict[str, Any]]:
    context = Context.open(recipe, Silent())
    return [run(recipe, s.entry, s.seed, s.out, context=context) for s in starters(recipe, out, seeds)]


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same_run(one: Path, other: Path, tolerance: float = 1e-4) -> None:
    logs = [log_of(folder) for folder in (one, other)]
    assert len(logs[0]) == len(logs[1])
    for left, right in zip(*logs, strict=True):
        left, right = ({**line, "seconds": 0, **line.pop("validation", {})} for line in (left, right))
        assert left == pytest.approx(right, rel=tolerance, abs=tolerance)
    tensors = [load_file(folder / "adapter/adapter_model.safetensors") for folder in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensor, tensors[1][name], rtol=tolerance, atol=10 * tolerance)
    results = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in (one, other)]
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"], rel=1e-3, abs=1e-3)


def test_a_run_among_others_is_the_run_alone(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(methods=METHODS)
    alone(recipe, tmp_path / "alone", (0, 1))
    together = race(Context.open(recipe, Silent()), starters(recipe, tmp_path / "race", (0, 1)))
    for starter, result in zip(starters(recipe, tmp_path / "race", (0, 1)), together, strict=True):
        assert isinstance(result, dict), result
        print(starter.out.name, result["cost"]["raced"], result["cost"]["train_seconds"])
        assert_same_run(starter.out, tmp_path / "alone" / starter.out.name)
