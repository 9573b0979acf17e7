"""How rows write any number of labels: lists, texts with something between the labels, columns of 0 and 1.

What stands between labels is told from all cells of a source at once, since one cell (`toys, games`) does not
tell whether it is one label or two. `check` says what was taken for what.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deltatune.data.cells import as_text, check_characters, column_of
from deltatune.data.rows import Record
from deltatune.errors import DataError
from deltatune.recipe.sections import DataSpec
from deltatune.tasks.classes import in_order

SEPARATORS = {",": "a comma", ";": "a semicolon", "|": "a bar"}
"""What may stand between labels unless the recipe names something else."""
FLAGS = {
    "1": True, "0": False, "1.0": True, "0.0": False, "true": True, "false": False, "yes": True, "no": False,
}  # fmt: skip
"""What a column for one label may hold, in small letters."""
FIELD = "data.columns.target"
_TWO_STRINGS = re.compile(r"""['"]\s+['"]""")
"""Strings with nothing but blanks between them, as NumPy prints arrays: Python would take them for one."""
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class LabelCells:
    """Where the labels of a row are, and how they are written."""

    columns: tuple[str, ...]
    """The column of all labels; or one for each label, whose name is the label's."""
    flags: bool = False
    """Whether there is a column for each label."""
    separator: str | None = None
    """What stands between labels in texts; None: a text is one label."""
    told: str = ""
    """How they are written, in words."""

    def of(self, record: Record) -> list[str]:
        """The labels of a row, each once: in the order of their columns, or that of classes.

        Raises:
            DataError: A cell holds no labels.
        """
        if self.flags:
            return [name for name in self.columns if _flag(record, name)]
        [name] = self.columns
        labels = _labels(record, name, self.separator)
        for label in labels:
            check_characters(label, record, name)
        return in_order(labels)


def find_label_cells(records: Sequence[Record], spec: DataSpec, target: str, notes: list[str]) -> LabelCells:
    """How the rows of a recipe write their labels.

    Args:
        records: All rows.
        spec: The recipe's data section.
        target: The column that `columns.target: auto` means.
        notes: Is told what a person should know.

    Raises:
        DataError: The cells hold no labels, or what stands between them cannot be told.
    """
    if isinstance(spec.columns.target, tuple):
        names = spec.columns.target
        return LabelCells(names, flags=True, told="a column of 0 and 1 for each label")
    [name] = spec.columns.targets
    name = target if name == "auto" else name
    cells = [_listed(record, name) for record in records]
    texts = [cell for cell in cells if isinstance(cell, str)]
    lists = [cell for cell in cells if isinstance(cell, list) and cell]
    _refuse_flags(texts, lists, name)
    separator = spec.separator or _separator(texts, name)
    split = sum(separator in text for text in texts) if separator else 0
    if texts and spec.separator and not split:
        notes.append(f"data.separator ({spec.separator!r}) is in no text of column {name!r}.")
    ways = [f"a list in {len(lists):,}"] * bool(lists)
    if split and separator:
        ways.append(f"a text with {SEPARATORS.get(separator, repr(separator))} between labels in {split:,}")
    if len(texts) > split:
        ways.append(f"a text of one label in {len(texts) - split:,}")
    twice = [record for record in records if _repeats(_labels(record, name, separator))]
    if twice:
        more = f" and {len(twice) - 1} more rows name" if twice[1:] else " names"
        notes.append(f"{twice[0].where}{more} a label twice in column {name!r}; it counts once.")
    told = f"{' and '.join(ways)} of {len(records):,} rows" if ways else ""
    return LabelCells((name,), separator=separator, told=told)


def _listed(record: Record, name: str) -> list[Any] | str:
    """What a cell holds: a list of labels, empty where there is nothing; or a text, which is not empty.

    Raises:
        DataError: It holds an object, or a list that cannot be read.
    """
    value = column_of(record, name, FIELD)
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, dict):
        raise DataError(
            f"holds {_shortened(as_text(value))}: labels are a list or a text, not an object.",
            field=f"{record.where}, column {name!r}",
            remedy="Write the names of those that hold as a list.",
        )
    text = as_text(value).strip()
    if not text:
        return []
    written = _list_in(text, f"{record.where}, column {name!r}")
    return text if written is None else written


