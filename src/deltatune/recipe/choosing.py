"""The sections of a recipe that choose settings: tuning of learning rates, search, early stopping of losers.

All of it looks at validation rows and at the first seed only. What is chosen is then trained with every
seed and judged on the test rows, so the choice cannot have seen them. It is for comparisons; a single run
(`deltatune train`) is trained as its entry says.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, Strict, model_validator

from deltatune.errors import RecipeError
from deltatune.recipe.axes import SECTIONS, by_section, check_fields, check_section_field, section_of
from deltatune.recipe.sections import (
    HEAD_LR,
    TUNED,
    Count,
    DataSpec,
    Float,
    Int,
    Section,
    Text,
    TrainSpec,
)
from deltatune.tasks import TASKS

if TYPE_CHECKING:
    from deltatune.core.method import MethodConfig
    from deltatune.recipe.rules import Conflict
    from deltatune.recipe.schema import MethodEntry, Recipe

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
    """How many rates: each entry's own (or its method's default) and its neighbours on a logarithmic grid,
    one more below than above if the number is even. Or a list: the rates that every entry tries."""
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

    def points(self, train: TrainSpec, method: MethodConfig) -> list[dict[str, float]]:
        """List what is tried for an entry, field -> rate, the first field's lowest first.

        Args:
            train: The entry's settings, whose rates are tried among others unless the recipe lists its own.
            method: The entry's.
        """
        lr = train.lr or method.default_lr
        head = train.head_lr if isinstance(train.head_lr, float) else lr if train.head_lr else HEAD_LR
        centers = {"lr": lr, "head_lr": head}
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
    """

    factor: Annotated[int, Strict(), Field(ge=2, le=10)] = 3
    """One in so many goes on from a decision."""
    rungs: Annotated[int, Strict(), Field(ge=1, le=6)] = 1
    """Number of decisions: the last at 1/factor of the steps, the one before it at 1/factor^2, ... Early ones
    save more, and are wrong more often."""
    finish: Count = 1
    """At least so many of those that compete are trained to the end."""
    among: Literal["entry", "all"] = "entry"
    """Who competes: `entry`, the configurations (grid points and tuned rates) of one entry of the recipe, so
    that every entry is in the ranking; `all`: everything that trains, so that methods may drop out."""

    def shares(self) -> list[float]:
        """Shares of a run's steps at which decisions are taken."""
        return [self.factor**-power for power in range(self.rungs, 0, -1)]


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
        from deltatune.recipe.grid import check_bounds

        check_bounds(self.start, self.stop, self.scale)
        return self


def _check_space(space: dict[str, Any]) -> dict[str, Any]:
    from deltatune.recipe.problems import parse_section

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


def searched(recipe: Recipe, entry: MethodEntry) -> dict[str, Any]:
    """The space that is searched for an entry; empty if there is none."""
    config = entry.build_config()
    if recipe.search is None or not config.trains:
        return {}
    shared = recipe.search.space or {}
    if config.rate != "lr":  # to vary its lr would vary nothing
        shared = {field: axis for field, axis in shared.items() if field != "train.lr"}
    return {**shared, **(entry.space or {})}


def readings_of(recipe: Recipe, entry: MethodEntry) -> list[DataSpec]:
    """The ways in which an entry's rows may be read: its own, and those with a value that is searched.

    Of a range its ends stand for all: between two limits that leave the same of every target, all do.
    """
    own, found = recipe.data_of(entry), []
    for field, axis in searched(recipe, entry).items():
        if field.startswith("data."):
            found += [own.model_copy(update={field.removeprefix("data."): value}) for value in ends(axis)]
    return list(dict.fromkeys([own, *found]))


def section_given(recipe: Recipe, entry: MethodEntry, section: str) -> dict[str, Any]:
    """The fields of a section as they hold for an entry: its own, or the recipe's."""
    own = getattr(entry, section) or getattr(recipe, section)
    return {name: getattr(own, name) for name in SECTIONS[section].model_fields}


def ends(axis: Any) -> list[Any]:
    """The values of an axis of a search, of a range its ends."""
    return axis if isinstance(axis, list) else [axis["from"], axis["to"]]


