"""Several splits of the same rows, one for each seed of a comparison."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from deltatune.recipe.sections import DataSpec

MOST_SPLITS = 100
Splits = Annotated[int, Strict(), Field(ge=2, le=MOST_SPLITS)]
"""How many times rows are split."""


def in_split(data: DataSpec, number: int) -> DataSpec:
    """The section for one of several splits: as it is for the first, with another shuffle for others."""
    if not number or data.split is None:
        return data
    return data.model_copy(update={"split": data.split.model_copy(update={"seed": data.split.seed + number})})
