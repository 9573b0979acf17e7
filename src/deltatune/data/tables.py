"""Tables as text, and delimited text as tables.

A table is rectangular: its delimiter is the one by which every row has as many cells as the header. That
tells more than what sniffers go by (`csv.Sniffer` and clevercsv take the `!` or the blanks of a column of
sentences for delimiters), and the parse that tells it is the one that is used.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from deltatune.errors import DataError

LISTS = ",;\t|"
"""Delimiters that a CSV file may have, the likeliest first."""
TABLES = "#\t;|,"
"""Those of a folder of tables; `#` is that of TabFact's. The comma is last, since it is also in prose."""
_SEPARATOR = re.compile(r'(?P<quote>"?)sep=(?P<delimiter>.)(?P=quote)\r?\n', re.IGNORECASE)
"""The first line by which spreadsheets tell each other the delimiter."""


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


@dataclass(slots=True)
class _Reading:
    """Delimited text as one dialect reads it, up to the first row that does not fit."""

    delimiter: str
    quoting: Literal[0, 3]
    header: list[str] = field(default_factory=list)
    rows: list[tuple[int, list[str]]] = field(default_factory=list)
    """Line number and cells."""
    fault: DataError | None = None


def parse_delimited(
    text: str, candidates: str, where: str, *, unique_names: bool = True
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Parse delimited text with a header line.

    Quotes enclose cells. Where tabs delimit, most programs know no quotes: there they are letters if the
    table is whole so, unless they enclose every cell of a column or hold doubled quotes.

    Returns:
        The column names, and for each row its line number and cells. Blank lines are skipped.

    Args:
        text: The whole file.
        candidates: Delimiters that it may have, the likeliest first. The one that gives every row as many
            cells as the header is taken, of several the one that gives most. A first line `sep=;` overrides.
        where: The file's name, for messages.
        unique_names: Whether each column must have a name of its own.

    Raises:
        DataError: A row has more or fewer cells than the header, a name stands twice, or a quote is open.
    """
    text, candidates, skipped = _told(text, candidates)
    best = _best(text, candidates, where, skipped)
    if best.fault is not None:
        raise best.fault
    if unique_names:
        _check_names(best.header, where, skipped + 1)
    return best.header, best.rows


def parse_rows_apart(text: str, candidates: str, where: str) -> Iterator[dict[str, str] | DataError]:
    """Parse delimited text as `parse_delimited` does, with what is wrong with a row in the row's place.

    Yields:
        The cells by column name; or the error.

    Raises:
        DataError: The header is not valid, or a name stands in it twice.
    """
    text, candidates, skipped = _told(text, candidates)
    best = _best(text, candidates, where, skipped)
    if not best.header and best.fault is not None:
        raise best.fault
    _check_names(best.header, where, skipped + 1)
    for _, cells in itertools.islice(_parse(text, best, where, skipped), 1, None):
        yield cells if isinstance(cells, DataError) else dict(zip(best.header, cells, strict=True))


def _told(text: str, candidates: str) -> tuple[str, str, int]:
    """The text without a first line that tells its delimiter; the candidates; how many lines are left out."""
    if told := _SEPARATOR.match(text):
        return text[told.end() :], told["delimiter"], 1
    return text, candidates, 0


def _best(text: str, candidates: str, where: str, skipped: int) -> _Reading:
    """The reading of the likeliest dialect."""
    first = text.lstrip().split("\n", 1)[0]
    others = [delimiter for delimiter in candidates[1:] if delimiter in first]
    readings = [_read(text, delimiter, where, skipped) for delimiter in (candidates[0], *others)]
    splitting = [reading for reading in readings if len(reading.header) > 1]
    whole = [reading for reading in splitting if reading.fault is None]
    if whole:
        return max(whole, key=lambda reading: len(reading.header))
    return max(splitting, key=lambda reading: len(reading.rows), default=readings[0])


def _read(text: str, delimiter: str, where: str, skipped: int) -> _Reading:
    quoted = _filled(_Reading(delimiter, csv.QUOTE_MINIMAL), text, where, skipped)
    if delimiter != "\t" or '"' not in text:
        return quoted
    literal = _filled(_Reading(delimiter, csv.QUOTE_NONE), text, where, skipped)
    return literal if literal.fault is None and not _encloses(literal) else quoted


def _filled(reading: _Reading, text: str, where: str, skipped: int) -> _Reading:
    for line, cells in _parse(text, reading, where, skipped):
        if isinstance(cells, DataError):
            reading.fault = cells
            break
        if not reading.header:
            reading.header = [cell.strip() for cell in cells]
        else:
            reading.rows.append((line, cells))
    return reading


def _parse(
    text: str, dialect: _Reading, where: str, skipped: int
) -> Iterator[tuple[int, list[str] | DataError]]:
    """The header and the rows, each with its line number; an error in the place of one that does not fit."""
    csv.field_size_limit(sys.maxsize)
    # newline="": lines end with what ends lines in files, and not with U+2028 or a form feed.
    stream = io.StringIO(text, newline="")
    start = text.lstrip().split("\n", 1)[0]
    spaced = f'{dialect.delimiter} "' in start  # as programs write who put a space after each comma
    reader = csv.reader(
        stream,
        delimiter=dialect.delimiter,
        quoting=dialect.quoting,
        skipinitialspace=spaced,
        strict=True,
    )
    columns = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = f"is not valid ({error}).", "Check its quotes."
        else:
            if not cells:
                continue
            columns = columns or len(cells)
            if len(cells) == columns:
                yield reader.line_num + skipped, cells
                continue
            fault = (
                f"has {len(cells)} cells, but the header names {columns} column{'s' if columns > 1 else ''}, "
                f"by the delimiter {dialect.delimiter!r}.",
                "Quote cells that contain the delimiter, complete the row, or set data.delimiter.",
            )
        line = reader.line_num + skipped
        yield line, DataError(fault[0], field=f"{where}, line {line}", remedy=fault[1])


def _encloses(literal: _Reading) -> bool:
    """Whether quotes that were read as letters look like enclosing ones."""
    everywhere = [True] * len(literal.header)
    for _, cells in literal.rows:
        for place, cell in enumerate(cells):
            enclosed = len(cell) > 1 and cell[0] == cell[-1] == '"'
            if enclosed and '""' in cell[1:-1]:
                return True
            everywhere[place] &= enclosed
    return bool(literal.rows) and any(everywhere)


def _check_names(header: list[str], where: str, line: int) -> None:
    name, count = Counter(header).most_common(1)[0]
    if count > 1:
        raise DataError(
            f"has the column {name!r} twice." if name else "has columns without a name.",
            field=f"{where}, line {line}",
            remedy="Give every column a name of its own.",
        )
