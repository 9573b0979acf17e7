"""Rules about what chooses settings: tuning, halving and searches beside the rest of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deltatune.errors import RecipeError
from deltatune.recipe.axes import SECTIONS, by_section, check_fields, check_section_field, section_of
from deltatune.recipe.entry import MethodEntry
from deltatune.recipe.fields import RecipeFields
from deltatune.recipe.messages import Conflict, parse_section
from deltatune.recipe.spaces import ends, searched, searched_axes, section_given
from deltatune.recipe.train_section import TUNED
from deltatune.tasks import TASKS


def choosing_conflicts(recipe: RecipeFields) -> Iterator[Conflict]:
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
    if recipe.budget_time is not None and (halving is None or not halving.auto):
        yield "budget_time", "says how long a comparison with halving: auto may take: write that beside it."
    if recipe.budget_time is not None and recipe.search is not None:
        yield (
            "budget_time",
            "cannot stand beside search, which makes as many trials as it says.",
        )
    if halving is not None and halving.among == "entry" and tune is None and recipe.search is None:
        groups = [entry.group for entry in recipe.methods if entry.group and entry.build_config().trains]
        if len(groups) == len(set(groups)):
            yield (
                "halving",
                "has nothing to choose between: write a grid, tune: {lr: 4}, or halving: {among: all}.",
            )


def _search_conflicts(recipe: RecipeFields) -> Iterator[Conflict]:
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


def _axis_conflicts(
    recipe: RecipeFields, entry: MethodEntry, field: str, axis: Any, where: str
) -> Iterator[Conflict]:
    """Try an axis's values, or a range's ends, as the entry's settings."""
    from deltatune.methods import METHODS

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
