"""What the charts show: learning curves over seeds, and quality against each kind of cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from deltatune.phrasing import listing
from deltatune.report import charts, display
from deltatune.report.charts import Axis, Dot, Line, Point, Scatter
from deltatune.report.load import Comparison, Method

MOST_POINTS = 80
MOST_NAMES = 4


class Figure(NamedTuple):
    """A chart with its caption."""

    title: str
    note: str
    svg: Markup
    shown: Scatter | None = None
    """What a scatter plot is drawn of."""


class Stretch(NamedTuple):
    """Some neighbouring steps of all runs of a method: the mean over runs, the lowest and the highest run."""

    step: float
    mean: float
    low: float
    high: float


def over_seeds(runs: Sequence[Sequence[Point]], most: int = MOST_POINTS) -> list[Stretch]:
    """Runs of one method as one curve.

    Steps are grouped into at most `most` equal stretches; each run counts there with its own mean, so that a
    run which logged more often weighs no more. A run that stopped early is missing from the later ones.

    Args:
        runs: (step, value) of each run.
        most: How many stretches there may be.
    """
    last = max((step for run in runs for step, _ in run), default=0.0)
    width = max(1, math.ceil(last / most))
    groups: dict[int, dict[int, list[Point]]] = {}
    for number, run in enumerate(runs):
        for step, value in run:
            groups.setdefault(math.ceil(step / width), {}).setdefault(number, []).append((step, value))
    found = []
    for _, members in sorted(groups.items()):
        values = [fmean(value for _, value in points) for points in members.values()]
        step = fmean(step for points in members.values() for step, _ in points)
        found.append(Stretch(step, fmean(values), min(values), max(values)))
    return found


def pareto(points: Sequence[Point], *, higher_is_better: bool, floor: float | None = None) -> list[Point]:
    """The (cost, quality) points that no other one equals or beats at the same or lower cost, by rising cost.

    Args:
        points: Cost and quality.
        higher_is_better: The direction of quality.
        floor: A quality that costs nothing; points that do not beat it are not on the front.
    """
    sign = 1 if higher_is_better else -1
    best = -math.inf if floor is None else sign * floor
    front = []
    for cost, value in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if sign * value > best:
            best = sign * value
            front.append((cost, value))
    return front


def curves(comparison: Comparison, methods: Sequence[Method], series: Mapping[str, int]) -> list[Figure]:
    """Loss on training and on validation rows by step, and there the metric that decides, if recorded."""
    steps, loss = Axis("Step", display.tick), Axis("Loss", lambda value: f"{value:.3g}")
    several = any(len(method.runs) > 1 for method in methods)
    seeds = (
        " The line is the mean over seeds, the band reaches from the lowest to the highest."
        if several
        else ""
    )
    train = [_line(m, series, [run.training_loss() for run in m.runs]) for m in methods]
    validation = [_line(m, series, [run.validation("loss") for run in m.runs]) for m in methods]
    found = []
    if any(line.points for line in train):
        note = f"Long runs are drawn as means of equal stretches.{seeds}"
        found.append(Figure("Training loss", note, charts.line_chart(train, steps, loss)))
    if any(line.points for line in validation):
        note = f"On rows that are never trained on; the test rows play no part in it.{seeds}"
        found.append(Figure("Validation loss", note, charts.line_chart(validation, steps, loss, marks=True)))
    key = comparison.primary
    decides = [_line(m, series, [run.validation(key) for run in m.runs]) for m in methods]
    if key != "loss" and any(line.points for line in decides):
        style = display.style(key)
        name = style.label[0].lower() + style.label[1:] if style.label[1:2].islower() else style.label
        where = f"In {style.unit.strip()} on" if style.unit else "On"
        better = "Higher" if comparison.higher_is_better else "Lower"
        note = f"{where} validation rows; the ranks come from the test rows. {better} is better.{seeds}"
        axis = Axis(style.label, lambda value: f"{value * style.scale:.3g}")
        linear = comparison.higher_is_better  # scores end at zero, where a logarithm has no bottom
        chart = charts.line_chart(decides, steps, axis, marks=True, linear=linear)
        found.append(Figure(f"Validation {name}", note, chart))
    return found


def _line(method: Method, series: Mapping[str, int], runs: Sequence[Sequence[Point]]) -> Line:
    runs = [run for run in runs if run]
    stretches = over_seeds(runs)
    points = [(stretch.step, stretch.mean) for stretch in stretches]
    band = [(stretch.low, stretch.high) for stretch in stretches] if len(runs) > 1 else []
    return Line(method.shown, series[method.name], points, band)


COSTS = ("trained_parameters", "train_seconds", "step_memory_bytes", "file_bytes")
"""Costs that there are charts of, by their names in a leaderboard."""


def against_cost(
    comparison: Comparison, series: Mapping[str, int], costs: Sequence[str] = COSTS
) -> list[Figure]:
    """The deciding metric against trained parameters, time, memory and file size, with the Pareto front.

    Args:
        comparison: The comparison.
        series: Colour and mark of each method.
        costs: Those of `COSTS` that are drawn.
    """
    ranked = comparison.ranked
    seconds, unit = _time_unit([float(m.cost.train_seconds or 0) for m in ranked])
    axes = {
        "trained_parameters": (1.0, "Trained parameters"),
        "train_seconds": (seconds, f"Training time ({unit})"),
        "step_memory_bytes": (1e9, "Memory of a step (GB)"),
        "file_bytes": (1e6, "File size (MB)"),
    }
    label = display.style(comparison.primary).label
    scale = display.style(comparison.primary).scale
    decides = Axis(label, lambda value: display.tick(value * scale))
    free = next((m for m in ranked if not m.cost.trained_parameters), None)
    floor = comparison.value(free) if free else None
    better = "Up" if comparison.higher_is_better else "Down"
    found = []
    for name in costs:
        divisor, title = axes[name]
        axis = Axis(title, display.tick, log=True)
        tuned = [(m, cost) for m in ranked if m is not free and (cost := getattr(m.cost, name))]
        dots = [_dot(comparison, m, cost / divisor, axis, series) for m, cost in tuned]
        if not dots:
            continue
        front = pareto(
            [(dot.x, dot.y) for dot in dots], higher_is_better=comparison.higher_is_better, floor=floor
        )
        names = [dot.name for dot in dots if (dot.x, dot.y) in front]
        note = f"{better} and to the left is better. Bars are 95\u202f% intervals."
        if front:
            who = listing(names) if len(names) <= MOST_NAMES else f"{len(names)} of {len(dots)}"
            note += f" On the Pareto front (line): {who}."
        baseline = _dot(comparison, free, 0.0, None, series) if free else None
        shown = Scatter(dots, axis, decides, baseline, front)
        title = f"{label} against {axis.title.split(' (')[0].lower()}"
        found.append(Figure(title, note, charts.scatter(shown), shown))
    return found


def _dot(
    comparison: Comparison, method: Method, x: float, axis: Axis | None, series: Mapping[str, int]
) -> Dot:
    key, value = comparison.primary, comparison.value(method)
    assert value is not None  # ranked methods have one
    bounds = method.row.interval
    shown = f"{display.metric(key, value)} {display.interval(key, bounds)}".strip()
    cost = f"\n{axis.title}: {axis.write(float(f'{x:.3g}'))}" if axis else ""
    note = f"{method.shown}\n{display.style(key).label}: {shown}{cost}"
    return Dot(method.shown, series[method.name], x, value, (bounds[0], bounds[1]) if bounds else None, note)


def _time_unit(seconds: Sequence[float]) -> tuple[float, str]:
    """Seconds in the unit that suits the longest time, and its name."""
    longest = max(seconds, default=0.0)
    return (1.0, "seconds") if longest < 180 else (60.0, "minutes") if longest < 10_800 else (3600.0, "hours")
