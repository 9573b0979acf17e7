"""Charts as inline SVG. Colours come from the page's style sheet, so that light and dark both work.

A series has a number; its colour is the CSS variable `--s0`..`--s7` and its mark one of four shapes, so that
neighbours are not told apart by colour alone. `NEUTRAL` is grey, for what the methods are measured against.
Without scripts a chart says more by its `<title>`s; the page's script (page.js) turns those into tooltips,
and reads the points of a curve from `data-points`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from deltatune.report.labels import LINE, Box, beside_line, place
from deltatune.report.scales import Scale, fit, spans_decades

WIDTH, HEIGHT = 440.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 14.0, 12.0, 44.0
AREA = Box(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
COLOURS = 8
NEUTRAL = -1
MANY = 10  # more methods than these get thinner lines, and names only on the Pareto front
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A curve of one method; `band` has the lowest and highest run at each point, if there are several."""

    name: str
    series: int
    points: list[Point]
    band: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Dot:
    """A method in a scatter plot, with the interval of its y."""

    name: str
    series: int
    x: float
    y: float
    interval: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its title, and how its numbers are written."""

    title: str
    write: Callable[[float], str] = field(default=lambda value: f"{value:g}")
    log: bool = False


@dataclass(frozen=True)
class Scatter:
    """What a scatter plot shows: quality against cost."""

    dots: Sequence[Dot]
    """The methods."""
    x: Axis
    """Cost; logarithmic if it says so and all costs are positive."""
    y: Axis
    """Quality."""
    baseline: Dot | None = None
    """A method without cost (the untuned base), drawn as a line across."""
    front: Sequence[Point] = ()
    """(cost, quality) of the methods on the Pareto front, by rising cost; drawn as a staircase."""

    @property
    def log(self) -> bool:
        """Whether costs are on a logarithmic scale."""
        costs = [dot.x for dot in self.dots]
        return self.x.log and bool(costs) and min(costs) > 0


def line_chart(
    lines: Sequence[Line], x: Axis, y: Axis, *, marks: bool = False, linear: bool = False
) -> Markup:
    """Curves over steps. The y axis turns logarithmic when the values span a factor of 20, unless `linear`.

    Args:
        lines: The curves.
        x: Its title and number format.
        y: The same.
        marks: Draw each point, as for a few evaluations.
        linear: Keep the y axis linear.
    """
    lines = [line for line in lines if line.points]
    values = [value for line in lines for _, value in line.points]
    values += [end for line in lines for ends in line.band for end in ends]
    log = not linear and spans_decades(values)
    y_scale = fit(values, AREA.bottom, AREA.top, log=log)
    x_scale = fit([step for line in lines for step, _ in line.points], AREA.left, AREA.right, zero=True)
    parts = [_axes(x_scale, y_scale, x, Axis(f"{y.title} (log)" if log else y.title, y.write))]
    parts += [_band(line, x_scale, y_scale) for line in lines if line.band]
    parts += [_curve(line, x_scale, y_scale, x, y, marks=marks) for line in lines]
    parts.append(
        Markup('<line class="cross" x1="-9" x2="-9" y1="{:.0f}" y2="{:.0f}"/>').format(AREA.top, AREA.bottom)
    )
    return _svg(parts, f"{y.title} by {x.title.lower()}", kind="lines many" if len(lines) > MANY else "lines")


def curve_chart(curves: Sequence[tuple[Line, Sequence[Dot]]], x: Axis, y: Axis, known: float) -> Markup:
    """What was measured, with intervals, and the curve through it, over a logarithmic axis.

    Args:
        curves: Each with its dots.
        x: Its title and number format.
        y: The same.
        known: Nothing was measured beyond; a line is drawn there if a curve goes on.
    """
    values = [value for line, dots in curves for _, value in line.points]
    values += [end for line, _ in curves for ends in line.band for end in ends]
    values += [value for _, dots in curves for dot in dots for value in (dot.y, *(dot.interval or ()))]
    places = sorted(
        {step for line, dots in curves for step in [*(dot.x for dot in dots), line.points[-1][0]]}
    )
    y_scale = fit(values, AREA.bottom, AREA.top + 4)
    x_scale = fit(places, AREA.left + 6, AREA.right - 6, log=True)
    parts = [_axes(x_scale, y_scale, Axis(_logarithmic(x.title), x.write), y, places)]
    parts += [_band(line, x_scale, y_scale) for line, _ in curves if line.band]
    parts += [_curve(line, x_scale, y_scale, x, y, marks=False) for line, _ in curves]
    if places[-1] > known:
        parts.append(
            Markup('<line class="front" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>').format(
                x_scale(known), AREA.top, AREA.bottom
            )
        )
    for dot in (dot for _, dots in curves for dot in dots):
        px, bar = x_scale(dot.x), _bar(dot, x_scale(dot.x), y_scale)
        body = Markup("<title>{}</title>").format(dot.note or dot.name)
        body += _error_bar(px, bar.top, bar.bottom) if bar else Markup("")
        parts.append(_group("dot", dot.series, body + _mark(dot.series, px, y_scale(dot.y), 4.5)))
    return _svg(parts, f"{y.title} by {x.title.lower()}")


def scatter(shown: Scatter) -> Markup:
    """Quality against cost, with error bars and a name at each dot."""
    dots, x, y, baseline, front, log = shown.dots, shown.x, shown.y, shown.baseline, shown.front, shown.log
    all_dots = [*dots, baseline] if baseline else list(dots)
    values = [value for dot in all_dots for value in (dot.y, *(dot.interval or ()))]
    costs = [dot.x for dot in dots]
    x_scale = fit(costs, AREA.left + 12, AREA.right - 12, log=log, zero=not log)
    y_scale = fit(values, AREA.bottom, AREA.top + 4)
    parts = [_axes(x_scale, y_scale, Axis(_logarithmic(x.title) if log else x.title, x.write), y)]
    steps = [(x_scale(cost), y_scale(value)) for cost, value in front]
    parts.append(_staircase(steps))
    places = [(x_scale(dot.x), y_scale(dot.y)) for dot in dots]
    bars = [_bar(dot, px, y_scale) for dot, (px, _) in zip(dots, places, strict=True)]
    obstacles = [box for box in bars if box]
    if baseline:
        height = y_scale(baseline.y)
        marks = [Box(px - 6, py - 6, px + 6, py + 6) for px, py in places]
        room = beside_line(height, _short(baseline.name), AREA, [*obstacles, *marks])
        parts.append(_baseline(baseline, height, room))
        apart = Box(room.left - 8, room.top, room.right + 8, room.bottom)  # lest two names read as one
        obstacles += [apart, Box(AREA.left, height - 1, AREA.right, height + 1)]
    named = [len(dots) <= MANY or (dot.x, dot.y) in front for dot in dots]
    names = [_short(dot.name) if shown else "" for dot, shown in zip(dots, named, strict=True)]
    boxes = place(places, names, AREA, [*obstacles, *_treads(steps)])
    if not all(boxes):  # rather a name on the line than none
        boxes = place(places, names, AREA, obstacles)
    for dot, (px, py), bar, name, box in zip(dots, places, bars, names, boxes, strict=True):
        body = Markup("<title>{}</title>").format(dot.note or dot.name)
        if bar:
            body += _error_bar(px, bar.top, bar.bottom)
        body += _mark(dot.series, px, py, 5)
        if box and name:
            body += _name(name, box, px, py)
        parts.append(_group("dot", dot.series, body))
    return _svg(parts, f"{y.title} against {x.title.lower()}")


def interval_bar(
    value: float, interval: tuple[float, float] | None, low: float, high: float, series: int
) -> Markup:
    """A dot with its interval on the common scale `low`..`high`, for a cell of a table."""
    scale = Scale(low, high, 8, 152)
    body = Markup('<line class="rail" x1="4" x2="156" y1="9" y2="9"/>')
    if interval:
        left, right = scale(interval[0]), scale(interval[1])
        body += Markup('<line class="reach" x1="{:.1f}" x2="{:.1f}" y1="9" y2="9"/>').format(left, right)
    body += _mark(series, scale(value), 9, 4.5)
    return Markup('<svg class="interval s{}" viewBox="0 0 160 18" aria-hidden="true">{}</svg>').format(
        _hue(series), body
    )


def swatch(series: int) -> Markup:
    """A series' mark, for a legend."""
    return Markup('<svg class="swatch s{}" viewBox="0 0 14 14" aria-hidden="true">{}</svg>').format(
        _hue(series), _mark(series, 7, 7, 5)
    )


