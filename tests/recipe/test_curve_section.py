"""The section `curve`: what may be asked for, and how long runs on a part of the rows are."""

from __future__ import annotations

from typing import Any

import pytest

from deltatune.errors import RecipeError
from deltatune.recipe import Recipe, parse_recipe
from deltatune.recipe.curve_rules import rank_of, with_rank
from deltatune.recipe.curve_section import as_long, axis_of
from deltatune.recipe.train_section import TrainSpec


def recipe(*methods: Any, **sections: Any) -> Recipe:
    return parse_recipe(
        {
            "task": "text-to-text",
            "model": "somewhere/t5",
            "data": {"source": "rows.jsonl", "split": {"validation": 0.1, "test": 0.1}},
            "methods": list(methods) or ["lora", "prefix", "untuned"],
        }
        | sections
    )


@pytest.mark.parametrize(
    ("curve", "methods", "says"),
    [
        ({}, (), "curve needs rows or rank"),
        ({"rows": ["all"]}, (), "names no smaller number of rows"),
        ({"rows": [50, 50]}, (), "has one twice"),
        ({"rows": [0]}, (), "curve.rows"),
        ({"rows": [10], "entries": ["lore"]}, (), "is not the label of an entry. Did you mean"),
        ({"rows": [10], "entries": ["untuned"]}, (), "neither trains anything nor keeps rows"),
        ({"rank": [2], "entries": ["knn"]}, ("lora", "knn"), "is knn, which has no rank"),
        ({"rows": [10]}, ("untuned",), "needs an entry that trains something"),
        ({"rank": [2], "entries": ["prefix"]}, (), "is prefix, which has no rank. These have one: "),
        ({"rank": [2]}, ("prefix",), "none has one. These have one: lora"),
        ({"rank": [2]}, ({"lora": None, "budget": 1000},), "none has one"),
        ({"rank": [2], "entries": ["lora"]}, ({"lora": None, "budget": 1000},), "by the budget of 1000"),
        ({"rank": [0]}, (), "curve.rank"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_remedy(
    curve: dict[str, Any], methods: tuple[Any, ...], says: str
) -> None:
    with pytest.raises(RecipeError) as raised:
        recipe(*methods, curve=curve)
    assert says in str(raised.value)


def test_it_is_no_part_of_recipes_without_it_nor_of_runs() -> None:
    plain, drawn = recipe(), recipe(curve={"rows": [50, "all"], "rank": [2]})
    assert "curve" not in plain.dump()
    assert "subset" not in plain.dump()["data"]["limit"]
    assert parse_recipe(drawn.dump()) == drawn
    assert drawn.alone(drawn.methods[0], 0).curve is None
    with pytest.raises(RecipeError, match=r"cannot stand beside curve\.rows"):
        recipe(curve={"rows": [5]}, data=drawn.dump()["data"] | {"limit": {"subset": {"rows": 9}}})


def test_another_rank_keeps_the_ratio_of_what_follows_it() -> None:
    of = recipe({"lora": {"r": 8, "alpha": 16}}, "adalora")
    lora, adalora = (with_rank(entry, 4) for entry in of.methods)
    assert (lora.config["r"], lora.config["alpha"], rank_of(lora)) == (4, 8, 4)
    assert (adalora.config["init_r"], adalora.config["target_r"], rank_of(adalora)) == (4, 3, 4)


@pytest.mark.parametrize(
    ("train", "rows", "steps", "times"),
    [
        ({"epochs": 3, "batch_size": 16}, 400, 150, 3),  # as many steps as on all rows: 6 passes
        ({"epochs": 3, "batch_size": 16}, 50, 80, 3),  # 20 passes of 4 steps
        ({"epochs": 3, "batch_size": 16}, 5, 20, 3),  # fewer rows than a batch has
        ({"epochs": 30, "batch_size": 16}, 50, 120, 30),  # as many passes as the recipe makes
        ({"max_steps": 40, "batch_size": 16}, 50, 40, 1),
        ({"epochs": 3, "batch_size": 16, "evaluate_every": 10}, 400, 150, 15),
    ],
)
def test_a_part_is_trained_on_as_long_and_validated_as_often(
    train: dict[str, Any], rows: int, steps: int, times: int
) -> None:
    found = as_long(TrainSpec.model_validate(train), rows, 800)
    assert found.steps(rows) == found.max_steps == steps
    every = found.evaluate_every
    assert isinstance(every, int)
    assert -(-steps // every) == times
    assert found.checkpoint_every == every
    assert TrainSpec.model_validate(found.model_dump()) == found


def test_folders_of_curves_are_told_from_others() -> None:
    names = {"lora--rows-50-s0": "rows", "lora-r-8--rank-16-s12": "rank"}
    names |= dict.fromkeys(["lora-s0", "lora--lr-0.001-s0", "lora-rows-50-s0", "lora--trial-ab12-s0"])
    assert {name: axis_of(name) for name in names} == names
