"""Mean ranks over data sets, with brackets beside methods that cannot be told apart (Demsar 2006)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from deltatune.report.charts import swatch
from deltatune.report.scales import Scale

WIDTH, ROW = 440.0, 24.0
LEFT, RIGHT = 150.0, 380.0
TOP, BOTTOM = 46.0, 40.0
_LONGEST = 20
_BESIDE = 9.0  # between brackets


class Placed(NamedTuple):
    """A method and its mean rank."""

    name: str
    series: int
    rank: float


def rank_chart(methods: Sequence[Placed], critical: float | None) -> Markup:
    """A row for each method, the best first; a bracket joins those whose ranks are not `critical` apart.

    Args:
        methods: In any order.
        critical: The critical difference; None: none would do, and there are no brackets.
    """
    rows = sorted(methods, key=lambda method: method.rank)
    bottom = TOP + ROW * len(rows)
    scale = Scale(1.0, float(max(2, len(rows))), LEFT + 10, RIGHT)
    parts = [_axis(scale, len(rows), bottom)]
    if critical is not None:
        parts.append(_ruler(scale, critical))
        groups = level_groups([row.rank for row in rows], critical)
        parts += [_bracket(first, last, place) for place, (first, last) in enumerate(groups)]
    for place, row in enumerate(rows):
        parts.append(_row(row, scale(row.rank), TOP + ROW * (place + 0.5)))
    return Markup(
        '<svg class="chart ranks" viewBox="0 0 {:.0f} {:.0f}" role="group" aria-label="{}">{}</svg>'
    ).format(WIDTH, bottom + BOTTOM, "Mean ranks over the data sets", Markup("").join(parts))


def level_groups(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last of the rows that cannot be told apart, of ranks in their order; none lies in another."""
    groups: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank < critical - 1e-9)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def _axis(scale: Scale, count: int, bottom: float) -> Markup:
    parts = [Markup('<g class="axes">')]
    step = 1 + count // 12
    for rank in range(1, max(2, count) + 1, step):
        x = scale(rank)
        parts.append(
            Markup(
                '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>'
                '<text x="{0:.1f}" y="{3:.1f}" text-anchor="middle">{4}</text>'
            ).format(x, TOP - 4, bottom, bottom + 16, rank)
        )
    parts.append(
        Markup(
            '<text class="title" x="{:.1f}" y="{:.1f}" text-anchor="end">Mean rank \u2192</text></g>'
        ).format(RIGHT + 10, bottom + 34)
    )
    return Markup("").join(parts)


def _ruler(scale: Scale, critical: float) -> Markup:
    """How long the critical difference is."""
    left = scale(1)
    right = min(scale(1 + critical), WIDTH - 4)
    return Markup(
        '<g class="axes"><text x="{0:.1f}" y="14">Critical difference {1:.2f}</text>'
        '<path class="ruler" d="M{0:.1f},22v8M{0:.1f},26H{2:.1f}M{2:.1f},22v8"/></g>'
    ).format(left, critical, right)


def _bracket(first: int, last: int, place: int) -> Markup:
    """A line beside the rows of a group."""
    x = RIGHT + 14 + _BESIDE * (place % 5)
    return Markup('<path class="level" d="M{:.1f},{:.1f}V{:.1f}"/>').format(
        x, TOP + ROW * (first + 0.2), TOP + ROW * (last + 0.8)
    )


def _row(row: Placed, x: float, y: float) -> Markup:
    name = row.name if len(row.name) <= _LONGEST else f"{row.name[: _LONGEST - 1]}\u2026"
    mark = Markup(
        str(swatch(row.series)).replace(
            "<svg", f'<svg x="{x - 7:.1f}" y="{y - 7:.1f}" width="14" height="14"', 1
        )
    )
    return Markup(
        '<g class="dot" data-m="{}"><title>{}\nmean rank {:.2f}</title>'
        '<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
        '<text x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>{}</g>'
    ).format(row.series, row.name, row.rank, LEFT, x, y, y, LEFT - 6, y + 4, name, mark)
