"""The report over several data sets: a page, and tables for other programs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deltatune.errors import DeltatuneError
from deltatune.files import read_json
from deltatune.printable import printable_json
from deltatune.recipe.written import as_written
from deltatune.report import charts, display
from deltatune.report.across_words import NAME, caveat, normalised, sentences
from deltatune.report.charts import Axis, Line
from deltatune.report.figures import Figure
from deltatune.report.html import environment, shell
from deltatune.report.load import relative_paths, replaced
from deltatune.report.rank_chart import Placed, rank_chart
from deltatune.report.run import AGAIN
from deltatune.report.text import inert, markdown_cell
from deltatune.results.across import Across, MethodAcross, OnSet

_FOLDER = re.compile(r"sets/\w[\w.-]*")
MOST_DRAWN = 20
"""Methods that charts show."""


def load_across(folder: Path) -> Across:
    """Read what the comparison over several data sets came to.

    Raises:
        DeltatuneError: The file cannot be read.
    """
    path = folder / NAME
    content = read_json(path, remedy=AGAIN)
    here = relative_paths(content.get("recipe"), folder.resolve())  # a report is sent to others
    result = Across.of(replaced(content, here), f"'{path}'", remedy=AGAIN)
    for each in result.sets:
        if not _FOLDER.fullmatch(each.folder):  # a stranger may have written it, and the page links there
            raise DeltatuneError(
                f"names the folder {each.folder[:80]!r}, which is none of a data set.",
                field=str(path),
                remedy=AGAIN,
            )
    return result


def renderers() -> Mapping[str, Callable[[Across], str]]:
    """What renders each format that there is of such a report."""
    return {"html": render_html, "md": render_markdown, "csv": render_csv, "json": render_json}


def render(folder: Path, form: str) -> str:
    """Render the report of the folder.

    Raises:
        DeltatuneError: There is no such format of it, or the file cannot be read.
    """
    known = renderers()
    if form not in known:
        raise DeltatuneError(
            f"a sheet of charts is of one comparison, and '{folder}' holds several data sets.",
            field="--format",
            remedy=f"Name one of its folders sets/NAME, or take one of {', '.join(known)}.",
        )
    return known[form](load_across(folder))


class Page:
    """What the template shows."""

    def __init__(self, result: Across) -> None:
        self.result = result
        trained = [row.name for row in result.rows if row.name != result.yardstick]
        names = sorted(trained, key=_recipe_order(result))
        self.series = {row.name: charts.NEUTRAL for row in result.rows} | {
            name: number for number, name in enumerate(names)
        }
        self.contest = [row for row in result.rows if row.iqm is not None]
        self.key = result.primary_metric

    def swatch(self, row: MethodAcross) -> Markup:
        """The mark of a method."""
        return charts.swatch(self.series[row.name])

    def bar(self, row: MethodAcross) -> Markup:
        """Its interquartile mean and interval on a scale common to all."""
        ends = [end for each in self.contest for end in (each.iqm, *(each.interval or ())) if end is not None]
        low, high = min(ends), max(ends)
        room = (high - low) * 0.02 or 1.0
        assert row.iqm is not None  # of the contest
        bounds = (row.interval[0], row.interval[1]) if row.interval else None
        return charts.interval_bar(row.iqm, bounds, low - room, high + room, self.series[row.name])

    def is_first(self, on_set: OnSet) -> bool:
        """Whether nothing is shown to be better on that set."""
        return on_set.rank == 1

    def figures(self) -> list[Figure]:
        """Performance profiles, and mean ranks with the critical difference."""
        shown = [row for row in self.contest if row.profile][:MOST_DRAWN]
        result = []
        if shown:
            lines = [self._profile(row) for row in shown]
            note = (
                "At what share of its runs (data sets times seeds) a method scores more than the value "
                "below. Up and to the right is better; bands are 95\u202f% intervals."
            )
            x = Axis("Normalised score", display.tick)
            y = Axis("Share of runs above it (%)", lambda value: f"{value:.3g}")
            result.append(Figure("Performance profile", note, charts.line_chart(lines, x, y, linear=True)))
        ranked = [row for row in self.contest if row.mean_rank is not None][:MOST_DRAWN]
        critical = self.result.critical
        if critical is not None and ranked:
            note = "On each data set the methods are ranked by their scores, 1 for the best. "
            note += (
                f"Those beside one bracket cannot be told apart on tasks like these (Friedman "
                f"{display.p_value(critical.p)})."
                if critical.difference is not None
                else "So few data sets tell no two of them apart, however they rank."
            )
            placed = [Placed(row.name, self.series[row.name], row.mean_rank or 0) for row in ranked]
            result.append(Figure("Mean rank", note, rank_chart(placed, critical.difference)))
        return result

    def _profile(self, row: MethodAcross) -> Line:
        assert row.profile is not None
        levels = [100 * level for level in self.result.levels]
        points = [(level, 100 * share) for level, share in zip(levels, row.profile.shares, strict=True)]
        band = [(100 * low, 100 * high) for low, high in zip(row.profile.low, row.profile.high, strict=True)]
        return Line(row.name, self.series[row.name], points, band)

    @property
    def recipe(self) -> str:
        """The recipe as text."""
        return as_written(self.result.recipe or {})


def _recipe_order(result: Across) -> Callable[[str], int]:
    methods = (result.recipe or {}).get("methods") or []
    places = {str(entry.get("name")): place for place, entry in enumerate(methods) if isinstance(entry, dict)}
    return lambda name: places.get(name, len(places))


def render_html(result: Across) -> str:
    """The whole page, self-contained but for the links to the pages of the data sets."""
    template = environment().get_template("across.html.j2")
    return template.render(
        **shell(),
        page=Page(result),
        result=result,
        display=display,
        answer=sentences(result),
        caveat=caveat(result),
        normalised=normalised,
    )


def render_markdown(result: Across) -> str:
    """The answer, and a table with a column for each data set."""
    key = result.primary_metric
    head = ["rank", "method", "interquartile mean", "mean rank", *(each.name for each in result.sets)]
    rows = []
    for row in result.rows:
        scores = [
            f"{display.metric(key, each.score)} {display.interval(key, each.interval)}".strip()
            if each.error is None
            else "failed"
            for each in row.on_sets
        ]
        ranked = normalised(row.iqm, row.interval) if row.iqm is not None else "\u2013"
        mean_rank = f"{row.mean_rank:.2f}" if row.mean_rank is not None else "\u2013"
        rows.append([str(row.rank or "\u2013"), row.name, ranked, mean_rank, *scores])
    table = [head, ["--:", ":--", *["--:"] * (len(head) - 2)], *([markdown_cell(c) for c in r] for r in rows)]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    title = f"# {len(result.rows)} methods on {len(result.sets)} data sets"
    parts = [title, markdown_cell(result.answer), lines, caveat(result)]
    if result.warnings:
        parts += ["## Warnings", "\n".join(f"- {markdown_cell(text)}" for text in result.warnings)]
    return "\n\n".join(parts) + "\n"


def table(result: Across) -> list[list[Any]]:
    """The names of the columns, then a line for each method on each data set, numbers as in across.json."""
    columns = [
        "method", "set", "score", "low", "high", "rank_on_set", "normalised", "error", "rank", "iqm",
        "iqm_low", "iqm_high", "tasks_low", "tasks_high", "mean_rank",
    ]  # fmt: skip
    lines: list[list[Any]] = [columns]
    for row in result.rows:
        lines += [
            [
                row.name, each.set, each.score, *_ends(each.interval), each.rank, each.normalised, each.error,
                row.rank, row.iqm, *_ends(row.interval), *_ends(row.interval_on_tasks), row.mean_rank,
            ]
            for each in row.on_sets
        ]  # fmt: skip
    return lines


def _ends(bounds: Sequence[float] | None) -> tuple[float | None, float | None]:
    return (bounds[0], bounds[1]) if bounds else (None, None)


def render_csv(result: Across) -> str:
    """The table as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for line in table(result):
        writer.writerow(["" if cell is None else inert(cell) for cell in line])
    return out.getvalue()


def render_json(result: Across) -> str:
    """The file, with what its numbers are made of in words."""
    return printable_json(result.as_dict() | {"caveat": caveat(result)}) + "\n"
