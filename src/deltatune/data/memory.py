"""Rows that are in memory: lists of mappings, frames of pandas or Polars, data sets of Hugging Face.

A recipe names files, so that a run can be repeated and gone on with. Rows in memory are therefore written
once, as JSON lines, into the cache, in a file that is named by their content.
"""

from __future__ import annotations

import datetime
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deltatune.cache import ROWS, cache_root, make_cache_folder
from deltatune.data.tag_names import named, names_of_lists
from deltatune.errors import DataError
from deltatune.files import sha256, text_sha256, write_text

PARTS = ("source", "train", "validation", "test")
"""Fields of the data section that may be rows in memory."""
_MISSING = ("NAType", "NaTType")
"""Of pandas."""


def keep_rows(rows: Any, *, field: str = "data") -> Path:
    """Write rows into the cache, unless they are there already.

    Args:
        rows: An iterable of mappings from column to value, or a frame of pandas or Polars.
        field: The argument that they are, for messages.

    Returns:
        The file, whose name is made of its content's SHA-256.

    Raises:
        DataError: They are no rows, there are none, or a value is neither text nor number nor made of these.
    """
    names = names_of_lists(getattr(rows, "features", None))  # of a datasets.Dataset
    records = (
        named(row, names) if names and isinstance(row, Mapping) else row for row in as_records(rows, field)
    )
    lines = [_line(row, f"{field}, row {number}") for number, row in enumerate(records)]
    if not lines:
        raise DataError("holds no rows.", field=field, remedy="Give one mapping a row.")
    text = "".join(lines)
    digest = text_sha256(text)
    path = make_cache_folder(cache_root() / ROWS) / f"{digest[:32]}.jsonl"
    if not path.is_file() or sha256(path) != digest:  # else somebody has edited it, or it is cut short
        write_text(path, text)
    return path


def is_rows(value: Any) -> bool:
    """Whether a value is rows in memory, rather than the name of a file or a section of a recipe."""
    return not isinstance(value, str | Path | Mapping) and (
        hasattr(value, "to_dicts") or hasattr(value, "to_dict") or isinstance(value, Iterable)
    )


def has_rows(value: Any) -> bool:
    """Whether a value is rows in memory, or a section of a recipe that holds some."""
    if not isinstance(value, Mapping):
        return is_rows(value)
    return any(is_rows(value[part]) for part in PARTS if part in value)


def as_records(rows: Any, field: str) -> Iterable[Any]:
    """The rows of a frame as mappings, and what is iterable as it is.

    Raises:
        DataError: It is neither, or two of its columns have one name.
    """
    if hasattr(rows, "to_dicts"):  # Polars
        return rows.to_dicts()
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # pandas
        _require_names(map(str, rows.columns), field)
        return rows.to_dict("records")
    if not isinstance(rows, Iterable):
        raise DataError(
            f"is a {type(rows).__name__}, not rows.",
            field=field,
            remedy="Give a list of mappings, a frame of pandas or Polars, or a datasets.Dataset.",
        )
    return rows


def _require_names(names: Iterable[str], where: str) -> None:
    """Refuse names of which one stands twice, as 1 and "1" do: one of the two columns would be lost."""
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(
                f"has the column {name!r} twice.", field=where, remedy="Give every column a name of its own."
            )


def as_inputs(inputs: Any) -> Iterable[Any]:
    """What `predict` is asked: one text or one row is a list of itself, else as of `as_records`."""
    return [inputs] if isinstance(inputs, str | Mapping) else as_records(inputs, "inputs")


def _line(row: Any, where: str) -> str:
    """A row as a line of JSON, in ASCII, whatever its texts hold."""
    try:
        return f"{json.dumps(_record(row, where))}\n"
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits; lists in themselves
        raise DataError(
            f"cannot be written as JSON ({error}).",
            field=where,
            remedy="Give text, numbers, or flat lists and mappings of these.",
        ) from error


def _record(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(
            f"is a {type(row).__name__}, not a mapping from columns to values.",
            field=where,
            remedy='Write {"input": ..., "target": ...}.',
        )
    _require_names(map(str, row), where)
    return {str(column): _plain(value, f"{where}, column {column}") for column, value in row.items()}


def _plain(value: Any, where: str) -> Any:
    """A value as JSON has it: what frames take for missing is null, a time is its ISO text."""
    if (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in _MISSING:
        return None
    if getattr(getattr(value, "dtype", None), "kind", "") in ("M", "m"):  # NumPy's times; of nanoseconds
        value = None if str(value) == "NaT" else value.astype(str)  # `tolist` makes numbers
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        _require_names(map(str, value), where)
        return {str(key): _plain(each, where) for key, each in value.items()}
    if hasattr(value, "tolist") and getattr(value, "ndim", 1) < 2:  # NumPy: a number, or a list of them
        value = value.tolist()
        if not isinstance(value, list):
            return _plain(value, where)
    if isinstance(value, list | tuple):
        return [_plain(each, where) for each in value]
    raise DataError(
        f"holds a {type(value).__name__}.",
        field=where,
        remedy="Give text, numbers, or lists and mappings of these; images need files.",
    )


def as_section(value: Any) -> Any:
    """A recipe's data section, with rows in memory as the names of their files."""
    if is_rows(value):
        return {"source": str(keep_rows(value)), "format": "jsonl", "split": {}}
    if not isinstance(value, Mapping):
        return str(value) if isinstance(value, Path) else value
    named = {part: value[part] for part in PARTS if part in value}
    kept = {part: keep_rows(rows, field=f"data.{part}") for part, rows in named.items() if is_rows(rows)}
    files = {part: str(rows) for part, rows in named.items() if isinstance(rows, Path)}
    return {**value, **files, **{part: str(path) for part, path in kept.items()}}
