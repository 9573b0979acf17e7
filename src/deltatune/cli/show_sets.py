"""The outcome over several data sets, as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rich.cells import cell_len
from rich.table import Table

from deltatune import units
from deltatune.cli import output, show
from deltatune.report import display
from deltatune.report.across_words import caveat, normalised
from deltatune.results import Curves
from deltatune.results.across import Across, OnSet

NARROW = 24
"""Letters of a name in one line, where the terminal has no room for all columns side by side."""
_BETWEEN = 2


class _Column(NamedTuple):
    """A column of the table."""

    heading: str
    cells: list[str]
    wraps: bool = False
    """Whether it is of names, or has one for its heading; numbers are never cut."""

    def width(self, most: int | None) -> int:
        """Letters that it takes, with the blank behind it."""
        widest = max(map(cell_len, [self.heading, *self.cells]))
        return (min(widest, most) if self.wraps and most else widest) + _BETWEEN


def across(result: Across, out: Path) -> None:
    """Print the answer over the data sets of the comparison in `out`, and why. Failures go to stderr."""
    key, console = result.primary_metric, output.stdout()
    columns = _columns(result, key)
    most = NARROW if sum(column.width(None) for column in columns) > console.width else None
    for part in _side_by_side(columns, console.width, most):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _BETWEEN, 0, 0))
        for column in part:
            justify: Literal["left", "right"] = "left" if column.heading == "method" else "right"
            table.add_column(
                output.text(column.heading),
                justify=justify,
                overflow="fold",
                no_wrap=not column.wraps,
                max_width=most if column.wraps else None,
            )
        for place, row in enumerate(result.rows):
            cells = (output.text(column.cells[place]) for column in part)
            table.add_row(*cells, style="bold" if row.rank == 1 else None)
        console.print(table)
        output.line("")
    output.paragraph(result.answer, "bold")
    output.paragraph(f"\n{display.style(key).label} on the test rows of each data set. {caveat(result)}")
    for row in result.rows:
        for each in row.on_sets:
            if each.error is not None:
                output.error(f"{row.name} failed on {each.set}: {each.error}")
    for used in result.sets:
        output.line(f"{used.name}: {out / used.folder / 'report.html'}", "dim")


def curves(found: Mapping[str, Curves], worth: float | None) -> None:
    """Print the curves of each data set that has some, by its name."""
    for name, of_set in found.items():
        output.line(f"\nData set {name}", "bold cyan")
        show.curves(of_set, worth)


def _columns(result: Across, key: str) -> list[_Column]:
    rows = result.rows
    means = [units.NOTHING if row.iqm is None else normalised(row.iqm, row.interval) for row in rows]
    mean_ranks = [units.NOTHING if row.mean_rank is None else f"{row.mean_rank:.2f}" for row in rows]
    return [
        _Column("rank", [units.number(row.rank) for row in rows]),
        _Column("method", [row.name for row in rows], wraps=True),
        _Column("interquartile mean", means),
        _Column("mean rank", mean_ranks),
        *(
            _Column(each.name, [_score(row.on_sets[place], key) for row in rows], wraps=True)
            for place, each in enumerate(result.sets)
        ),
    ]


def _score(on_set: OnSet, key: str) -> str:
    return "failed" if on_set.error is not None else display.metric(key, on_set.score, unit=False)


def _side_by_side(columns: Sequence[_Column], width: int, most: int | None) -> list[list[_Column]]:
    """The columns in tables that are no wider than the terminal, each with the methods' names."""
    _, names, *_ = columns
    parts: list[list[_Column]] = [[]]
    for column in columns:
        part = parts[-1]
        if len(part) > 1 and sum(each.width(most) for each in [*part, column]) - _BETWEEN > width:
            part = [names]
            parts.append(part)
        part.append(column)
    return parts
