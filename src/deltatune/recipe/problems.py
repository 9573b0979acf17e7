"""From pydantic's errors to one message that names every wrong field, its value, the rule and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from deltatune.errors import RecipeError
from deltatune.recipe.axes import BITS, SECTIONS, same_for_all
from deltatune.recipe.grid import Origin
from deltatune.recipe.messages import (
    Conflict,
    Path,
    describe,
    dotted,
    gathered,
    of_fitting_branches,
    one_error,
    written,
)
from deltatune.recipe.schema import ENTRY_KEYS, Recipe


def as_recipe_error(error: ValidationError, content: Any, origins: Sequence[Origin] = ()) -> RecipeError:
    """Gather all problems of a validation into one error.

    Args:
        error: What pydantic raised for `Recipe`.
        content: The recipe's content with its grids expanded, to name a method entry's parts as written.
        origins: For each expanded entry where it came from; problems are named there.
    """
    problems = gathered(
        pair
        for detail in of_fitting_branches(error.errors(include_url=False))
        for pair in _unfold(detail, content)
    )
    problems = {path: text for path, text in problems.items() if not _repeats(path, problems)}
    return one_error(_before_expansion(problems, origins))


def _before_expansion(problems: dict[str, str], origins: Sequence[Origin]) -> dict[str, str]:
    """Name problems of expanded entries where the recipe has them: the first of each grid's field."""
    found: dict[str, str] = {}
    for path, text in problems.items():
        found.setdefault(_as_expanded_from(path, origins), _renumbered(text, origins))
    return found


def _as_expanded_from(path: str, origins: Sequence[Origin]) -> str:
    steps = path.split(".")
    if steps[0] != "methods" or len(steps) < 2 or not steps[1].isdecimal() or not origins:
        return path
    origin = origins[int(steps[1])]
    if steps[2:3] == ["model"] and origin.model:
        return ".".join([origin.model, *steps[3:]])
    section = steps[2] if len(steps) > 2 else ""
    axes = {BITS: steps[2:3]} | {name: steps[2:4] for name in SECTIONS}  # others are the method's
    field = ".".join(axes.get(section, steps[3:4]))
    if field in origin.shared:
        return f"grid.{field}"
    if field in origin.own:
        return f"methods.{origin.entry}.grid.{field}"
    return ".".join(["methods", str(origin.entry), *steps[2:]])


def _renumbered(text: str, origins: Sequence[Origin]) -> str:
    def number(match: re.Match[str]) -> str:
        index = int(match[1])
        return f"methods.{origins[index].entry if index < len(origins) else index}"

    return re.sub(r"\bmethods\.(\d+)", number, text)


def _unfold(detail: Any, content: Any) -> Iterator[Conflict]:
    from deltatune.methods import METHODS

    path: Path = tuple(detail["loc"])
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "conflicts":
        yield from context["list"]
    elif kind == "method_config":
        owner = METHODS.get(context["method"])
        for inner in context["errors"]:
            inner_path = (*path, context["method"], *inner["loc"])
            yield dotted(inner_path), describe(inner, owner, inner["loc"])
    else:
        reason = _same_for_all(path) if kind == "extra_forbidden" else None
        yield dotted(_as_written(path, content)), reason or describe(detail, Recipe, path)


def _same_for_all(path: Path) -> str | None:
    """Why an entry may not have this field of the recipe's `data` or `evaluation`; else None."""
    return same_for_all(str(path[-2]), str(path[-1])) if path[0] == "methods" else None


def _as_written(path: Path, content: Any) -> Path:
    """Replace `config` in a method entry's path by the method's name, and drop pydantic's branch names."""
    if len(path) > 2 and path[0] == "methods" and path[2] == "config":
        entry = content["methods"][path[1]]
        names = [key for key in entry if key not in ENTRY_KEYS] if isinstance(entry, dict) else [str(entry)]
        path = (*path[:2], names[0], *path[3:])
    return tuple(filter(written, path))


def _repeats(path: str, problems: dict[str, str]) -> bool:
    """Tell whether a problem of an entry is that of the recipe's own section, which the entry inherits."""
    steps = path.split(".")
    inherited, shared = ".".join(steps[2:]), {*SECTIONS, BITS, "budget"}
    return (
        steps[0] == "methods" and bool(shared & {*steps[2:3]}) and problems.get(inherited) == problems[path]
    )
