"""What a cell holds, as text: numbers and dates as they are written, and what is no text said by name."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deltatune.data.rows import Record
from deltatune.errors import DataError, nearest
from deltatune.tasks import tasks_that

ROWS_A_LABEL = 10
"""Real numbers are scores and no labels if fewer rows than that have each of them on average."""
_SHOWN = 60

_TURNS = ({"role", "content"}, {"from", "value"})
"""Keys of a message, as OpenAI and ShareGPT write conversations."""


def is_image(value: Any) -> bool:
    """Whether a cell holds pixels or an image file."""
    return isinstance(value, np.ndarray | Path)


def as_text(value: Any) -> str:
    """A cell as text: nothing as "", lists and objects in JSON, bytes as the UTF-8 that they hold.

    Raises:
        UnicodeDecodeError: Bytes are no text.
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def column_of(record: Record, name: str, field: str) -> Any:
    """A cell of a row.

    Args:
        record: The row.
        name: The column.
        field: The setting of a recipe that names it, for the message.

    Raises:
        DataError: The row has no such column.
    """
    if name not in record.columns:
        raise DataError(
            f"has no column {name!r}.",
            field=record.where,
            remedy=f"{nearest(name, record.columns)} Name one so, or set {field} in the recipe.",
        )
    return record.columns[name]


def columns_as_text(record: Record) -> dict[str, str]:
    """All columns of a row that can be text."""
    columns = {}
    for name, value in record.columns.items():
        if not is_image(value):
            try:
                columns[name] = as_text(value)
            except UnicodeDecodeError:
                continue  # an image or a sound: refused where a recipe names it, and left out elsewhere
    return columns


def check_values(records: Sequence[Record], used: Iterable[str], label: str | None) -> list[str]:
    """Look for values that are no text: bytes, halves of characters, conversations, lists, objects.

    Args:
        records: The rows.
        used: Columns that become text for a model to read or to write.
        label: The column of class names, if there is one.

    Returns:
        A warning for each column whose lists or objects will be text in JSON.

    Raises:
        DataError: A value can be no text, belongs to a task that is not offered, or is a list of labels.
    """
    warnings = []
    for name in dict.fromkeys(used):
        structured: Counter[str] = Counter()
        for record in records:
            value = record.columns.get(name)
            if isinstance(value, dict | list):
                _check_structured(value, record, name, label)
                structured["a list" if isinstance(value, list) else "an object"] += 1
            elif isinstance(value, bytes):
                _check_bytes(value, record, name)
            elif isinstance(value, str | Path):
                check_characters(str(value), record, name)
        for kind, count in structured.items():
            warnings.append(
                f"the column {name!r} holds {kind} in {count} of {len(records)} rows, which becomes text in "
                "JSON; if that is not meant, make a text of it, or a row of each item."
            )
    return warnings


def _check_structured(value: Any, record: Record, name: str, label: str | None) -> None:
    field = f"{record.where}, column {name!r}"
    shown = as_text(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"
    if isinstance(value, list) and value and all(_is_turn(item) for item in value):
        fitting = tasks_that(lambda task: task.conversations)
        raise DataError(
            f"holds a conversation ({shown}), which would be learned as JSON.",
            field=field,
            remedy=f"Use task: {fitting[0]}, which reads messages and learns what the assistant says; it "
            "needs a decoder-only model.",
        )
    if name == label:
        several = tasks_that(lambda task: task.has_label_sets)
        raise DataError(
            f"holds {shown}: a class is one name, not a {'list' if isinstance(value, list) else 'object'}.",
            field=field,
            remedy=f"Use task: {several[0]}, which learns several labels per row; or keep one of them.",
        )


def _is_turn(item: Any) -> bool:
    return isinstance(item, dict) and any(keys <= item.keys() for keys in _TURNS)


def _check_bytes(value: bytes, record: Record, name: str) -> None:
    try:
        as_text(value)
    except UnicodeDecodeError as error:
        raise DataError(
            f"holds {len(value):,} bytes that are no text in UTF-8 (0x{value[:8].hex()}).",
            field=f"{record.where}, column {name!r}",
            remedy="Write the column as text, or images as files in folders of their classes.",
        ) from error


def check_characters(text: str, record: Record, name: str) -> None:
    """Refuse halves of characters, also those for which Python takes a file's name that is not in UTF-8.

    Raises:
        DataError: There is one.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"holds \\u{ord(text[error.start]):04x} in {text[:_SHOWN]!a}, which is half of a character and "
            "no text.",
            field=f"{ascii(record.where)[1:-1]}, column {name!r}",
            remedy="Mend it, or remove the row; a file or folder needs a name in UTF-8.",
        ) from error


def check_labels(targets: Sequence[str], reads: str) -> list[str]:
    """Look whether class names are real numbers.

    Args:
        targets: Of the training rows.
        reads: What the task reads, `text` or `images`.

    Returns:
        A warning if they may be meant as classes.

    Raises:
        DataError: There are so many that they must be scores.
    """
    different = set(targets)
    if not different or not all(map(_is_number, different)):
        return []
    # 0 beside 0.0 are whole numbers in two spellings, which is told elsewhere.
    if any(map(_is_whole, different)) and all(float(text).is_integer() for text in different):
        return []
    labels = sorted(different, key=lambda text: (float(text), text))
    shown = f"{', '.join(labels[:4])}{', ...' if len(labels) > 4 else ''}"
    fitting = tasks_that(lambda task: task.has_values and task.reads == reads)
    if len(labels) > 2 and len(labels) * ROWS_A_LABEL > len(targets):
        raise DataError(
            f"are {len(labels)} different real numbers ({shown}): scores, not classes.",
            field=f"the targets of {len(targets)} training rows",
            remedy=(f"Use task: {fitting[0]}, which learns numbers. Or make" if fitting else "Make")
            + " classes of ranges (low, middle, high).",
        )
    return [
        f"the labels are real numbers ({shown}) and are learned as classes without an order"
        + (f"; task: {fitting[0]} learns numbers." if fitting else ".")
    ]


def _is_whole(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
