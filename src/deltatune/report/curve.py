"""How many rows, and which rank: curve.json in words, as charts and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from deltatune import units
from deltatune.report import charts, display
from deltatune.report.charts import Axis, Dot, Line
from deltatune.report.figures import Figure
from deltatune.report.words import Name, Sentence
from deltatune.results import Curve, CurvePoint, Curves, Failure, Gain

TITLES = {"rows": "How many rows?", "rank": "Which rank?"}
FEWEST = 4
"""Numbers of rows from which on a power law is fitted."""
SHOWN = 160
"""Characters of an error."""


class Drawn(NamedTuple):
    """Curves of one kind."""

    title: str
    words: list[Sentence]
    figure: Figure | None
    head: list[str]
    table: list[list[str]]
    """Cells of each point."""
    names: list[str]
    """The entry of each point."""


def drawn(curves: Curves | None, series: Mapping[str, int], worth: float | None = None) -> list[Drawn]:
    """All curves, by what their points differ in.

    Args:
        curves: What curve.json says.
        series: The number of each entry's colour and mark.
        worth: The smallest difference that matters.
    """
    found = []
    for kind, title in TITLES.items():
        of_kind = [curve for curve in curves.curves if curve.axis == kind] if curves else []
        if curves is None or not of_kind:
            continue
        head = ["Rows" if kind == "rows" else "Rank", display.style(curves.primary_metric).label]
        head += ["95\u202f% interval", "Steps" if kind == "rows" else "Trained parameters"]
        points = [(curve, point) for curve in of_kind for point in curve.points]
        found.append(
            Drawn(
                title,
                said(curves, kind, worth),
                _figure(curves, of_kind, series),
                head,
                [_cells(curves, kind, point) for _, point in points],
                [curve.name for curve, _ in points],
            )
        )
    return found


def said(curves: Curves, kind: str, worth: float | None = None) -> list[Sentence]:
    """What the curves of a kind come to, in sentences."""
    sentences = [
        sentence for curve in curves.curves if curve.axis == kind for sentence in _said(curves, curve, worth)
    ]
    if sentences and len(curves.seeds) == 1:
        which = " and of which rows were drawn" if kind == "rows" else ""
        sentences.append(
            [f"With one seed, the intervals leave out the luck of training{which}: they are too narrow."]
        )
    return sentences


def _said(curves: Curves, curve: Curve, worth: float | None) -> list[Sentence]:
    key = curves.primary_metric
    done = [point for point in curve.points if point.status == "done"]
    sentences: list[Sentence] = [_failed(curve, point) for point in curve.points if point.status == "failed"]
    if len(done) < 2:
        return [*sentences, [Name(curve.name), " has fewer than two points, so there is no curve."]]
    first, last = done[0], done[-1]
    ends = f"{display.metric(key, first.score)} with {_at(curve, first.at)}"
    ends += f" and {display.metric(key, last.score)} with {_at(curve, last.at)}"
    sentences.append([Name(curve.name), f" reaches {display.in_sentence(key)} {ends}."])
    if curve.last is None:
        return [*sentences, ["It has no value for each test row, so differences were not tested."]]
    sentences.append([_step(curve, curve.last, key)])
    if curve.least is not None:
        sentences.append([_least(curve, curve.least)])
    if curve.axis == "rows":
        sentences.append([_next(curve, key, worth, len({point.at for point in done}))])
    return sentences


def _failed(curve: Curve, point: CurvePoint) -> Sentence:
    error = point.error
    text = error.message if isinstance(error, Failure) else error or "no reason was recorded"
    return [Name(curve.name), f" failed with {_at(curve, point.at)}: {display.shorten(text, SHOWN)}"]


def _at(curve: Curve, number: int) -> str:
    return f"{number:,} rows" if curve.axis == "rows" else f"rank {number}"


def _step(curve: Curve, gain: Gain, key: str) -> str:
    """The last step that was measured."""
    ends = f"{gain.from_:,} to {gain.to:,}{' rows' if curve.axis == 'rows' else ''}"
    ends = f"From {'rank ' if curve.axis == 'rank' else ''}{ends}"
    amount = display.difference(key, abs(gain.gain), None)
    bounds = display.interval(key, [gain.low, gain.high])
    if gain.low > 0:
        return f"{ends} it gains {amount} {bounds}."
    if gain.high < 0:
        return f"{ends} it loses {amount} {display.interval(key, [-gain.high, -gain.low])}."
    return f"{ends} no difference is shown: {display.difference(key, gain.gain, [gain.low, gain.high])}."


def _least(curve: Curve, least: int) -> str:
    if curve.axis == "rows":
        if least == curve.own:
            return "Each smaller number of rows is beaten by a larger one."
        return f"No other number of rows is shown to beat {least:,}."
    return f"The smallest rank that no other is shown to beat is {least}."


def _next(curve: Curve, key: str, worth: float | None, numbers: int) -> str:
    """What more rows would gain, or why nothing is said of it."""
    law = curve.law
    if law is None:
        return (
            f"What more rows would gain is not predicted: a power law needs {FEWEST} numbers of rows, and "
            f"there are {numbers}."
        )
    gain = law.next
    if not law.scale:  # the law allows for no harm by more rows, so its intervals would be none
        return "The scores get no better with more rows, so they do not tell what further rows would gain."
    if gain is None:
        return (
            f"The scores do not follow a power law ({display.p_value(law.p)}), so what more rows would gain "
            "is not predicted."
        )
    more = f"Another {gain.to - gain.from_:,} rows ({gain.to:,} in all) would gain"
    amount = display.difference(key, gain.gain, [gain.low, gain.high])
    if worth is not None and gain.high < worth:
        return f"{more} {amount}: less than matters ({display.difference(key, worth, None)})."
    nothing = display.metric(key, 0.0, unit=False)
    if display.metric(key, gain.low, unit=False) == nothing:
        return f"{more} {amount}: these rows and seeds cannot tell whether it is anything."
    return f"{more} {amount}."


def _figure(curves: Curves, of_kind: Sequence[Curve], series: Mapping[str, int]) -> Figure | None:
    style = display.style(curves.primary_metric)
    shown = []
    for curve in of_kind:
        number = series.get(curve.name, 0)
        dots = [
            Dot(
                curve.name,
                number,
                float(point.at),
                float(point.score),
                (point.interval[0], point.interval[1]) if point.interval else None,
                f"{curve.name}, {_at(curve, point.at)}: "
                f"{display.metric(curves.primary_metric, point.score)} "
                f"{display.interval(curves.primary_metric, point.interval)}",
            )
            for point in curve.points
            if point.score is not None
        ]
        if len(dots) < 2:
            continue
        line = Line(curve.name, number, [(dot.x, dot.y) for dot in dots])
        if curve.law is not None and curve.law.next is not None:
            points = [(float(each.at), float(each.score)) for each in curve.law.line]
            band = [(float(each.low), float(each.high)) for each in curve.law.line]
            line = Line(curve.name, number, points, band)
        shown.append((line, dots))
    if not shown:
        return None
    rows = of_kind[0].axis == "rows"
    x = Axis("Training rows" if rows else "Rank", display.tick)
    y = Axis(style.label, lambda value: f"{value * style.scale:.3g}")
    known = max(curve.own for curve in of_kind) if rows else max(dot.x for _, dots in shown for dot in dots)
    predicted = any(line.band for line, _ in shown)
    note = "Dots: means over seeds on the test rows, with 95\u202f% intervals. "
    if predicted:
        note += (
            "Line: a power law through them, with the band of laws through other draws of test rows and "
            "seeds. Behind the dashed line it is a prediction."
        )
    return Figure(
        "By training rows" if rows else "By rank", note.strip(), charts.curve_chart(shown, x, y, known)
    )


def _cells(curves: Curves, kind: str, point: CurvePoint) -> list[str]:
    key = curves.primary_metric
    steps = f"{point.steps:,.0f}" if point.steps is not None else units.NOTHING
    return [
        f"{point.at:,}",
        display.metric(key, point.score) if point.status == "done" else "failed",
        display.interval(key, list(map(float, point.interval)) if point.interval else None),
        steps if kind == "rows" else display.amount(point.trained_parameters),
    ]