def _hue(series: int) -> str:
    """The colour's part of a CSS class: `s0`..`s7`, `sn`."""
    return "n" if series == NEUTRAL else str(series % COLOURS)


def _group(kind: str, series: int, body: Markup) -> Markup:
    """What belongs to one method, so that the page's filter can hide it."""
    return Markup('<g class="{} s{}" data-m="{}">{}</g>').format(kind, _hue(series), series, body)


def _svg(parts: Sequence[Markup], title: str, *, kind: str = "dots") -> Markup:
    return Markup(
        '<svg class="chart {}" viewBox="0 0 {:.0f} {:.0f}" role="group" aria-label="{}">{}</svg>'
    ).format(kind, WIDTH, HEIGHT, title, Markup("").join(parts))


def _curve(line: Line, x_scale: Scale, y_scale: Scale, x: Axis, y: Axis, *, marks: bool) -> Markup:
    places = [(x_scale(step), y_scale(value)) for step, value in line.points]
    title = f"{line.name}: {y.write(line.points[0][1])} to {y.write(line.points[-1][1])}"
    path = "M" + "L".join(f"{px:.1f},{py:.1f}" for px, py in places)
    body = Markup('<title>{}</title><path class="curve" d="{}"/>').format(title, path)
    if marks or len(places) == 1:
        body += Markup("").join(_mark(line.series, px, py, 3.2) for px, py in places)
    texts = [y.write(value) for _, value in line.points]
    if line.band:
        texts = [
            f"{text} ({y.write(low)}\u2013{y.write(high)})"
            for text, (low, high) in zip(texts, line.band, strict=True)
        ]
    points = [
        [round(px, 1), f"{x.title} {x.write(round(step))}", text]
        for (px, _), (step, _), text in zip(places, line.points, texts, strict=True)
    ]
    return Markup('<g class="line s{}" data-m="{}" data-name="{}" data-points="{}">{}</g>').format(
        _hue(line.series), line.series, line.name, json.dumps(points, separators=(",", ":")), body
    )


