"""Where the time of runs and comparisons went, as tables (`--timings`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from deltatune import units
from deltatune.cli import output
from deltatune.report.load import load, of_board
from deltatune.results import Across, Leaderboard, Phase, RunResult

WORK = ("training", "validation", "test rows")
"""What a run is for; the rest is what it costs beside that."""


def of_run(result: RunResult) -> None:
    """Print the phases of a run; nothing of a run that an older version made."""
    if result.timeline:
        _phases(f"Time of {result.name} (seed {result.seed})", result.timeline)


def of_comparison(board: Leaderboard, out: Path) -> None:
    """Print the phases of the whole comparison in `out`, and what each of its runs took.

    Args:
        board: Its leaderboard.
        out: Its folder.
    """
    if board.timeline:
        _phases("Time of this call", board.timeline)
    runs = [run.finished for method in of_board(board, out).methods for run in method.runs]
    timed = [(run, run.timeline) for run in runs if run is not None and run.timeline]
    if not timed:
        return
    table = _table("run", "seconds", "processor", *WORK, "the rest", "most of the rest")
    for run, timeline in timed:
        total = sum(phase.seconds for phase in timeline)
        work = [_seconds(timeline, name) for name in WORK]
        rest = sorted((p for p in timeline if p.name not in WORK), key=lambda p: p.seconds, reverse=True)
        table.add_row(
            output.text(f"{run.name} (seed {run.seed})"),
            *(f"{value:.2f}" for value in (total, sum(phase.processor_seconds for phase in timeline), *work)),
            units.share(total - sum(work), total),
            ", ".join(f"{phase.name} {phase.seconds:.2f}" for phase in rest[:3]),
        )
    output.line("\nTime of each run", "bold")
    output.stdout().print(table)


def of_sets(result: Across, out: Path) -> None:
    """Print the same for each data set of the comparison in `out`."""
    for each in result.sets:
        output.line(f"\nData set {each.name}", "bold cyan")
        of_comparison(load(out / each.folder).board, out / each.folder)


def _phases(title: str, timeline: Sequence[Phase]) -> None:
    total = sum(phase.seconds for phase in timeline)
    table = _table("phase", "seconds", "share", "processor")
    for phase in timeline:
        cells = f"{phase.seconds:.2f}", units.share(phase.seconds, total), f"{phase.processor_seconds:.2f}"
        table.add_row(output.text(phase.name), *cells)
    worked = sum(phase.processor_seconds for phase in timeline)
    table.add_row("in all", f"{total:.2f}", "", f"{worked:.2f}", style="bold")
    output.line(f"\n{title}", "bold")
    output.stdout().print(table)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        words = heading in ("phase", "run", "most of the rest")
        table.add_column(heading, justify="left" if words else "right")
    return table


def _seconds(timeline: Sequence[Phase], name: str) -> float:
    return sum(phase.seconds for phase in timeline if phase.name == name)
