"""Recipes: one YAML file that says what to train on what, and how to judge it."""

from __future__ import annotations

from deltatune.recipe.base_sections import ModelSpec
from deltatune.recipe.json_schema import json_schema
from deltatune.recipe.load import apply_override, load_recipe, parse_recipe
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.sections import ColumnsSpec, DataSpec, EvaluationSpec, LimitSpec, SplitSpec
from deltatune.recipe.train_section import TrainSpec

__all__ = [
    "ColumnsSpec",
    "DataSpec",
    "EvaluationSpec",
    "LimitSpec",
    "MethodEntry",
    "ModelSpec",
    "Recipe",
    "SplitSpec",
    "TrainSpec",
    "apply_override",
    "json_schema",
    "load_recipe",
    "parse_recipe",
]