def _band(line: Line, x_scale: Scale, y_scale: Scale) -> Markup:
    steps = [x_scale(step) for step, _ in line.points]
    edge = [(px, y_scale(high)) for px, (_, high) in zip(steps, line.band, strict=True)]
    edge += [(px, y_scale(low)) for px, (low, _) in reversed(list(zip(steps, line.band, strict=True)))]
    path = "L".join(f"{px:.1f},{py:.1f}" for px, py in edge)
    return _group("area", line.series, Markup('<path class="band" d="M{}Z"/>').format(path))


def _logarithmic(title: str) -> str:
    """`Parameters (log)`, `File size (MB, log)`."""
    return f"{title[:-1]}, log)" if title.endswith(")") else f"{title} (log)"


def _treads(steps: Sequence[Point]) -> list[Box]:
    """The room that the level parts of the front take."""
    ends = [x for x, _ in [*steps, (AREA.right, 0.0)][1:]]
    return [Box(x, y - 2, end, y + 2) for (x, y), end in zip(steps, ends, strict=True)]


def _staircase(places: Sequence[Point]) -> Markup:
    """The front: at any cost the best quality that can be had for it."""
    if not places:
        return Markup("")
    (x, y), *rest = places
    path = f"M{x:.1f},{y:.1f}" + "".join(f"H{px:.1f}V{py:.1f}" for px, py in rest)
    return Markup('<path class="front" d="{}H{:.1f}"/>').format(path, AREA.right)


