"""The section about curves: how results depend on the number of training rows, and on the rank."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from deltatune.recipe.kinds import Count, Text
from deltatune.recipe.section import Section
from deltatune.recipe.train_section import TrainSpec

PASSES = 20
"""A run on a part of the rows makes no more passes over them, unless the recipe says so."""
RANKS = ("r", "init_r")
"""Sizes of methods that are ranks."""
_RUN = re.compile(r".+--(?P<axis>rows|rank)-\d+-s-?\d+")


class CurveSpec(Section):
    """How much more rows, or a higher rank, would gain: further runs of an entry, when all others are done.

    They are trained with every seed, and judged on the same validation and test rows. They are in no ranking.
    """

    rows: Annotated[list[Count | Literal["all"]], Field(min_length=1)] | None = None
    """Numbers of training rows, such as `[50, 200, 800, all]`. Each seed draws its own; a larger number keeps
    those of a smaller one. `all` is the run that there is anyway, and belongs to the curve named or not. A
    power law is fitted to four numbers or more."""
    rank: Annotated[list[Count], Field(min_length=1)] | None = None
    """Ranks, such as `[2, 4, 8, 16]`, of a method that has one; the entry's own belongs to the curve named or
    not."""
    entries: Annotated[list[Text], Field(min_length=1)] | None = None
    """Labels of the entries whose curves are drawn: of what trains something, or keeps rows as `knn` does.
    Null: one, the smallest of those that tie for first place and train something."""

    @model_validator(mode="after")
    def _something_to_draw(self) -> CurveSpec:
        if self.rows is None and self.rank is None:
            raise ValueError("curve needs rows or rank, such as rows: [50, 200, 800, all].")
        if self.rows is not None and not self.numbers:
            raise ValueError("curve.rows ([all]) names no smaller number of rows, such as [50, 200, all].")
        for name, values in (("rows", self.rows), ("rank", self.rank), ("entries", self.entries)):
            if values is not None and len(set(values)) < len(values):
                raise ValueError(f"curve.{name} ({values}) has one twice.")
        return self

    @property
    def numbers(self) -> list[int]:
        """Numbers of rows that are named, rising."""
        return sorted(number for number in self.rows or () if number != "all")


def axis_of(folder: str) -> str | None:
    """`rows` or `rank`, of the name of a folder with a run of a curve; None of any other run."""
    found = _RUN.fullmatch(folder)
    return found["axis"] if found else None


def as_long(train: TrainSpec, rows: int, of: int) -> TrainSpec:
    """Settings of training on a part of the rows.

    A few rows need more passes than many: with the same number of passes, a curve would show how results
    depend on the number of steps. So a run makes as many steps as one on all rows, but at most `PASSES`
    passes (or the recipe's epochs, if there are more), and is validated as many times.

    Args:
        train: The settings for all rows.
        rows: How many there are.
        of: How many all are.
    """
    whole = train.steps(of)
    every = train.validates_every(of)
    times = math.ceil(whole / every)
    steps = min(whole, max(train.epochs, PASSES) * train.steps_per_epoch(rows))
    changes: dict[str, int] = {
        "epochs": math.ceil(steps / train.steps_per_epoch(rows)),
        "max_steps": steps,
        "evaluate_every": math.ceil(steps / times),
    }
    if train.checkpoint_every == "epoch":
        changes["checkpoint_every"] = changes["evaluate_every"]
    return train.model_copy(update=changes)
