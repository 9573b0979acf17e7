"""The rate of `train.lr: auto`: the method's own in long runs, more in short ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deltatune.errors import RecipeError
from deltatune.methods import METHODS
from deltatune.observer import Silent
from deltatune.recipe import Recipe, parse_recipe
from deltatune.recipe.choosing import TuneSpec
from deltatune.recipe.rates import LONG, MEASURED, Course, auto_rate, why
from deltatune.recipe.train_section import TrainSpec
from deltatune.training import plan, run

Make = Callable[..., Recipe]
SHORT = [name for name in METHODS.names() if METHODS.get(name).short_runs > 1]


@pytest.mark.parametrize("name", METHODS.names())
def test_shorter_runs_learn_at_no_lower_rate_within_bounds(name: str) -> None:
    method = METHODS.get(name)
    rates = [
        auto_rate(method, Course(steps, "text", 384)) for steps in (1, 10, 50, 100, 200, 400, LONG, 10 * LONG)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(method.default_lr * method.short_runs, rel=0.05)
    assert rates[-1] == rates[-2] == method.default_lr
    assert len(set(rates)) > 1 or name not in SHORT


def test_what_was_not_measured_keeps_the_methods_own_rate() -> None:
    lora = METHODS.get("lora")
    for course in (
        Course(10, "text", None),
        Course(10, "text", MEASURED + 1),
        Course(10, "images", 384),
        Course(10, "text", 384, fresh=False),
    ):
        assert auto_rate(lora, course) == lora.default_lr
        assert why(lora, course) == "lora's 0.001"
    assert why(lora, Course(10, "text", MEASURED)) == "lora's 0.001, raised for a run of 10 steps"


def test_tuning_has_it_in_the_middle() -> None:
    lora, course = METHODS.get("lora")(), Course(40, "text", 384)
    rates = [point["train.lr"] for point in TuneSpec(lr=3).points(TrainSpec(), lora, course)]
    middle = auto_rate(lora, course)
    assert rates == pytest.approx([middle / 3, middle, middle * 3], rel=0.01)
    assert middle > lora.default_lr


@pytest.fixture
def unnamed(make_recipe: Make) -> Callable[..., Recipe]:
    """A recipe that names no rate, or this one."""

    def make(**train: Any) -> Recipe:
        return make_recipe(train={"max_steps": 4, "batch_size": 8, "checkpoint_every": 1, **train})

    return make


def test_a_run_says_its_rate_and_why(unnamed: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = unnamed()
    [entry] = recipe.methods
    planned = plan(recipe, entry, 0)
    result = run(recipe, entry, 0, tmp_path / "run")
    wanted = auto_rate(METHODS.get("lora"), Course(4, "text", 64))
    assert result.rates.as_dict() == {
        "lr": wanted, "because": "lora's 0.001, raised for a run of 4 steps", "head_lr": 0.003,
    }  # fmt: skip
    assert (planned["lr"], planned["lr_because"]) == (wanted, result.rates.because)
    first = json.loads((tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["lr"] == wanted
    assert yaml.safe_load((tmp_path / "run/recipe.yaml").read_text(encoding="utf-8"))["train"]["lr"] == "auto"
    assert parse_recipe(recipe.dump()) == recipe


class Stop(Silent):
    """Interrupts a run in its second step."""

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        """Count."""
        if task == "Training" and numbers:
            self.seen = getattr(self, "seen", 0) + 1
            if self.seen == 2:
                raise KeyboardInterrupt


def test_a_run_from_before_goes_on_as_it_began_or_says_what_to_do(
    unnamed: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Its recipe.yaml has the default of then: null, the method's own rate at any number of steps."""
    before, now = unnamed(lr=None), unnamed()
    whole = run(before, before.methods[0], 0, tmp_path / "whole")
    assert (whole.rates.lr, whole.rates.because) == (1e-3, None)
    with pytest.raises(KeyboardInterrupt):
        run(before, before.methods[0], 0, tmp_path / "run", observer=Stop())
    with pytest.raises(RecipeError, match=r"go on so with --set train\.lr=null, or"):
        run(now, now.methods[0], 0, tmp_path / "run", resume=True)
    named = unnamed(lr=2e-3)
    with pytest.raises(RecipeError, match="Use the recipe it was started with"):
        run(named, named.methods[0], 0, tmp_path / "run", resume=True)
    gone_on = run(before, before.methods[0], 0, tmp_path / "run", resume=True)
    assert gone_on.metrics == whole.metrics
