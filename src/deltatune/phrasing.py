"""What pydantic finds wrong, in our words: its own texts never reach a user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

_BRANCHES = {"int", "float", "str", "bool", "Failure"}
"""Names that pydantic puts into a place for the branches of a union."""


def short(value: Any) -> str:
    """A value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def listing(items: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {last} ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def rule(detail: Any) -> str:
    """The rule of one of pydantic's findings: `must be a valid integer`."""
    text = str(detail["msg"]).removeprefix("Input ").removeprefix("String ").replace("should", "must")
    return text.removesuffix(", unable to parse string as an integer")


def first_problem(error: ValidationError) -> str:
    """The first field that is wrong: `lacks cost.steps.`, `has a bad value for seed: '1' must be ...`."""
    found = [(_place(detail["loc"]), detail) for detail in error.errors(include_url=False)]
    place = found[0][0]
    detail = [each for other, each in found if other == place][-1]  # of a union, its last branch
    if detail["type"] in ("missing", "missing_argument"):
        return f"lacks {place}."
    where = f"has a bad value for {place}" if place else "is no record"
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type", "dataclass_type"):
        return f"{where}: {short(detail['input'])} must be an object."
    return f"{where}: {short(detail['input'])} {rule(detail)}."


def _place(path: tuple[str | int, ...]) -> str:
    return ".".join(str(step) for step in path if step not in _BRANCHES)
