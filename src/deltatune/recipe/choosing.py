"""The sections of a recipe that choose settings: tuning of learning rates, search, early stopping of losers.

All of it looks at validation rows and at the first seed only. What is chosen is then trained with every
seed and judged on the test rows, so the choice cannot have seen them. It is for comparisons; a single run
(`deltatune train`) is trained as its entry says.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, Strict, model_validator

from deltatune.errors import RecipeError
from deltatune.recipe.kinds import Count, Int, Text
from deltatune.recipe.messages import parse_section
from deltatune.recipe.ranges import SearchRange
from deltatune.recipe.rates import Course
from deltatune.recipe.section import Section
from deltatune.recipe.train_section import TUNED, TrainSpec

if TYPE_CHECKING:
    from deltatune.core.method import MethodConfig

AUTO = "auto"
MOST_RUNGS = 2
"""Decisions of `halving: auto` where time does not press: what two keep is known (docs/adr)."""
FIRST_STEPS = 8
"""Steps before the first decision of `halving: auto`: six said nothing of who wins, eight did (docs/adr)."""
Together = Annotated[int, Strict(), Field(ge=1, le=64)] | Literal["auto"]
"""Runs that are trained at once."""
Rate = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]


Rates = Annotated[int, Strict(), Field(ge=2, le=20)] | list[Rate]


class TuneSpec(Section):
    """The same tuning budget for every entry that trains: the best of N learning rates, on validation rows.

    The rates are tried with the first of `seeds` and judged by `evaluation.select_by`. The best is trained
    with every seed and reported on the test rows; the others never see a test row. With both `lr` and
    `head_lr` every pair is tried. Of `head`, which trains a head alone, `lr` means that head's rate.
    """

    lr: Rates | None = None
    """How many rates: each entry's own (or its method's, `train.lr`) and its neighbours on a logarithmic
    grid, one more below than above if the number is even. Or a list: the rates that every entry tries."""
    head_lr: Rates | None = None
    """As `lr`, for the new head of a classifier."""
    factor: Annotated[float, Strict(), Field(gt=1, le=100)] = 3.0
    """Ratio of neighbouring rates, when `lr` or `head_lr` is a number."""

    @model_validator(mode="after")
    def _several(self) -> TuneSpec:
        if self.lr is None and self.head_lr is None:
            raise ValueError("tune needs lr or head_lr: a number of rates, or a list of them.")
        for name in TUNED:
            rates = getattr(self, name)
            if isinstance(rates, list) and len(set(rates)) < max(2, len(rates)):
                raise ValueError(f"tune.{name} ({rates}) must hold at least two rates, each once.")
        return self

    @property
    def tries(self) -> int:
        """How many configurations of an entry are tried."""
        axes = [axis for name in TUNED if (axis := getattr(self, name)) is not None]
        return math.prod(axis if isinstance(axis, int) else len(axis) for axis in axes)

    def points(self, train: TrainSpec, method: MethodConfig, course: Course) -> list[dict[str, float]]:
        """List what is tried for an entry, field -> rate, the first field's lowest first.

        Args:
            train: The entry's settings, whose rates are tried among others unless the recipe lists its own.
            method: The entry's.
            course: Of its runs.
        """
        centers = {"lr": train.peak_lr(method, course), "head_lr": train.peak_head_lr(method, course)}
        rates: dict[str, list[float]] = {}
        for name in TUNED:
            axis, learns_at = getattr(self, name), method.rate if name == "lr" else name
            if axis is not None:
                rates[f"train.{learns_at}"] = self._rates(axis, centers[learns_at])
        return [dict(zip(rates, point, strict=True)) for point in itertools.product(*rates.values())]

    def _rates(self, axis: int | list[float], center: float) -> list[float]:
        if isinstance(axis, list):
            return sorted(axis)
        below = axis // 2
        return [
            float(f"{center * self.factor**power:.3g}") if power else center
            for power in range(-below, axis - below)
        ]


class HalvingSpec(Section):
    """Early stopping of losers by successive halving (Jamieson and Talwalkar 2016).

    Configurations are trained to a small share of their steps and compared on the validation rows; the best
    part goes on, to a larger share, and so on. It saves steps and it can be wrong: a configuration that
    starts slowly and would have won is lost. Decisions are taken at the first validation after the share is
    reached, so `train.evaluate_every` must be fine enough. A configuration whose method has a schedule that
    is not at its end (AdaLoRA's budget) is not judged, and goes on.

    `halving: auto` means `{rungs: auto}`: of nine configurations or more, a third goes on from a ninth of the
    steps, and a third of these from a third; of fewer, a third goes on from a third of the steps. At least
    two go on. Nobody is stopped within the first eight steps or, without `budget_time`, while losses jump. Of
    30 configurations, all together take 27 % of the steps; of eight 58 %.
    """

    factor: Annotated[int, Strict(), Field(ge=2, le=10)] = 3
    """One in so many goes on from a decision."""
    rungs: Annotated[int, Strict(), Field(ge=1, le=6)] | Literal["auto"] = 1
    """Number of decisions: the last at 1/factor of the steps, the one before it at 1/factor^2, ... Early ones
    save more, and are wrong more often. `auto`: two among nine configurations or more, else one; with
    `budget_time` as many as it needs."""
    finish: Count = 1
    """At least so many of those that compete are trained to the end; with `rungs: auto` two."""
    among: Literal["entry", "all"] = "entry"
    """Who competes: `entry`, the configurations (grid points and tuned rates) of one entry of the recipe, so
    that every entry is in the ranking; `all`: everything that trains, so that methods may drop out."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        value = {"rungs": value} if value == AUTO else value
        is_auto = isinstance(value, dict) and value.get("rungs") == AUTO
        return {"finish": 2, **value} if is_auto else value

    @property
    def auto(self) -> bool:
        """Whether the number of decisions is found out."""
        return self.rungs == AUTO

    def kept(self, count: int) -> int:
        """How many of so many go on from a decision."""
        return min(count, max(self.finish, math.ceil(count / self.factor)))

    def shares(self, count: int, steps: int, rungs: int | None = None) -> list[float]:
        """Shares of the steps at which decisions are taken.

        Args:
            count: Number of those that compete: among few, early decisions lose the winner more often.
            steps: Of their runs.
            rungs: How many decisions `auto` takes. None: what pays, if there is time for any number.
        """
        if isinstance(self.rungs, int):
            return self.shares_of(self.rungs)
        if rungs is None:
            rungs = max(rungs for rungs in range(MOST_RUNGS + 1) if self.factor**rungs <= max(1, count))
        late_enough = {max(share, FIRST_STEPS / steps) for share in self.shares_of(rungs)}
        return sorted(share for share in late_enough if share <= 1 / self.factor)

    def shares_of(self, rungs: int) -> list[float]:
        """Shares of the steps at which so many decisions are taken."""
        return [self.factor**-power for power in range(rungs, 0, -1)]


def _check_space(space: dict[str, Any]) -> dict[str, Any]:
    for field, axis in space.items():
        if isinstance(axis, dict):
            try:
                parse_section(SearchRange, axis, field)
            except RecipeError as error:
                raise ValueError(str(error)) from error
        elif not isinstance(axis, list) or not axis:
            raise ValueError(
                f"{field}: {axis!r} must be a list of values, or a range such as "
                "{from: 1e-4, to: 1e-2, scale: log}."
            )
    return space


Space = Annotated[dict[str, Any], Field(min_length=1), AfterValidator(_check_space)]
"""Field (a setting of the method, train.X, data.X or evaluation.X) -> a list of values, or a `SearchRange`;
kept as it is written."""


class SearchSpec(Section):
    """A search with Optuna (its TPE sampler): for every entry that has a space, the same number of trials.

    A trial trains with the first of `seeds` and is judged by `evaluation.select_by` on the validation rows.
    The best is trained with every seed and reported on the test rows. With `halving`, trials that are behind
    at its shares are stopped (ASHA, Li et al. 2020; its `finish` and `among` do not apply). Needs
    `pip install "deltatune[search]"`.
    """

    trials: Count
    """Of every entry; those that fail or are stopped early count."""
    space: Space | None = None
    """Fields (train.lr, data.max_input_tokens, evaluation.num_beams, ...) that are searched for every entry
    that trains, beside its own `space`: lists, or ranges `{from, to, scale}`."""
    seed: Int = 0
    """Of the sampler."""
    storage: Text | None = None
    """Where Optuna keeps the trials. Null: search.db in the comparison's folder, which a run that was
    interrupted goes on with. The URL of a database (`mysql://...`, `postgresql://...`) lets several machines
    work on the same search; environment variables in it ($PASSWORD) are filled in and not written down.
    There a trial whose machine went silent is tried again by another, up to three times."""
