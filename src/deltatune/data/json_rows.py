"""Rows in JSON, in the shapes that people have them in, whatever the suffix says.

Objects in lines, objects one after another, one list of objects, or an object of lists of objects: parts
(`train`, `validation`, `test`), or a single list under any name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from deltatune.data.images import PART_NAMES
from deltatune.data.rows import Record, Table
from deltatune.errors import DataError

DEEPEST = 100
"""Lists and objects within each other."""


class _Twice(ValueError):
    """An object has a key twice; which value is meant, nobody knows."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _Twice(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
    return value


def _constant(name: str) -> float | None:
    """NaN is what other programs write where there is no value."""
    return None if name == "NaN" else float(name)


_BLANKS = re.compile(r"\s+")
_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)


def parse_rows(text: str, name: str, *, lines: bool) -> Table:
    """Parse rows.

    Args:
        text: The whole file.
        name: The file's name, for messages.
        lines: Whether an object that fills a line is a row though it is the only one, as in JSON lines.

    Raises:
        DataError: It is not JSON, or in none of these shapes.
    """
    first, _, rest = text.lstrip().partition("\n")
    if first.startswith("{") and (lines or rest.strip()) and _is_whole(first):
        return Table({"all": list(_line_records(text, name))})
    values = list(_values(text, name))
    if len(values) > 1 or (lines and isinstance(values[0][1], dict)):
        return Table(
            {"all": [Record(where, _row(value, where)) for where, value in values]},
        )
    content = values[0][1]
    parts = _parts(content, name) if isinstance(content, dict) else {"all": content}
    return Table({part: _records(items, part, name) for part, items in parts.items()})


def parse_items(text: str, name: str, *, lines: bool) -> list[Any]:
    """Parse what `parse_rows` does where any value may be a row, and a broken line is one row.

    Args:
        text: The whole file.
        name: The file's name, for messages.
        lines: As of `parse_rows`; and whether a first line that is broken may be a row.

    Returns:
        The values, with what is wrong with a line (DataError) in its place.

    Raises:
        DataError: It is not JSON, or in none of these shapes.
    """
    try:
        values = [value for _, value in _values(text, name)]
    except DataError:
        if not lines and not _is_whole(text.lstrip().partition("\n")[0]):
            raise
        return list(_line_items(text, name))
    if len(values) > 1 or (lines and not isinstance(values[0], list)):
        return values
    parts = _parts(values[0], name) if isinstance(values[0], dict) else {"all": values[0]}
    return [item for items in parts.values() for item in _listed(items, name)]


def _line_items(text: str, name: str) -> Iterator[Any]:
    for where, line in _lines(text, name):
        try:
            yield _line_value(line, where)
        except DataError as error:
            yield error


def _is_whole(line: str) -> bool:
    try:
        return isinstance(_DECODER.decode(line), dict)
    except _Twice:
        return True
    except (ValueError, RecursionError):
        return False


def _line_records(text: str, name: str) -> Iterator[Record]:
    for where, line in _lines(text, name):
        yield Record(where, _row(_line_value(line, where), where))


def _lines(text: str, name: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{name}, line {number}", line


def _line_value(line: str, where: str) -> Any:
    value, end = _decode(line, len(line) - len(line.lstrip()), where)
    if line[end:].strip():
        raise _invalid("Extra data", end + 1, where)
    return value


def _values(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """Values one after another, each with the line where it begins."""
    place, line = 0, 1
    while (start := _end_of_blanks(text, place)) < len(text):
        line += text.count("\n", place, start)
        value, place = _decode(text, start, name)
        yield f"{name}, line {line}", value
        line += text.count("\n", start, place)


def _end_of_blanks(text: str, place: int) -> int:
    blanks = _BLANKS.match(text, place)
    return blanks.end() if blanks else place


def _decode(text: str, start: int, where: str) -> tuple[Any, int]:
    """The value that begins at `start`, and where it ends."""
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        place = where if ", line " in where else f"{where}, line {error.lineno}"
        raise _invalid(error.msg, error.colno, place) from error
    except _Twice as error:
        raise DataError(
            f"has the key {str(error)!r} twice in one object.", field=where, remedy="Keep one of the two."
        ) from error
    except RecursionError as error:
        raise _too_deep(where) from error
    except ValueError as error:  # Python limits the digits of a number
        raise DataError(
            f"holds a number of too many digits ({error}).", field=where, remedy="Write it as a text."
        ) from error


def _invalid(message: str, column: int, where: str) -> DataError:
    return DataError(
        f"is not valid JSON: {message} at column {column}.", field=where, remedy="Mend or remove it."
    )


def _too_deep(where: str) -> DataError:
    return DataError("is nested too deeply.", field=where, remedy="Write flat objects.")


def _parts(content: dict[str, Any], name: str) -> dict[str, Any]:
    named = {PART_NAMES.get(key.lower()): items for key, items in content.items()}
    if content and None not in named and len(named) == len(content):
        return {str(part): items for part, items in named.items()}
    items = next(iter(content.values()), None)
    if len(content) == 1 and isinstance(items, list) and items and isinstance(items[0], dict):
        return {"all": items}
    raise DataError(
        f"is an object with the keys {', '.join(map(repr, list(content)[:8]))}.",
        field=name,
        remedy="Give a list of objects (of pandas: orient='records'), or an object with the lists train, "
        "validation and test.",
    )


def _records(items: Any, part: str, name: str) -> list[Record]:
    items = _listed(items, name)
    wheres = [f"{name}, item {number} of {part}" for number in range(len(items))]
    return [Record(where, _row(item, where)) for where, item in zip(wheres, items, strict=True)]


def _listed(items: Any, name: str) -> list[Any]:
    if not isinstance(items, list):
        raise DataError("is not a list of objects.", field=name, remedy="Write [{...}, {...}].")
    return items


def _row(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"is a JSON {type(value).__name__}, not an object.",
            field=where,
            remedy='Write {"column": "value", ...}.',
        )
    check_content(value, where)
    return value


def check_content(row: dict[str, Any], where: str) -> None:
    """Refuse what is nested too deeply, and halves of surrogate pairs: no tokenizer and no file holds them.

    Raises:
        DataError: There is one in `row`, or in what it consists of.
    """
    stack: list[tuple[Any, int]] = [(row, 0)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, dict | list):
            if depth == DEEPEST:
                raise _too_deep(where)
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            stack += [(piece, depth + 1) for piece in inner]
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"holds \\u{ord(value[error.start]):04x}, which is half of a character and no text.",
                    field=where,
                    remedy="Mend or remove it.",
                ) from error
