"""Ranges of numbers: the points of a grid, and what a search may choose from."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from deltatune.recipe.kinds import Float, Int
from deltatune.recipe.section import Section

LARGEST = 500
"""Configurations of one entry; more are surely a slip, and `sample` takes fewer."""


class Range(Section):
    """Values from one number to another, both included."""

    start: Int | Float = Field(alias="from")
    """The first value."""
    stop: Int | Float = Field(alias="to")
    """The last value."""
    steps: Annotated[int, Strict(), Field(ge=2, le=LARGEST)]
    """How many values, the first and the last included."""
    scale: Literal["linear", "log"] = "linear"
    """Equal distances, or (log) equal ratios."""

    @model_validator(mode="after")
    def _scalable(self) -> Range:
        _check_bounds(self.start, self.stop, self.scale)
        return self

    def values(self) -> list[int | float]:
        """List the values: whole numbers if both ends are, else numbers of three significant digits.

        So a label such as `lr=0.000316` says exactly what was trained.
        """
        a, b = (math.log(end) if self.scale == "log" else end for end in (self.start, self.stop))
        points = [a + (b - a) * i / (self.steps - 1) for i in range(self.steps)]
        exact = [math.exp(point) if self.scale == "log" else point for point in points]
        if isinstance(self.start, int) and isinstance(self.stop, int):
            return list(dict.fromkeys(round(value) for value in exact))
        return list(dict.fromkeys(float(f"{value:.3g}") for value in exact))


class SearchRange(Section):
    """Numbers that a search may choose from, both ends included; whole ones if both ends are."""

    start: Int | Float = Field(alias="from")
    """The lowest."""
    stop: Int | Float = Field(alias="to")
    """The highest."""
    scale: Literal["linear", "log"] = "linear"
    """Whether equal distances or (log) equal ratios are equally likely at first."""

    @model_validator(mode="after")
    def _scalable(self) -> SearchRange:
        _check_bounds(self.start, self.stop, self.scale)
        return self


def _check_bounds(start: float, stop: float, scale: str) -> None:
    """Refuse a range that is empty, or logarithmic and not above zero."""
    if not start < stop:
        raise ValueError(f"the range from {start:g} to {stop:g} is empty: from must be less than to.")
    if scale == "log" and start <= 0:
        raise ValueError(f"a range of scale log must begin above 0, not at {start:g}.")
