"""Budgets: every method is given the size whose trained parameters come nearest, on any base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from deltatune.comparison.runner import compare
from deltatune.core.model import AdaptedModel
from deltatune.errors import RecipeError, TargetError
from deltatune.methods import METHODS
from deltatune.observer import Silent
from deltatune.recipe import Recipe, json_schema, parse_recipe
from deltatune.testing import tiny
from deltatune.training import plan, run
from deltatune.training.given.budget import budget_in_parameters, count_trained, sized_for

Make = Callable[..., Recipe]
OWN_SETTINGS: dict[str, dict[str, Any]] = {"peft": {"peft_type": "LOHA", "target_modules": ["q", "v"]}}
BUILT = [name for name in METHODS.names() if name not in ("loftq", "majority", "head")]
"""All but LoftQ, which needs a quantized base and is sized as LoRA is, and those for classifiers alone."""
SIZED = [name for name in BUILT if METHODS.get(name).size]


class Heard(Silent):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def built(config: Any, architecture: str) -> int:
    """Trained parameters, counted in the adapter as it is trained."""
    model = AdaptedModel(tiny.model(architecture))
    return sum(p.numel() for _, p in model.attach("a", config, heads=()).trainable())


@pytest.mark.parametrize("architecture", ["t5", "gpt2", "vit"])
@pytest.mark.parametrize("name", SIZED)
def test_the_nearest_size_is_chosen(name: str, architecture: str) -> None:
    method = METHODS.get(name)
    config, counts = method(**OWN_SETTINGS.get(name, {})), {}
    for size in range(1, 13):
        try:
            counts[size] = built(config.with_size(size), architecture)
        except (ValueError, TargetError):  # a size that the settings, or the base, do not allow
            continue
    view = AdaptedModel(tiny.model(architecture)).view
    least, most = min(counts.values()), max(counts.values())
    for budget in {least, least + 1, (least + most) // 2, most - 1}:
        sized, found = sized_for(config, view, budget, 10**6)
        nearest = min(counts.values(), key=lambda count: (abs(count - budget), count))
        assert found.trained == nearest == built(sized, architecture)
        assert getattr(sized, str(method.size)) == found.value
        assert counts[found.value] == nearest
        assert (found.warning is None) == (abs(nearest - budget) <= 0.05 * budget)
    with pytest.raises(RecipeError, match=f"at least {least:,}"):
        sized_for(config, view, least - 1, 10**6)


@pytest.mark.parametrize("name", BUILT)
def test_counting_leaves_no_trace(name: str) -> None:
    config = METHODS.get(name)(**OWN_SETTINGS.get(name, {}))
    model = AdaptedModel(tiny.model("t5"))
    before = torch.get_rng_state()
    assert count_trained(config, model.view) == built(config, "t5")
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.is_meta or p.requires_grad for p in model.base.parameters())


def test_shares_and_counts() -> None:
    assert budget_in_parameters(250_000, 10**6) == 250_000
    assert budget_in_parameters("0.5%", 10**6) == budget_in_parameters("0.5 %", 10**6) == 5_000


def test_what_depends_on_the_rank_follows_it() -> None:
    lora = METHODS.get("lora")(alpha=4).with_size(2).model_dump()
    assert (lora["r"], lora["alpha"]) == (2, 1.0)  # 4 was meant for the default rank 8
    assert METHODS.get("lora")(rslora=True).with_size(2).model_dump()["alpha"] == 16
    ada = METHODS.get("adalora")().with_size(6).model_dump()
    assert (ada["init_r"], ada["target_r"], ada["alpha"]) == (6, 4, 8.0)


def test_a_method_without_a_size_says_so(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(methods=["ia3", "untuned"], budget=2000)
    heard = Heard()
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=heard)
    assert [w for w in heard.warnings if w.startswith("ia3 has no size that a budget could set")]
    assert result.budget.size is None
    assert result.budget.trained == result.cost.trained_parameters
    planned = plan(recipe, recipe.methods[0], 0)
    assert any("has no size" in warning for warning in planned["warnings"])
    heard = Heard()
    assert plan(recipe, recipe.methods[1], 0, observer=heard)["budget"]["trained"] == 0
    assert not [w for w in heard.warnings if "budget" in w]


def test_a_comparison_warns_of_it(make_recipe: Make, tmp_path: Path) -> None:
    board = compare(
        make_recipe("train.max_steps=1", methods=["ia3", "untuned"], budget=2000), tmp_path / "out"
    )
    [told] = [warning for warning in board.warnings if "budget" in warning]
    assert told.startswith("ia3 has no size that a budget could set: it trains ")


def test_plan_run_result_and_file_agree(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(methods=["lora", {"adalora": {"alpha": 8}}, "prompt"], budget="8%")
    for entry in recipe.methods:
        out = tmp_path / entry.name
        planned = plan(recipe, entry, 0)
        result = run(recipe, entry, 0, out)
        assert planned["budget"] == result.budget.as_dict()
        assert planned["config"] == result.config
        assert result.config[result.budget.size] == result.budget.value
        assert result.cost.trained_parameters == result.budget.trained
        saved = json.loads((out / "adapter/deltatune.json").read_text(encoding="utf-8"))
        learned = ("rank_pattern", "init")  # what a saved delta no longer needs
        assert all(saved["config"][k] == v for k, v in result.config.items() if k not in learned)
        written = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
        again = parse_recipe(written)
        assert again.methods[0] == entry
        assert run(again, again.methods[0], 0, out, resume=True) == result
    counts = [json.loads((tmp_path / e.name / "result.json").read_text())["budget"] for e in recipe.methods]
    assert len({c["parameters"] for c in counts}) == 1


def test_entries_inherit_change_and_opt_out(make_recipe: Make) -> None:
    recipe = make_recipe(
        methods=[
            "lora",
            {"lora": None, "budget": 99, "name": "small"},
            {"lora": {"r": 3}, "budget": None, "name": "own"},
        ],
        budget="0.5%",
    )
    assert [entry.budget for entry in recipe.methods] == ["0.5%", 99, None]
    assert ["r" in entry.config for entry in recipe.methods] == [False, False, True]
    assert parse_recipe(recipe.dump()) == recipe


@pytest.mark.parametrize(
    ("entry", "setting"),
    [({"lora": {"r": 4}}, r"r \(4\)"), ({"adalora": {"target_r": 4}}, r"target_r \(4\)")],
)
def test_a_size_beside_a_budget_is_refused(make_recipe: Make, entry: Any, setting: str) -> None:
    with pytest.raises(RecipeError, match=rf"methods\.0.*{setting}.*budget of 0\.5%.*`budget: null`"):
        make_recipe(methods=[entry], budget="0.5%")


@pytest.mark.parametrize("budget", ["half", 0, -3, 0.5, "0%", "0.0 %", True, "5"])
def test_a_budget_that_is_none_is_refused_once(make_recipe: Make, budget: Any) -> None:
    with pytest.raises(RecipeError, match=r"^budget: ") as caught:
        make_recipe(methods=["lora"], budget=budget)
    assert "problems" not in str(caught.value)


def test_editors_know_budgets() -> None:
    forms = json_schema()["$defs"]["MethodEntry"]["anyOf"]
    assert all("budget" in form["properties"] for form in forms[1:])
    assert "budget" in json_schema()["properties"]
