"""A comparison whose runs are trained at once has the leaderboard of one that trains them in turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deltatune.comparison import together
from deltatune.comparison.runner import compare
from deltatune.errors import RecipeError
from deltatune.memory.fit import OVERHEAD
from deltatune.observer import Silent
from deltatune.recipe import Recipe, parse_recipe
from deltatune.results.plan import Machine
from deltatune.training import Context
from deltatune.training.before.expected_memory import predicted_run
from deltatune.training.race.lanes import Starter
from deltatune.training.race.width import width
from tests.train.test_race import StopAfter

Make = Callable[..., Recipe]
METHODS: list[Any] = [
    "untuned",
    {"lora": {"r": 2, "targets": ["all-linear"]}},
    {"lora": {"targets": ["qurey"]}, "name": "typo"},
    "prefix",
    "hard_prompt",
    {"lora": {"r": 4}, "train": {"precision": "bf16"}, "name": "lora bf16"},
]


def results(out: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in out.glob("runs/*/result.json")}


def test_the_leaderboard_is_that_of_runs_in_turn(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.precision=fp32", "seeds=[0,1]", "train.max_steps=5", methods=METHODS)
    boards = [
        compare(recipe.model_copy(update={"together": count}), tmp_path / f"{count}") for count in (1, 4)
    ]
    assert [row.name for row in boards[0].rows] == [row.name for row in boards[1].rows]
    for one, other in zip(boards[0].rows, boards[1].rows, strict=True):
        assert one.status == other.status
        assert one.rank == other.rank
        assert one.runs == other.runs
        if one.metrics:
            assert one.metrics == pytest.approx(other.metrics, rel=2e-2, abs=2e-2)
    found = results(tmp_path / "4")
    raced = {name: run["cost"]["raced"] for name, run in found.items() if run["status"] == "done"}
    assert raced == {
        "untuned-s0": 1, "untuned-s1": 1, "lora-s0": 2, "prefix-s0": 2, "hard_prompt-s0": 1,
        "lora-s1": 2, "prefix-s1": 2, "hard_prompt-s1": 1, "lora-bf16-s0": 2, "lora-bf16-s1": 2,
    }  # fmt: skip
    (note,) = [text for text in boards[1].warnings if "multi-run training" in text]
    assert note.startswith("lora, lora bf16, prefix shared steps ")
    assert not [text for text in boards[0].warnings if "multi-run training" in text]
    assert "multi-run training" in (tmp_path / "4/report.html").read_text(encoding="utf-8")
    rows = {row.name: row for row in boards[1].rows}
    assert rows["prefix"].cost.peak_memory_bytes is None


def test_an_interrupted_one_goes_on_and_may_change_its_number(make_recipe: Make, tmp_path: Path) -> None:
    methods = ["lora", {"lora": {"r": 2}, "name": "lora r2"}, "prefix"]
    recipe = make_recipe("train.precision=fp32", "seeds=[0,1]", methods=methods)
    whole = compare(recipe, tmp_path / "whole")
    for count, steps in ((3, 5), (2, 20), (6, 9)):
        other = recipe.model_copy(update={"together": count})
        with pytest.raises(KeyboardInterrupt):
            compare(other, tmp_path / "parts", observer=StopAfter(steps))
    parts = compare(recipe.model_copy(update={"together": 4}), tmp_path / "parts")
    for one, other_row in zip(whole.rows, parts.rows, strict=True):
        assert one.name == other_row.name
        assert one.metrics == pytest.approx(other_row.metrics, rel=2e-2, abs=2e-2)


def test_runs_of_one_seed_come_together(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("seeds=[0,1]", "together=3", methods=["lora", "untuned", "prefix", "ia3", "bitfit"])
    context = Context.open(recipe, Silent())
    starters = [
        Starter(e, seed, tmp_path / f"{e.name}{seed}") for e in recipe.methods for seed in recipe.seeds
    ]
    groups = [[s.out.name for s in group] for group in together._groups(context, starters)]
    assert groups == [
        ["lora0", "prefix0", "ia30"],
        ["bitfit0", "lora1", "prefix1"],
        ["ia31", "bitfit1"],
        ["untuned0"],
        ["untuned1"],
    ]
    by_rule = replace(context, recipe=recipe.model_copy(update={"together": "auto"}))
    groups = [[s.out.name for s in group] for group in together._groups(by_rule, starters)]
    assert groups[0] == ["lora0", "prefix0", "ia30", "bitfit0"]
    assert groups[1] == ["lora1", "prefix1", "ia31", "bitfit1"]


def test_the_recipe_says_how_many(make_recipe: Make) -> None:
    plain = make_recipe()
    assert plain.together == 1
    assert "together" not in plain.dump()  # so that older folders go on
    several = make_recipe("together=8")
    assert several.dump()["together"] == 8
    assert parse_recipe(several.dump()) == several
    assert make_recipe("together=auto").together == "auto"
    with pytest.raises(RecipeError, match="together"):
        make_recipe("together=0")
    with pytest.raises(RecipeError, match="together"):
        make_recipe("together=many")


def test_auto_takes_as_many_as_pay_and_fit(make_recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe("together=auto", methods=["lora", "prefix", "ia3", {"lora": {}, "name": "again"}])
    context = Context.open(recipe, Silent())
    assert width(context, recipe.methods, 0, 3) == 3
    assert width(context, recipe.methods[:1], 0, "auto") == 1
    assert width(context, recipe.methods, 0, "auto") == 4
    base = context.base(recipe.methods[0])
    steps = [predicted_run(context, e, e.build_config(), base, 0) for e in recipe.methods]
    totals = sorted((step["total"] - step["weights"] for step in steps if step), reverse=True)
    weights = max(step["weights"] for step in steps if step)
    for count in (3, 2):
        limit = OVERHEAD + weights + sum(totals[:count])
        monkeypatch.setattr(
            "deltatune.training.race.width.this_machine",
            lambda _, limit=limit: Machine(device="cpu", memory_bytes=limit),
        )
        assert width(context, recipe.methods, 0, "auto") == count
    monkeypatch.setattr(
        "deltatune.training.race.width.this_machine", lambda _: Machine(device="cpu", memory_bytes=0)
    )
    assert width(context, recipe.methods, 0, "auto") == 1
    monkeypatch.undo()
    large = make_recipe("together=auto", "train.batch_size=100", methods=["lora", "prefix"])
    assert width(context, large.methods, 0, "auto") == (2 if torch.cuda.is_available() else 1)
