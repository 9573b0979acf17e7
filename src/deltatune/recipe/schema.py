"""The recipe: one validated description of what to train on what, and how to judge it."""

from __future__ import annotations

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from deltatune.recipe.axes import slug
from deltatune.recipe.base_sections import ModelSpec
from deltatune.recipe.entry import ENTRY_KEYS, MethodEntry
from deltatune.recipe.fields import RecipeFields
from deltatune.recipe.rules import find_conflicts
from deltatune.recipe.sections import DataSpec, EvaluationSpec
from deltatune.recipe.spaces import readings_of
from deltatune.recipe.train_section import TrainSpec

__all__ = [
    "ENTRY_KEYS",
    "DataSpec",
    "EvaluationSpec",
    "MethodEntry",
    "ModelSpec",
    "Recipe",
    "TrainSpec",
    "slug",
]


class Recipe(RecipeFields):
    """Everything that determines a comparison, or with one method and one seed, a run."""

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> Recipe:
        if conflicts := find_conflicts(self):
            raise PydanticCustomError(
                "conflicts", "{count} conflicts", {"count": len(conflicts), "list": conflicts}
            )
        return self

    @property
    def readings(self) -> list[DataSpec]:
        """The different ways in which entries read the rows, in their order."""
        return list(dict.fromkeys(data for entry in self.methods for data in readings_of(self, entry)))
