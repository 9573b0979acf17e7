"""Several texts that are right for one input: a list in the target's column, or rows that share an id.

A model learns each of them, as a training row of its own. A row that selects or judges has all of them and
stays one row: it is one input, and counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from deltatune.data.cells import as_text
from deltatune.data.rows import Record, Row
from deltatune.errors import DataError


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether a cell holds a list of texts, each of which is a reference; lists of others are JSON."""
    return isinstance(value, list) and not any(isinstance(item, list | dict) for item in value)


def items(records: Sequence[Record], column: str) -> Iterator[Record]:
    """The records with one reference each, and with no other column, for looking at what they hold."""
    for record in records:
        value = record.columns.get(column)
        for item in value if is_list(value) else [value]:
            yield Record(record.where, {column: item})


def references_of(value: list[Any], record: Record, column: str) -> list[str]:
    """The texts of a list, each once.

    Raises:
        DataError: There are none, or one is empty.
    """
    texts = [as_text(item) for item in value]
    empty = sum(not text.strip() for text in texts)
    if empty or not texts:
        what = f"has {empty} empty of {len(texts)} references" if texts else "has no reference"
        raise DataError(
            f"{what} (column {column!r}).", field=record.where, remedy="Fill or remove what is empty."
        )
    return list(dict.fromkeys(texts))


def put_together(rows: Sequence[Row]) -> list[Row]:
    """Make one row of those that share an id and an input: their targets are its references."""
    places: dict[tuple[str, bytes], int] = {}
    merged: list[Row] = []
    for row in rows:
        place = places.setdefault((row.id, row.input_bytes()), len(merged))
        if place == len(merged):
            merged.append(row)
        else:
            merged[place] = with_references(merged[place], [*texts_of(merged[place]), *texts_of(row)])
    return merged


def with_references(row: Row, texts: Sequence[str]) -> Row:
    """The row with these references, of which the first is its target."""
    different = tuple(dict.fromkeys(texts))
    return replace(row, target=different[0], references=different if different[1:] else ())


def texts_of(row: Row) -> tuple[str, ...]:
    """All texts that are right for a row."""
    return row.references or (row.target,)


def each_apart(rows: Sequence[Row]) -> list[Row]:
    """A row for each reference, to learn from."""
    return [
        replace(row, id=f"{row.id}.{number}", target=text, references=()) if row.references else row
        for row in rows
        for number, text in enumerate(texts_of(row), start=1)
    ]


def counted(parts: Mapping[str, Sequence[Row]]) -> dict[str, tuple[int, int]] | None:
    """Inputs and references by part; None where every input has one."""
    if not any(row.references for rows in parts.values() for row in rows):
        return None
    return {part: (len(rows), sum(len(texts_of(row)) for row in rows)) for part, rows in parts.items()}
