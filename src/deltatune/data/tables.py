"""Tables as text, and delimited text as tables."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from deltatune.errors import DataError

DELIMITERS = "#\t;|,"
"""Candidates for sniffing; `#` is that of TabFact's tables. The comma is last, since it is also in prose."""


def flatten_table(header: Sequence[str], rows: Sequence[Sequence[str]], max_rows: int | None = None) -> str:
    r"""Write a table as one line of text: each row's number, then `name: value,` for each cell.

    >>> flatten_table(["Country", "Cost"], [["Russia", "42$"], ["Spain", "7$"]])
    '0 Country: Russia, Cost: 42$, 1 Country: Spain, Cost: 7$,'

    Line breaks and runs of spaces within names and cells become single spaces. A table without rows gives "".

    Args:
        header: The columns' names.
        rows: The cells, row by row.
        max_rows: Write only the first so many rows.

    Raises:
        DataError: A row has more or fewer cells than the header.
    """
    names = [" ".join(str(name).split()) for name in header]
    pieces = []
    for number, row in enumerate(rows[:max_rows]):
        if len(row) != len(names):
            raise DataError(
                f"has {len(row)} cells, but the header has {len(names)}.",
                field=f"table row {number}",
                remedy="Give every row a cell for every column.",
            )
        cells = (f"{name}: {' '.join(str(cell).split())}," for name, cell in zip(names, row, strict=True))
        pieces.append(" ".join((str(number), *cells)))
    return " ".join(pieces)


def read_text(path: Path, encodings: Sequence[str] = ("utf-8-sig",)) -> str:
    """Read a text file in the first encoding that fits.

    Raises:
        DataError: The file is missing, is not text in these encodings, or is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise missing_file(path, error) from error
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            continue
        if not text.strip():
            raise DataError("is empty.", field=str(path), remedy="Give a file with rows.")
        return text
    raise DataError(
        f"is not text in UTF-8: line {line} holds bytes of another encoding.",
        field=str(path),
        remedy="Save the file as UTF-8.",
    )


def missing_file(path: Path, error: OSError | None = None) -> DataError:
    """Say that a file or folder cannot be read, and what stands beside it."""
    reason = error.strerror.lower() if error and error.strerror else "no such file or directory"
    folder = path.parent
    beside = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    hint = (
        f" The folder holds: {', '.join(beside[:8])}{', ...' if len(beside) > 8 else ''}." if beside else ""
    )
    return DataError(
        f"cannot be read ({reason}).",
        field=str(path),
        remedy=f"Relative paths are meant from the recipe's folder.{hint}",
    )


def parse_delimited(
    text: str, delimiter: str, where: str, *, unique_names: bool = True
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Parse delimited text with a header line.

    Returns:
        The column names, and for each row its line number and cells. Blank lines are skipped.

    Args:
        text: The whole file.
        delimiter: One character.
        where: The file's name, for messages.
        unique_names: Whether each column must have a name of its own.

    Raises:
        DataError: A row has more or fewer cells than the header, a name stands twice, or a quote is open.
    """
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
            elif len(cells) != len(header):
                raise DataError(
                    f"has {len(cells)} cells, but the header names {len(header)} columns.",
                    field=f"{where}, line {reader.line_num}",
                    remedy="Quote cells that contain the delimiter, or complete the row.",
                )
            else:
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise DataError(
            f"is not valid ({error}).", field=f"{where}, line {reader.line_num}", remedy="Check its quotes."
        ) from error
    if unique_names:
        _check_names(header, where)
    return header, rows


def _check_names(header: list[str], where: str) -> None:
    for name in header:
        if header.count(name) > 1:
            raise DataError(
                f"has the column {name!r} twice." if name else "has columns without a name.",
                field=f"{where}, line 1",
                remedy="Give every column a name of its own.",
            )


def sniff_delimiter(text: str) -> str:
    """Find the delimiter that splits every line into the same number of cells, the more the better.

    If none does, it is the one that the first line holds most of, so that parsing names the faulty line.
    """
    widths: dict[str, int] = {}
    for delimiter in DELIMITERS:
        try:
            rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
        except csv.Error:
            continue
        if rows and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows):
            widths[delimiter] = len(rows[0])
    first = text.strip().split("\n", 1)[0]
    return max(widths, key=widths.__getitem__) if widths else max(DELIMITERS, key=first.count)
