"""Recipes with several data sets: `data` is a list, and each of its sections makes a recipe of its own.

    data:
      - {source: reviews.csv, split: {validation: 0.1, test: 0.2}}
      - {source: news.jsonl, columns: {input: headline}, split: {validation: 0.1, test: 0.2}, name: news}

All else is the same for each of them. Each recipe is an ordinary one, so that nothing that trains knows of
several data sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deltatune.errors import RecipeError
from deltatune.recipe.axes import slug
from deltatune.recipe.load import apply_override, parse_recipe, read_recipe
from deltatune.recipe.schema import DataSpec, Recipe

LONGEST = 80
"""Letters of a data set's name, which is that of a folder."""
_PARTS = ("train", "training", "data", "rows")
"""Names of files that say nothing of what they hold: their folder's name is taken."""
_DATA = re.compile(r"(?<![\w.])data(?=\.[a-z]|:)")
"""Where a message names the section, or a field of it."""


def load_sets(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Recipe]:
    """Read a recipe file that may have several data sets; arguments and errors as of `load_recipe`.

    Returns:
        By the name of each data set its recipe; of a recipe with one, whose name is empty, that one.
    """
    path = Path(path)
    return parse_sets(read_recipe(path), overrides, root=path.parent)


def parse_sets(
    content: Any, overrides: Iterable[str] = (), *, root: str | Path | None = None
) -> dict[str, Recipe]:
    """The same of a recipe that was read already; arguments as of `parse_recipe`."""
    overrides = list(overrides)
    if isinstance(content, Mapping):
        for override in overrides:
            content = apply_override(content, override)
        overrides = []
    sections = content.get("data") if isinstance(content, Mapping) else None
    if not isinstance(sections, list) or len(sections) < 2:
        return {"": parse_recipe(content, overrides, root=root)}
    sets: dict[str, Recipe] = {}
    errors: list[RecipeError] = []
    for number, (name, section) in enumerate(_named(sections).items()):
        try:
            sets[name] = parse_recipe({**content, "data": section}, root=root)
        except RecipeError as error:
            errors.append(_of_set(error, number))
    different = {str(error): error for error in errors}
    if len(different) == 1:
        raise next(iter(different.values()))
    if different:
        raise RecipeError("Several data sets cannot be used:\n  " + "\n  ".join(different))
    return sets


def are_sets(values: Sequence[Any]) -> bool:
    """Whether a list in Python is of data sets, not of rows: no row is a file, a frame or a section."""
    return bool(values) and all(_is_set(value) for value in values)


def _is_set(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return isinstance(value, str | Path | Iterable)
    return bool({"source", "train"} & value.keys()) and value.keys() <= {"name", *DataSpec.known_keys()}


def _named(sections: Sequence[Any]) -> dict[str, Any]:
    """The sections by their names, without these.

    Raises:
        RecipeError: A name is none, or that of two sets.
    """
    found: dict[str, Any] = {}
    slugs: dict[str, int] = {}
    for number, written in enumerate(sections):
        section = {"source": written} if isinstance(written, str) else written
        if not isinstance(section, Mapping):
            raise RecipeError(
                f"{section!r} must be a data section, or the name of a source.", field=f"data.{number}"
            )
        given, rest = section.get("name"), {key: value for key, value in section.items() if key != "name"}
        if given is not None and not (isinstance(given, str) and slug(given) and len(given) <= LONGEST):
            raise RecipeError(
                f"{given!r} must be a text of 1 to {LONGEST} characters that names a folder.",
                field=f"data.{number}.name",
            )
        name = given or _name_of(rest) or f"set {number + 1}"
        if slug(name) in slugs:
            raise RecipeError(
                f"({name}) is the name of data.{slugs[slug(name)]}, too."
                if given
                else f"would be called {name}, as data.{slugs[slug(name)]} is.",
                field=f"data.{number}.name",
                remedy="Give each data set a name of its own: {name: NAME, source: FILE}.",
            )
        slugs[slug(name)] = number
        found[name] = rest
    return found


def _name_of(section: Mapping[str, Any]) -> str:
    """What a set is called that has no name: by its source, or the file of its training rows."""
    place = section.get("source") or section.get("train")
    if not isinstance(place, str):
        return ""
    if place.startswith(("hub:", "bundled:")):
        name = place.partition(":")[2].partition("@")[0].rpartition("/")[2].replace("#", "-")
    else:
        path = Path(place)
        name = path.name.partition(".")[0] or path.name
        if name.lower() in _PARTS and path.parent.name:
            name = path.parent.name
    return name[:LONGEST] if slug(name) else ""


def _of_set(error: RecipeError, number: int) -> RecipeError:
    """The same error, of one section of the list."""

    def placed(text: str | None) -> str | None:
        return text and _DATA.sub(f"data.{number}", text)

    field = f"data.{number}" if error.field == "data" else placed(error.field)
    return RecipeError(placed(error.what) or "", field=field, remedy=placed(error.remedy))


def as_one(sets: Mapping[str, Recipe]) -> dict[str, Any]:
    """The recipe that these came of, with every default: `parse_sets` makes the same of it.

    An entry's `data` is written as what differs from the recipe's. What it gives itself may be what one set
    has anyway, so that is gathered from all sets.
    """
    dumps = [recipe.dump() for recipe in sets.values()]
    methods = []
    for entries in zip(*(dump["methods"] for dump in dumps), strict=True):
        given = [entry["data"] for entry in entries if "data" in entry]
        together = {key: value for changes in given for key, value in changes.items()}
        methods.append({**entries[0], **({"data": together} if given else {})})
    sections = [{"name": name, **dump["data"]} for name, dump in zip(sets, dumps, strict=True)]
    return {**dumps[0], "data": sections, "methods": methods}
