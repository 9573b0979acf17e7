"""The sections of a recipe that choose settings: tuning of learning rates, and early stopping of losers.

All of it looks at validation rows and at the first seed only. What is chosen is then trained with every
seed and judged on the test rows, so the choice cannot have seen them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, Strict, model_validator

from deltatune.recipe.sections import Count, Section

if TYPE_CHECKING:
    from deltatune.recipe.rules import Conflict
    from deltatune.recipe.schema import Recipe

Rate = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]


class TuneSpec(Section):
    """The same tuning budget for every entry that trains: the best of N learning rates, on validation rows.

    The rates are tried with the first of `seeds` and judged by `evaluation.select_by`. The best is trained
    with every seed and reported on the test rows; the others never see a test row.
    """

    lr: Annotated[int, Strict(), Field(ge=2, le=20)] | list[Rate]
    """How many rates: each entry's own (or its method's default) and its neighbours on a logarithmic grid,
    one more below than above if the number is even. Or a list: the rates that every entry tries."""
    factor: Annotated[float, Strict(), Field(gt=1, le=100)] = 3.0
    """Ratio of neighbouring rates, when `lr` is a number."""

    @model_validator(mode="after")
    def _several(self) -> TuneSpec:
        if isinstance(self.lr, list) and len(set(self.lr)) < max(2, len(self.lr)):
            raise ValueError(f"tune.lr ({self.lr}) must hold at least two rates, each once.")
        return self

    def rates(self, center: float) -> list[float]:
        """List the rates to try, from low to high.

        Args:
            center: The entry's own learning rate, which is one of them unless the recipe lists its own.
        """
        if isinstance(self.lr, list):
            return sorted(self.lr)
        below = self.lr // 2
        return [
            float(f"{center * self.factor**power:.3g}") if power else center
            for power in range(-below, self.lr - below)
        ]


class HalvingSpec(Section):
    """Early stopping of losers by successive halving (Jamieson and Talwalkar 2016).

    Configurations are trained to a small share of their steps and compared on the validation rows; the best
    part goes on, to a larger share, and so on. It saves steps and it can be wrong: a configuration that
    starts slowly and would have won is lost. Decisions are taken at the first validation after the share is
    reached, so `train.evaluate_every` must be fine enough. A configuration whose method has a schedule that
    is not at its end (AdaLoRA's budget) is not judged, and goes on.
    """

    factor: Annotated[int, Strict(), Field(ge=2, le=10)] = 3
    """One in so many goes on from a decision."""
    rungs: Annotated[int, Strict(), Field(ge=1, le=6)] = 2
    """Number of decisions: the last at 1/factor of the steps, the one before it at 1/factor^2, ..."""
    finish: Count = 1
    """At least so many of those that compete are trained to the end."""
    among: Literal["entry", "all"] = "entry"
    """Who competes: `entry`, the configurations (grid points and tuned rates) of one entry of the recipe, so
    that every entry is in the ranking; `all`: everything that trains, so that methods may drop out."""

    def shares(self) -> list[float]:
        """Shares of a run's steps at which decisions are taken."""
        return [self.factor**-power for power in range(self.rungs, 0, -1)]


def choosing_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Check what chooses settings against the rest of the recipe."""
    tune, halving, split = recipe.tune, recipe.halving, recipe.data.split
    unvalidated = not recipe.data.validation and split is not None and split.validation == 0
    for field, section in (("tune", tune), ("halving", halving)):
        if section is not None and unvalidated:
            yield field, "needs validation rows, but data.split.validation is 0."
    if tune is not None and isinstance(tune.lr, list):
        for index, entry in enumerate(recipe.methods):
            if entry.train.lr is not None and entry.train.lr != recipe.train.lr:
                yield (
                    f"methods.{index}.train.lr",
                    "stands beside tune.lr, a list of the rates for every entry; "
                    "take it out, or give tune.lr as a number of rates around each entry's own.",
                )
    if halving is not None and halving.among == "entry" and tune is None:
        groups = [entry.group for entry in recipe.methods if entry.group]
        if len(groups) == len(set(groups)):
            yield (
                "halving",
                "has nothing to choose between: write a grid, tune: {lr: 4}, or halving: {among: all}.",
            )
