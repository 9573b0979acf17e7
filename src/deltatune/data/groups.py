"""Rows that belong together: of one patient, document or author, or with nearly the same input.

They are right or wrong together. So they must not lie on both sides of a split, and in statistics they count
as one example (Saeb et al. 2017, "The need to approximate the use-case in clinical machine learning").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from deltatune.data.leakage import near_duplicates
from deltatune.data.rows import Row
from deltatune.errors import DataError, nearest

FIELD = "data.columns.group"
_SHOWN = 3
_WHOLE = re.compile(r"(-?\d+)\.0+$", re.ASCII)


def with_groups(
    parts: Mapping[str, Sequence[Row]], column: str | None, *, similar: bool, notes: list[str]
) -> dict[str, list[Row]]:
    """Give rows their groups; rows of a part that share a group or an input have one.

    Args:
        parts: The rows of each part that has a source.
        column: Which names the group of a row; one whose cell is empty is a group by itself. None: none does.
        similar: Whether rows of nearly the same input are one group, too.
        notes: Is told what a person should know.

    Raises:
        DataError: There is no such column.
    """
    if column is None and not similar:
        return {part: list(rows) for part, rows in parts.items()}
    if column is not None:
        for part, rows in parts.items():
            _require_column(part, rows, column)
        _note_across(parts, column, notes)
        _note_alone(parts, column, notes)
    return {part: _grouped(rows, column, similar=similar) for part, rows in parts.items()}


def _grouped(rows: Sequence[Row], column: str | None, *, similar: bool) -> list[Row]:
    first = list(range(len(rows)))  # of each row one of its group that comes before it, or itself

    def root(index: int) -> int:
        while first[index] != index:
            first[index] = index = first[first[index]]
        return index

    def join(pairs: Iterable[tuple[int, int]]) -> None:
        for one, other in pairs:
            low, high = sorted((root(one), root(other)))
            first[high] = low

    join(_same([row.input_bytes() for row in rows]))
    if column is not None:
        join(_same([_named(row, column) or index for index, row in enumerate(rows)]))
    if similar:
        join(near_duplicates(rows))
    return [replace(row, group=_name(rows[root(index)], column)) for index, row in enumerate(rows)]


def _same(keys: Sequence[object]) -> Iterable[tuple[int, int]]:
    """Each index with the first that has the same key."""
    seen: dict[object, int] = {}
    for index, key in enumerate(keys):
        yield seen.setdefault(key, index), index


def _name(row: Row, column: str | None) -> str:
    """A name that no other group of the part has: of the first of its rows."""
    named = column and _named(row, column)
    return f"group {named}" if named else f"row {row.id}"


def _named(row: Row, column: str) -> str:
    """The cell that names the group; `7.0` is 7, as tables with empty cells write whole numbers."""
    return _WHOLE.sub(r"\1", row.columns.get(column, "").strip())


def _require_column(part: str, rows: Sequence[Row], column: str) -> None:
    """Refuse a column that is in no row of a part.

    Raises:
        DataError: It is not.
    """
    if rows and not any(column in row.columns for row in rows):
        raise DataError(
            f"{column!r} is no column of the {part} rows.",
            field=FIELD,
            remedy=nearest(column, list(dict.fromkeys(name for row in rows for name in row.columns))),
        )


def _note_alone(parts: Mapping[str, Sequence[Row]], column: str, notes: list[str]) -> None:
    """A column that joins no two rows, which nobody can have meant."""
    rows = [row for part in parts.values() for row in part]
    names = [name for row in rows if (name := _named(row, column))]
    if len(rows) > 1 and len(set(names)) == len(names):
        what = "is empty in all rows" if not names else "is different in all rows"
        notes.append(f"{FIELD} ({column}) {what}, so no rows belong together by it.")


def _note_across(parts: Mapping[str, Sequence[Row]], column: str, notes: list[str]) -> None:
    """Groups on both sides of a split that others made."""
    names = {part: {name for row in rows if (name := _named(row, column))} for part, rows in parts.items()}
    for part in ("validation", "test"):
        both = sorted(names.get("train", set()) & names.get(part, set()))
        if both:
            shown = ", ".join(map(repr, both[:_SHOWN])) + (" and others" if len(both) > _SHOWN else "")
            notes.append(
                f"{len(both)} of {len(names[part])} groups of {part} rows ({column}: {shown}) are groups of "
                "training rows as well; results on them show memory, not skill."
            )