def choosing_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Check what chooses settings against the rest of the recipe."""
    tune, halving, split = recipe.tune, recipe.halving, recipe.data.split
    unvalidated = not recipe.data.validation and split is not None and split.validation == 0
    for field, section in (("tune", tune), ("halving", halving), ("search", recipe.search)):
        if section is not None and unvalidated:
            yield field, "needs validation rows, but data.split.validation is 0."
    for name in TUNED if tune is not None else ():
        if not isinstance(getattr(tune, name), list):
            continue
        for index, entry in enumerate(recipe.methods):
            own = getattr(entry.train, name)
            if own is not None and own != getattr(recipe.train, name):
                yield (
                    f"methods.{index}.train.{name}",
                    f"stands beside tune.{name}, a list of the rates for every entry; "
                    f"take it out, or give tune.{name} as a number of rates around each entry's own.",
                )
    if tune is not None and tune.head_lr is not None and not TASKS.get(recipe.task).new_head:
        yield "tune.head_lr", f"is for new heads of classifiers; {recipe.task} has none: leave it out."
    yield from _search_conflicts(recipe)
    if halving is not None and halving.among == "entry" and tune is None and recipe.search is None:
        groups = [entry.group for entry in recipe.methods if entry.group and entry.build_config().trains]
        if len(groups) == len(set(groups)):
            yield (
                "halving",
                "has nothing to choose between: write a grid, tune: {lr: 4}, or halving: {among: all}.",
            )


def _search_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    search = recipe.search
    if search is not None and recipe.tune is not None:
        yield "tune", "cannot stand beside search: search train.lr instead."
    if search is not None and search.space:
        for field in search.space:
            try:
                check_section_field(field, "search.space")
            except RecipeError as error:
                yield _conflict(error, "search.space")
            else:
                if section_of(field) is None:
                    text = "is a setting of a method; write it in the space of an entry under methods."
                    yield f"search.space.{field}", text
    spaces = 0
    for index, entry in enumerate(recipe.methods):
        where = f"methods.{index}.space"
        if entry.space and search is None:
            yield where, "is searched only with a section such as search: {trials: 40}."
        if entry.group and searched(recipe, entry):
            yield where, "cannot stand beside a grid: make the grid's fields a part of the space."
            return
        for path, axis, place in searched_axes(recipe, entry, where):
            yield from _axis_conflicts(recipe, entry, path, axis, place)
        spaces += bool(searched(recipe, entry))
    if search is not None and not spaces:
        yield "search", "has nothing to search: give it a space, such as {train.lr: {from: 1e-4, to: 1e-2}}."


def searched_axes(recipe: Recipe, entry: MethodEntry, where: str) -> Iterator[tuple[str, Any, str]]:
    """Each field of an entry's space, its axis, and where it is written; `where` is the entry's own space."""
    for field, axis in (entry.space or {}).items():
        yield field, axis, where
    for field, axis in searched(recipe, entry).items():
        if field not in (entry.space or {}) and section_of(field):
            yield field, axis, "search.space"


def _axis_conflicts(
    recipe: Recipe, entry: MethodEntry, field: str, axis: Any, where: str
) -> Iterator[Conflict]:
    """Try an axis's values, or a range's ends, as the entry's settings."""
    from deltatune.methods import METHODS
    from deltatune.recipe.problems import parse_section

    section = section_of(field)
    try:
        check_fields(entry.method, {field: axis}, where)
        if entry.budget is not None and field == METHODS.get(entry.method).size:
            yield f"{where}.{field}", f"cannot be searched: the budget of {entry.budget} decides it."
        for value in ends(axis):
            if section:
                fields = section_given(recipe, entry, section) | by_section({field: value})[section]
                parse_section(SECTIONS[section], fields, f"{where}.{section}")
            else:
                parse_section(METHODS.get(entry.method), {**entry.config, field: value}, where)
    except RecipeError as error:
        yield _conflict(error, where)


def _conflict(error: RecipeError, where: str) -> Conflict:
    return error.field or where, " ".join(filter(None, [error.what, error.remedy]))