def _axes(x_scale: Scale, y_scale: Scale, x: Axis, y: Axis, ticks: Sequence[float] = ()) -> Markup:
    parts = [Markup('<g class="axes">')]
    for tick in y_scale.ticks():
        height = y_scale(tick)
        parts.append(
            Markup(
                '<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>'
            ).format(AREA.left, AREA.right, height, height, AREA.left - 6, height + 4, y.write(tick))
        )
    edge = -math.inf
    for tick in ticks or x_scale.ticks(6):
        place_x, text = x_scale(tick), x.write(tick)
        half = len(text) * 3.4
        if place_x - half < edge:
            continue
        edge = place_x + half + 6
        parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
                min(place_x, WIDTH - half), AREA.bottom + 17, text
            )
        )
    parts.append(
        Markup('<line class="base" x1="{0:.1f}" x2="{1:.1f}" y1="{2:.1f}" y2="{2:.1f}"/>').format(
            AREA.left, AREA.right, AREA.bottom
        )
    )
    parts.append(
        Markup('<text class="title" x="{:.1f}" y="{:.1f}" text-anchor="end">{} \u2192</text></g>').format(
            AREA.right, HEIGHT - 8, x.title
        )
    )
    return Markup("").join(parts)


def _mark(series: int, x: float, y: float, r: float) -> Markup:
    """Circle, square, diamond or triangle; the ninth series has the first one's colour, not its shape."""
    kind = 0 if series == NEUTRAL else (series + series // COLOURS) % 4
    if kind == 0:
        return Markup('<circle class="mark" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(x, y, r)
    if kind == 1:
        side = 1.75 * r
        return Markup(
            '<rect class="mark" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1"/>'
        ).format(x - side / 2, y - side / 2, side, side)
    corners = (
        [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)] if kind == 2 else [(0, -1.25), (1.2, 0.95), (-1.2, 0.95)]
    )
    path = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in corners)
    return Markup('<polygon class="mark" points="{}"/>').format(path)


def _bar(dot: Dot, x: float, y_scale: Scale) -> Box | None:
    """The room an error bar takes."""
    if not dot.interval:
        return None
    return Box(x - 5, y_scale(dot.interval[1]), x + 5, y_scale(dot.interval[0]))


def _error_bar(x: float, top: float, bottom: float) -> Markup:
    path = f"M{x - 4:.1f},{top:.1f}h8M{x:.1f},{top:.1f}V{bottom:.1f}M{x - 4:.1f},{bottom:.1f}h8"
    return Markup('<path class="error" d="{}"/>').format(path)


def _name(name: str, box: Box, x: float, y: float) -> Markup:
    """A label, with a thin line to its point when it stands apart from it."""
    middle = (box.top + box.bottom) / 2
    near_x, near_y = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
    leader = Markup("")
    if math.hypot(near_x - x, near_y - y) > 16:
        leader = Markup('<line class="leader" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
            x, y, near_x, middle if near_x != x else near_y
        )
    text = Markup('<text class="name" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
        (box.left + box.right) / 2, box.bottom - LINE * 0.25, name
    )
    return leader + text


def _baseline(dot: Dot, height: float, box: Box) -> Markup:
    body = Markup(
        '<title>{}</title><line class="baseline" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
        '<text class="name" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>'
    ).format(
        dot.note or dot.name, AREA.left, AREA.right, height, height,
        box.right, box.bottom - LINE * 0.25, _short(dot.name),
    )  # fmt: skip
    return _group("dot", dot.series, body)


def _short(name: str) -> str:
    return str(name) if len(name) <= 22 else f"{name[:21]}\u2026"
