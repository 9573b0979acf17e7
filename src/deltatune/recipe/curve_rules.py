"""Rules about the section `curve` beside the rest of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from deltatune.errors import RecipeError, nearest
from deltatune.phrasing import listing, rule
from deltatune.recipe.curve_section import RANKS
from deltatune.recipe.entry import MethodEntry
from deltatune.recipe.fields import RecipeFields
from deltatune.recipe.messages import Conflict

if TYPE_CHECKING:
    from deltatune.core.method import MethodConfig


def curve_conflicts(recipe: RecipeFields) -> Iterator[Conflict]:
    """Check what curves are drawn of."""
    curve = recipe.curve
    if curve is None:
        return
    names = [entry.name for entry in recipe.methods]
    for index, name in enumerate(curve.entries or ()):
        where = f"curve.entries.{index}"
        if name not in names:
            yield where, f"({name!r}) is not the label of an entry. {nearest(name, names)}"
        elif not learns_of_rows(recipe.entry(name)):
            yield where, f"({name}) neither trains anything nor keeps rows, so there is no curve of it."
        elif curve.rank is not None and (why := _without_rank(recipe.entry(name))):
            yield where, why
    if curve.entries is None and not any(entry.build_config().trains for entry in recipe.methods):
        yield "curve", "needs an entry that trains something."
    if curve.rows is not None and recipe.data.limit.subset is not None:
        yield (
            "data.limit.subset",
            "cannot stand beside curve.rows, which draws parts of all rows: take it out.",
        )
    if curve.rank is None:
        return
    ranked = [recipe.entry(name) for name in curve.entries or () if name in names] or [
        entry for entry in recipe.methods if has_rank(entry)
    ]
    if not ranked:
        yield "curve.rank", f"is for an entry with a rank, and none has one. {_those_with_one()}"
    for entry in ranked:
        for rank in curve.rank if has_rank(entry) else ():
            try:
                with_rank(entry, rank)
            except RecipeError as error:
                yield "curve.rank", f"({rank}) cannot be that of {entry.name}: {error}"


def learns_of_rows(entry: MethodEntry) -> bool:
    """Whether more rows may change what it answers: it is trained on them, or keeps them."""
    return _method(entry).trains or _method(entry).holds_rows


def has_rank(entry: MethodEntry) -> bool:
    """Whether the entry has a rank that a curve may change."""
    return _without_rank(entry) is None


def rank_of(entry: MethodEntry) -> int:
    """The entry's rank."""
    return int(getattr(entry.build_config(), _method(entry).size or ""))


def with_rank(entry: MethodEntry, rank: int) -> MethodEntry:
    """The entry with another rank; what the method keeps in a ratio to it follows.

    Raises:
        RecipeError: The method allows no such rank.
    """
    try:
        config = entry.build_config().with_size(rank)
    except ValidationError as error:
        raise RecipeError(" ".join(rule(detail) for detail in error.errors(include_url=False))) from error
    return entry.model_copy(update={"config": config.model_dump(mode="json")})


def _without_rank(entry: MethodEntry) -> str | None:
    """Why a curve of ranks cannot be drawn of an entry, and what to do; None if it can."""
    if _method(entry).size not in RANKS:
        return f"({entry.name}) is {entry.method}, which has no rank. {_those_with_one()}"
    if entry.budget is not None:
        return f"({entry.name}) has its rank by the budget of {entry.budget}: give it `budget: null`."
    if entry.start is not None:
        return f"({entry.name}) starts from a saved delta, which has its rank."
    return None


def _those_with_one() -> str:
    from deltatune.methods import METHODS

    return (
        f"These have one: {listing([name for name in METHODS.names() if METHODS.get(name).size in RANKS])}."
    )


def _method(entry: MethodEntry) -> type[MethodConfig]:
    from deltatune.methods import METHODS

    return METHODS.get(entry.method)
