"""How the numbers of a regression are spread, and which of them decide everything by being far away.

Numbers are learned in standard deviations from the mean. One that stands for no value (-999, 1e12) or has a
digit too many makes that deviation its own: all others become next to equal, and nothing says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deltatune.data.rows import Row
from deltatune.tasks.values import as_text, numbers_of

DECIDES = 0.5
"""Share of the variance of all training rows from which on one row is named that makes it."""
ENOUGH = 20
"""Training rows below which one of them may well make most of the variance."""
FAR = 10.0
"""Standard deviations of the training rows beyond which a held-out row decides the squared error."""


@dataclass(frozen=True)
class Spread:
    """The numbers of one part."""

    least: float
    most: float
    mean: float
    median: float


@dataclass(frozen=True)
class Spreads:
    """The numbers of all parts."""

    parts: dict[str, Spread]
    far: list[str]
    """What must be said of numbers that are far away."""

    @classmethod
    def of(cls, parts: Mapping[str, Sequence[Row]]) -> Spreads:
        """Look at the targets of rows, which are finite numbers; the training rows' have a finite spread.

        Of several targets each is looked at, and named in what is said; its parts are `train price` and the
        like.
        """
        names = list(numbers_of(parts["train"][0].target))
        if names == [""]:
            return cls._of_one(parts)
        spreads: dict[str, Spread] = {}
        far: list[str] = []
        for name in names:
            of_target = {part: [_alone(row, name) for row in rows] for part, rows in parts.items()}
            found = cls._of_one(of_target)
            spreads |= {f"{part} {name}": spread for part, spread in found.parts.items()}
            far += [f"{name}: {text}" for text in found.far]
        return cls(spreads, far)

    @classmethod
    def _of_one(cls, parts: Mapping[str, Sequence[Row]]) -> Spreads:
        values = {part: [float(row.target) for row in rows] for part, rows in parts.items() if rows}
        spreads = {part: _spread(numbers) for part, numbers in values.items()}
        mean = spreads["train"].mean
        squares = [(value - mean) ** 2 for value in values["train"]]
        variance = math.fsum(squares)
        far = _decides(parts["train"], squares, variance)
        sd = math.sqrt(variance / len(squares))
        for part in ("validation", "test"):
            far += _beyond(part, parts[part], values.get(part, []), mean, sd)
        return cls(spreads, far)

    def as_dict(self) -> dict[str, Any]:
        """By part, for JSON."""
        return {part: vars(spread) for part, spread in self.parts.items()}


def _alone(row: Row, name: str) -> Row:
    """The row with one of its targets."""
    return replace(row, target=as_text(numbers_of(row.target)[name]))


def _spread(numbers: Sequence[float]) -> Spread:
    ordered = sorted(numbers)
    middle = ordered[(len(ordered) - 1) // 2] / 2 + ordered[len(ordered) // 2] / 2
    mean = math.fsum(number / len(ordered) for number in ordered)
    return Spread(ordered[0], ordered[-1], mean, middle)


def _decides(rows: Sequence[Row], squares: Sequence[float], variance: float) -> list[str]:
    """Of a training row that makes most of the variance."""
    largest = max(range(len(squares)), key=squares.__getitem__)
    share = squares[largest] / variance
    if len(squares) < ENOUGH or share < DECIDES:
        return []
    return [
        f"the target {as_text(float(rows[largest].target))} of training row {rows[largest].id} makes "
        f"{share:.0%} of the variance of all {len(rows):,}: beside it the others are next to equal, and the "
        "loss is that of this row. If it is a slip or stands for no value, mend or remove it; numbers that "
        "reach over several powers of ten are better learned as their logarithms."
    ]


def _beyond(part: str, rows: Sequence[Row], values: Sequence[float], mean: float, sd: float) -> list[str]:
    """Of held-out rows that are far from all that was learned."""
    apart = [abs(value - mean) / sd for value in values]
    far = [place for place, distance in enumerate(apart) if distance > FAR]
    if not far:
        return []
    first = max(far, key=apart.__getitem__)
    return [
        f"{len(far):,} of {len(rows):,} {part} rows {'has a target' if len(far) == 1 else 'have targets'} "
        f"more than {FAR:g} standard deviations from the training rows' mean (row {rows[first].id}: "
        f"{as_text(float(rows[first].target))}): they decide the squared error and R² of this part."
    ]
