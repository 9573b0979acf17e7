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


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def steps_of(folder: Path) -> list[dict[str, float]]:
    """Every line of the log as numbers, without times."""
    found = []
    for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        line |= line.pop("validation", {})
        line.pop("seconds", None)
        found.append(line)
    return found


def assert_same_run(one: Path, other: Path, tolerance: float = 1e-4) -> None:
    left, right = steps_of(one), steps_of(other)
    assert len(left) == len(right)
    for mine, wanted in zip(left, right, strict=True):
        assert mine == pytest.approx(wanted, rel=tolerance, abs=tolerance)
    tensors = [load_file(folder / "adapter/adapter_model.safetensors") for folder in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensor, tensors[1][name], rtol=1e-2, atol=5e-4)
    results = [read(folder / "result.json") for folder in (one, other)]
    for part in ("validation", "test"):
        assert results[0]["metrics"][part] == pytest.approx(results[1]["metrics"][part], rel=1e-3, abs=1e-3)
    assert results[0]["selected"] == results[1]["selected"]
    checks = [[(line["check"], line["passed"]) for line in result["certificate"]] for result in results]
    assert checks[0] == checks[1]


def test_a_run_among_others_is_the_run_alone(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(methods=METHODS)
    alone(recipe, tmp_path / "alone", (0, 1))
    together = race(Context.open(recipe, Silent()), starters(recipe, tmp_path / "race", (0, 1)))
    for starter, result in zip(starters(recipe, tmp_path / "race", (0, 1)), together, strict=True):
        assert isinstance(result, dict), result
        print(starter.out.name, result["cost"]["raced"], result["cost"]["train_seconds"])
        assert_same_run(starter.out, tmp_path / "alone" / starter.out.name)
