"""A chart as PDF, for a paper: drawn by matplotlib, since no light package turns SVG into PDF."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from deltatune.errors import DeltatuneError
from deltatune.report import charts
from deltatune.report.charts import Axis, Dot, Scatter
from deltatune.report.figures import Figure
from deltatune.report.sheet import light_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import Formatter

_MARKS = ("o", "s", "D", "^")  # in the order of charts.py
_SIZE = (5.4, 3.9)
"""Inches: a column and a half of a page."""
_SETTINGS = {
    "font.size": 9,
    "pdf.fonttype": 42,  # letters stay letters, which journals ask for
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def pdf(figure: Figure) -> bytes:
    """Quality against cost, with intervals, the Pareto front and a legend.

    Args:
        figure: One of `figures.against_cost`.

    Raises:
        DeltatuneError: The extra `plots` is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise DeltatuneError(
            "a PDF needs the package matplotlib.",
            field="path",
            remedy='Run pip install "deltatune[plots]", or write SVG.',
        ) from error
    assert figure.shown is not None
    file = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        canvas = Canvas(figsize=_SIZE, layout="constrained")
        _draw(canvas.add_subplot(), figure.shown, figure.title)
        canvas.legend(loc="outside lower center", ncols=3, frameon=False)
        canvas.savefig(file, format="pdf", metadata={"CreationDate": None, "Title": figure.title})
    return file.getvalue()


def _draw(axes: Axes, shown: Scatter, title: str) -> None:
    colours = light_colours()
    axes.set_title(_plain(title), loc="left", fontweight="bold")
    axes.set_xlabel(_plain(f"{shown.x.title} (log)" if shown.log else shown.x.title))
    axes.set_ylabel(_plain(shown.y.title))
    if shown.log:
        axes.set_xscale("log")
        costs = [dot.x for dot in shown.dots]
        within_a_decade = max(costs) < 10 * min(costs)
        axes.xaxis.set_minor_formatter(_written(shown.x) if within_a_decade else "")
    axes.xaxis.set_major_formatter(_written(shown.x))
    axes.yaxis.set_major_formatter(_written(shown.y))
    axes.grid(color=colours["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
    if shown.front:
        reached, values = zip(*shown.front, strict=True)
        axes.step(reached, values, where="post", color=colours["dim"], linewidth=1)
    if shown.baseline:
        label = _plain(shown.baseline.name)
        axes.axhline(shown.baseline.y, color=colours["sn"], linestyle="--", linewidth=1, label=label)
    for dot in shown.dots:
        _dot(axes, dot, colours)


def _dot(axes: Axes, dot: Dot, colours: dict[str, str]) -> None:
    colour, mark = colours["sn"], _MARKS[0]
    if dot.series != charts.NEUTRAL:
        colour = colours[f"s{dot.series % charts.COLOURS}"]
        mark = _MARKS[(dot.series + dot.series // charts.COLOURS) % len(_MARKS)]
    low, high = dot.interval or (dot.y, dot.y)
    axes.vlines(dot.x, low, high, color=colour, linewidth=1.2)
    axes.plot([dot.x], [dot.y], mark, color=colour, markersize=6, label=_plain(dot.name))


def _written(axis: Axis) -> Formatter:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: _plain(axis.write(value)))


def _plain(text: str) -> str:
    """A dollar sign is no formula, and a name that begins with a line belongs into the legend, too."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
