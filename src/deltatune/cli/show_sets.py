"""The outcome over several data sets, as a person reads it."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from deltatune import units
from deltatune.cli import output
from deltatune.report import display
from deltatune.report.across_words import caveat, normalised
from deltatune.results.across import Across, MethodAcross


def across(result: Across, out: Path) -> None:
    """Print the answer over the data sets of the comparison in `out`, and why. Failures go to stderr."""
    key = result.primary_metric
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in (
        "rank",
        "method",
        "interquartile mean",
        "mean rank",
        *(each.name for each in result.sets),
    ):
        table.add_column(output.text(heading), justify="left" if heading == "method" else "right")
    for row in result.rows:
        table.add_row(*map(output.text, _cells(row, key)), style="bold" if row.rank == 1 else None)
    output.stdout().print(table)
    output.line("")
    output.paragraph(result.answer, "bold")
    output.paragraph(f"\n{display.style(key).label} on the test rows of each data set. {caveat(result)}")
    for row in result.rows:
        for each in row.on_sets:
            if each.error is not None:
                output.error(f"{row.name} failed on {each.set}: {each.error}")
    for used in result.sets:
        output.line(f"{used.name}: {out / used.folder / 'report.html'}", "dim")


def _cells(row: MethodAcross, key: str) -> list[str]:
    scores = [
        "failed" if each.error is not None else display.metric(key, each.score, unit=False)
        for each in row.on_sets
    ]
    mean_rank = units.NOTHING if row.mean_rank is None else f"{row.mean_rank:.2f}"
    iqm = units.NOTHING if row.iqm is None else normalised(row.iqm, row.interval)
    return [units.number(row.rank), row.name, iqm, mean_rank, *scores]