def _list_in(text: str, where: str) -> list[Any] | None:
    """The list that a text is, in JSON or as Python prints it; None of another text.

    Raises:
        DataError: It is one as NumPy prints it, whose items run into each other.
    """
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if read is ast.literal_eval and _TWO_STRINGS.search(text):
            raise DataError(
                f"holds {_shortened(text)}, a list without commas.",
                field=where,
                remedy="Write lists in JSON, with a comma between labels.",
            )
        return found if isinstance(found, list) else None
    return None


def _labels(record: Record, name: str, separator: str | None) -> list[str]:
    """The labels of a cell, in its order.

    Raises:
        DataError: One of them is none.
    """
    cell = _listed(record, name)
    if isinstance(cell, str):
        cell = cell.split(separator) if separator else [cell]
    labels = []
    for item in cell:
        if item is None or isinstance(item, bool | list | tuple | dict):
            kind = "nothing" if item is None else "no name"
            raise DataError(
                f"holds {_shortened(as_text(cell))}, where {_shortened(as_text(item) or 'null')} is {kind}.",
                field=f"{record.where}, column {name!r}",
                remedy="A list of labels holds their names, and is empty where there is none.",
            )
        labels.append(as_text(item).strip())
    return [label for label in labels if label]


def _flag(record: Record, name: str) -> bool:
    text = as_text(column_of(record, name, FIELD)).strip()
    if text.lower() in FLAGS:
        return FLAGS[text.lower()]
    raise DataError(
        f"holds {_shortened(text)!r}, which is neither 0 nor 1." if text else "is empty.",
        field=f"{record.where}, column {name!r}",
        remedy="A column for one label has 1 (true, yes) in rows that have it, and 0 (false, no) elsewhere.",
    )


def _refuse_flags(texts: Sequence[str], lists: Sequence[list[Any]], name: str) -> None:
    """Refuse what says of numbered labels whether they hold: their names would be 0 and 1.

    Raises:
        DataError: All cells are so.
    """
    if texts and not lists and all(text.lower() in FLAGS for text in texts):
        raise DataError(
            f"holds {' and '.join(sorted(set(texts))[:2])} alone: it says of one label whether a row has it.",
            field=f"column {name!r}",
            remedy=f"Write columns: {{target: [{name}]}}, with a column for each label.",
        )
    items = {as_text(item).strip().lower() for cell in lists for item in cell}
    if lists and items <= FLAGS.keys() and len({len(cell) for cell in lists}) == 1 < len(lists[0]):
        raise DataError(
            f"holds lists of {len(lists[0])} times 0 or 1 ({_shortened(as_text(lists[0]))}), which name no "
            "labels.",
            field=f"column {name!r}",
            remedy="Write the names of those that a row has as a list, or a column of 0 and 1 for each.",
        )


def _separator(texts: Sequence[str], name: str) -> str | None:
    """What stands between labels, if any of the usual signs does.

    Raises:
        DataError: Several of them are there.
    """
    counts = {sign: sum(sign in text for text in texts) for sign in SEPARATORS}
    there = [sign for sign in SEPARATORS if counts[sign]]
    if len(there) > 1:
        said = " and ".join(f"{sign!r} in {counts[sign]:,}" for sign in there)
        raise DataError(
            f"holds {said} of {len(texts):,} texts; one of them may stand between labels, and others belong "
            "to names.",
            field=f"column {name!r}",
            remedy=f"Say which with data.separator, such as {there[-1]!r}; or write lists.",
        )
    return there[0] if there else None


def _repeats(labels: Sequence[str]) -> bool:
    return len(set(labels)) < len(labels)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
