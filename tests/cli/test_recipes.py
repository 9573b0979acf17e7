"""The recipes that come with the project are valid, and each says how to run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltatune.recipe import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_there_are_recipes_for_every_task_of_the_study() -> None:
    tasks = {load_recipe(path).task for path in RECIPES}
    of_text = {"text-to-text", "text-classification", "text-regression", "conversation"}
    assert tasks >= {*of_text, "multi-label-classification", "image-classification"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_explained(path: Path) -> None:
    recipe = load_recipe(path)
    command = "train" if len(recipe.methods) == 1 else "compare"
    assert f"deltatune {command} recipes/{path.name}" in path.read_text(encoding="utf-8")
    if command == "compare":
        assert recipe.methods[0].method == "untuned", "without the untuned base nobody sees what tuning gave"
