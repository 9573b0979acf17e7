"""Areas under the ROC and the precision-recall curve, of weighted rows: many resamples at once.

Neither area is a function of sums over rows, for both compare every row with every other. But a resample only
weighs the rows (with how often it has each), and their order stays. So the rows are sorted once, and the
cumulative weights of thousands of resamples are the columns of one array.

Rows of equal score are one point of a curve: half of their pairs count for the ROC curve (Hanley & McNeil
1982), and precision is that of all of them. Both as scikit-learn has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Counts = NDArray[np.float32]
"""Whole numbers, and halves of them, which float32 has exactly up to 8 million."""


class _Sorted(NamedTuple):
    """The positive rows among all, the highest score first."""

    own: Floats
    """Weight of each positive row, [positives, draws]."""
    above: Floats
    """Weight of all rows of a higher score than each."""
    reach: Floats
    """The same with those of an equal score."""
    total: Floats
    """Weight of all rows, [draws]."""
    met: NDArray[np.intp]
    """How many positive rows have at least the score of each, [positives]."""


def _sorted(scores: Floats, positive: Flags, weights: Counts) -> _Sorted:
    order = np.argsort(-scores, kind="stable")
    falling = -scores[order]
    upto = np.zeros((len(order) + 1, weights.shape[1]), dtype=weights.dtype)
    for place, row in enumerate(order):  # four times as fast as a cumulative sum along the first axis
        np.add(upto[place], weights[row], out=upto[place + 1])
    places = np.flatnonzero(positive[order])
    first = np.searchsorted(falling, falling[places], side="left")
    behind = np.searchsorted(falling, falling[places], side="right")
    own, above, reach = (
        part.astype(np.float64) for part in (weights[order[places]], upto[first], upto[behind])
    )
    return _Sorted(own, above, reach, upto[-1].astype(np.float64), np.searchsorted(places, behind))


def roc_area(scores: Floats, positive: Flags, weights: Counts) -> Floats:
    """Area under the ROC curve: the share of pairs in which the positive row has the higher score.

    Args:
        scores: [rows].
        positive: Which rows are of the class, [rows].
        weights: [rows, draws].

    Returns:
        [draws]; NaN where all weight is on one side.
    """
    found = _sorted(scores, positive, weights)
    ours = found.own.sum(axis=0)
    # Among themselves positive rows win half of all pairs, whatever their order.
    wins = (found.own * (found.total - (found.above + found.reach) / 2)).sum(axis=0) - ours**2 / 2
    pairs = ours * (found.total - ours)
    return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1.0), np.nan)


def average_precision(scores: Floats, positive: Flags, weights: Counts) -> Floats:
    """Precision at the score of each positive row, on average; arguments and NaN as of `roc_area`."""
    found = _sorted(scores, positive, weights)
    ours = found.own.sum(axis=0)
    hits = np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(found.own, axis=0)])[found.met]
    precision = hits / np.where(found.reach > 0, found.reach, 1.0)
    total = (found.own * precision).sum(axis=0)
    return np.where(ours > 0, total / np.where(ours > 0, ours, 1.0), np.nan)


@dataclass(frozen=True)
class Curve:
    """An area under a curve of each class against the others, as a metric."""

    area: Callable[[Floats, Flags, Counts], Floats]
    """(scores [rows], which are of the class, weights [rows, draws]) to [draws]."""
    exchanged: Callable[[Curve, Floats, Floats, Flags, Floats], Floats]
    """What `exchange` does."""
    unknown: float
    """Its value where no class has rows on both sides."""

    def macro(self, scores: Floats, positive: Flags, weights: NDArray[np.floating]) -> Floats:
        """Unweighted mean over the classes that have rows on both sides, [draws].

        Args:
            scores: How likely each row is of each class, in any unit, [rows, classes].
            positive: Which it is of, [rows, classes].
            weights: Whole numbers, [rows, draws].
        """
        counts = np.ascontiguousarray(weights, dtype=np.float32)
        total, counted = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
        for of_class, theirs in zip(scores.T, positive.T, strict=True):
            area = self.area(of_class, theirs, counts)
            known = ~np.isnan(area)
            total += np.where(known, area, 0.0)
            counted += known
        return np.where(counted > 0, total / np.maximum(counted, 1), self.unknown)

    def value(self, scores: Floats, positive: Flags) -> float:
        """The metric of rows that weigh the same."""
        return float(self.macro(scores, positive, np.ones((len(scores), 1)))[0])

    def exchange(self, a: Floats, b: Floats, positive: Flags, moved: Floats) -> Floats:
        """The value of `a` less that of `b` after they have exchanged the scores of some rows, [draws].

        Args:
            a: Scores [rows, classes].
            b: The same of another model, on the same scale.
            positive: Which class each row is of, [rows, classes].
            moved: 1 where a row is exchanged, else 0, [rows, draws].
        """
        return self.exchanged(self, a, b, positive, moved)


def _each_way(curve: Curve, a: Floats, b: Floats, positive: Flags, moved: Floats) -> Floats:
    """Both values of every exchange: the rows of both, of which one half weighs 1 and the other 0."""
    both, of_both = np.concatenate([a, b]), np.concatenate([positive, positive])
    stays, comes = np.concatenate([1 - moved, moved]), np.concatenate([moved, 1 - moved])
    return curve.macro(both, of_both, stays) - curve.macro(both, of_both, comes)


def _by_effects(curve: Curve, a: Floats, b: Floats, positive: Flags, moved: Floats) -> Floats:
    """The same of an area that counts pairs of rows: what a row's exchange does is the same in each.

    Of a pair with the signs s and t (1 as it was, -1 exchanged) the count is k + s l + t m + s t q, and with
    both signs turned k - s l - t m + s t q. The difference has a term of each row and none of two (Bandos,
    Rockette & Gur 2005, who so have the exact variance).
    """
    effects, counted = np.zeros(len(a)), 0
    for ours, theirs, flags in zip(a.T, b.T, positive.T, strict=True):
        pairs = int(flags.sum()) * int((~flags).sum())
        if pairs:
            counted += 1
            effects[flags] += _below(ours, theirs, flags, ~flags) / (2 * pairs)
            effects[~flags] -= _below(ours, theirs, ~flags, flags) / (2 * pairs)
    effects /= max(counted, 1)
    found: Floats = effects.sum() - 2 * (effects @ moved)
    return found


def _below(a: Floats, b: Floats, of: Flags, among: Flags) -> Floats:
    """How many more scores of other rows, in `a` and `b`, lie below a row's in `a` than below it in `b`."""
    others = np.sort(np.concatenate([a[among], b[among]]))

    def placed(scores: Floats) -> Floats:
        ends = [np.searchsorted(others, scores, side) for side in ("left", "right")]
        return np.mean(ends, axis=0)

    return placed(a[of]) - placed(b[of])


CURVES = {
    # Where there is one class only, every order is as good as a random one.
    "roc_auc": Curve(roc_area, _by_effects, 0.5),
    "average_precision": Curve(average_precision, _each_way, 0.0),
}
"""By metric key."""
