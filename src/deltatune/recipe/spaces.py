"""What a search may vary for an entry, and the ways of reading rows that come of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deltatune.recipe.axes import SECTIONS, section_of
from deltatune.recipe.entry import MethodEntry
from deltatune.recipe.fields import RecipeFields
from deltatune.recipe.sections import DataSpec


def searched(recipe: RecipeFields, entry: MethodEntry) -> dict[str, Any]:
    """The space that is searched for an entry; empty if there is none."""
    config = entry.build_config()
    if recipe.search is None or not config.trains:
        return {}
    shared = recipe.search.space or {}
    if config.rate != "lr":  # to vary its lr would vary nothing
        shared = {field: axis for field, axis in shared.items() if field != "train.lr"}
    return {**shared, **(entry.space or {})}


def readings_of(recipe: RecipeFields, entry: MethodEntry) -> list[DataSpec]:
    """The ways in which an entry's rows may be read: its own, and those with a value that is searched.

    Of a range its ends stand for all: between two limits that leave the same of every target, all do.
    """
    own, found = recipe.data_of(entry), []
    for field, axis in searched(recipe, entry).items():
        if field.startswith("data."):
            found += [own.model_copy(update={field.removeprefix("data."): value}) for value in ends(axis)]
    return list(dict.fromkeys([own, *found]))


def section_given(recipe: RecipeFields, entry: MethodEntry, section: str) -> dict[str, Any]:
    """The fields of a section as they hold for an entry: its own, or the recipe's."""
    own = getattr(entry, section) or getattr(recipe, section)
    return {name: getattr(own, name) for name in SECTIONS[section].model_fields}


def ends(axis: Any) -> list[Any]:
    """The values of an axis of a search, of a range its ends."""
    return axis if isinstance(axis, list) else [axis["from"], axis["to"]]


def searched_axes(recipe: RecipeFields, entry: MethodEntry, where: str) -> Iterator[tuple[str, Any, str]]:
    """Each field of an entry's space, its axis, and where it is written; `where` is the entry's own space."""
    for field, axis in (entry.space or {}).items():
        yield field, axis, where
    for field, axis in searched(recipe, entry).items():
        if field not in (entry.space or {}) and section_of(field):
            yield field, axis, "search.space"
