"""What somebody's rows look like: which columns there are, and what stands in them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deltatune.data.cells import as_text, is_image
from deltatune.data.label_cells import FLAGS, SEPARATORS
from deltatune.data.messages import parsed
from deltatune.data.readers import find_format, read_source
from deltatune.data.rows import Record, Table
from deltatune.recipe.sections import Format
from deltatune.tasks.values import number_of

LOOKED_AT = 20_000
"""Rows from which it is told what columns hold; more tell no more."""
_MOSTLY = 0.98
"""Share of the filled cells that must be of a kind."""
_CHARACTERS = 3.5
"""Of a token of European languages, on the low side, for limits before a tokenizer has looked."""

Kind = Literal["text", "number", "flag", "labels", "list", "spans", "messages", "image", "object", "empty"]


@dataclass(frozen=True)
class Column:
    """What a column holds."""

    name: str
    kind: Kind
    filled: float
    """Share of the rows in which there is something."""
    distinct: int
    words: float
    """Median of its texts, in words."""
    longest: int
    """Tokens of nearly the longest of its texts, by a guess from its characters."""
    whole: bool = False
    """Of numbers: whether all are whole."""

    def is_name(self, rows: int) -> bool:
        """Whether its texts may be names of classes: few, and each short."""
        few = 2 <= self.distinct <= min(200, max(20, rows // 5))
        return self.kind in ("text", "flag", "number") and few and self.words <= 4 and self.distinct < rows


@dataclass(frozen=True)
class Look:
    """What is known of a source."""

    source: str
    """As it is read here."""
    format: Format
    table: Table
    records: Sequence[Record]
    """Of the first part."""
    rows: dict[str, int]
    """By part: `all`, or train, validation and test."""
    columns: dict[str, Column]

    @property
    def count(self) -> int:
        """Rows to learn from, before a split."""
        return self.rows.get("all") or self.rows.get("train") or 0

    def of_kind(self, *kinds: Kind) -> list[Column]:
        """The columns of these kinds, in their order."""
        return [column for column in self.columns.values() if column.kind in kinds]

    @property
    def texts(self) -> list[Column]:
        """The columns of texts that may be read, the longest first; names of rows are none."""
        found = [column for column in self.of_kind("text") if not is_id(column, self.count)]
        return sorted(found, key=lambda column: -column.words)


def is_id(column: Column, rows: int) -> bool:
    """Whether a column names its row."""
    named = column.name.lower() in ("id", "_id", "idx", "index", "guid", "uuid", "key", "row_id")
    return named and column.distinct == rows


def look_at(source: str, declared: Format = "auto") -> Look:
    """Read a source and describe its columns.

    Raises:
        DataError: It cannot be read, or holds no rows.
    """
    kind = find_format(source, declared)
    table = read_source(source, declared)
    records = table.parts.get("all") or table.parts.get("train") or next(filter(None, table.parts.values()))
    looked = records[:LOOKED_AT]
    names = list(dict.fromkeys(name for record in looked[:1000] for name in record.columns))
    columns = {name: _described(name, [record.columns.get(name) for record in looked]) for name in names}
    rows = {part: len(part_rows) for part, part_rows in table.parts.items() if part_rows}
    return Look(source, kind, table, records, rows, columns)


def _described(name: str, cells: Sequence[Any]) -> Column:
    filled = [cell for cell in cells if is_image(cell) or isinstance(cell, Path) or not _is_empty(cell)]
    if not filled:
        return Column(name, "empty", 0.0, 0, 0.0, 0)
    share = len(filled) / len(cells)
    if is_image(filled[0]) or isinstance(filled[0], Path):
        return Column(name, "image", share, len(filled), 0.0, 0)
    kind = _kind_of_lists(filled)
    texts = [_shown(cell) for cell in filled]
    sizes = sorted(map(len, texts))
    longest = max(1, round(sizes[min(len(sizes) - 1, int(0.995 * len(sizes)))] / _CHARACTERS))
    words = statistics.median(len(text.split()) for text in texts)
    distinct = len(set(texts))
    if kind is not None:
        return Column(name, kind, share, distinct, words, longest)
    numbers = [number_of(text) for text in texts]
    if _most(text.strip().lower() in FLAGS for text in texts) and distinct <= 4:
        return Column(name, "flag", share, distinct, words, longest, whole=True)
    if _most(number is not None for number in numbers):
        whole = all(number is None or float(number).is_integer() for number in numbers)
        return Column(name, "number", share, distinct, words, longest, whole=whole)
    return Column(name, "labels" if separator_of(texts) else "text", share, distinct, words, longest)


def _kind_of_lists(cells: Sequence[Any]) -> Kind | None:
    """What lists and objects hold, be they written as JSON; None of other cells."""
    read = [parsed(cell) for cell in cells[:200]]
    if not _most(isinstance(cell, list | dict) for cell in read):
        return None
    items = [item for cell in read if isinstance(cell, list) for item in cell]
    if not any(isinstance(cell, list) for cell in read):
        return "object"
    if items and all(isinstance(item, str | int | float) for item in items):
        return "list"
    if items and all(isinstance(item, dict) for item in items):
        if _most("role" in item or "from" in item for item in items):
            return "messages"
        return "spans" if _most(_is_span(item) for item in items) else "object"
    return "spans" if items and _most(_is_span(item) for item in items) else "object"


def _is_span(item: Any) -> bool:
    if isinstance(item, dict):
        return bool({"start", "start_offset", "begin"} & item.keys())
    three = isinstance(item, list) and len(item) == 3
    return three and all(isinstance(place, int) for place in item[:2]) and isinstance(item[2], str)


def separator_of(texts: Sequence[str]) -> str | None:
    """The sign between several labels in a text, if texts are made of few labels that come again."""
    for sign in SEPARATORS:
        split = [[piece.strip() for piece in text.split(sign)] for text in texts]
        several = sum(len(pieces) > 1 for pieces in split)
        pieces = [piece for row in split for piece in row if piece]
        different = set(pieces)
        few = len(different) <= min(300, max(3, len(pieces) // 4))
        if several >= 0.05 * len(texts) and few and max((len(p.split()) for p in different), default=9) <= 4:
            return sign
    return None


def _most(held: Iterable[bool]) -> bool:
    answers = list(held)
    return bool(answers) and sum(answers) >= _MOSTLY * len(answers)


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _shown(cell: Any) -> str:
    if isinstance(cell, str | int | float | bool):
        return as_text(cell)
    return json.dumps(cell, ensure_ascii=False, default=str)
