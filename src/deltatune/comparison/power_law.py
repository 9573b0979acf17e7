"""A power law through the scores of several numbers n of training rows.

score = asymptote - scale n^-exponent, with a plus where a lower score is better.

The form that results of fine-tuning and of learning in general are found to follow (Hestness et al. 2017,
"Deep learning scaling is predictable, empirically"; Viering & Loog 2021, "The shape of learning curves: a
review", section 3, where it describes most data best of those with three parameters).

For a given exponent it is linear in the other two, so exponents are tried in turn, and these are solved for
(variable projection, Golub & Pereyra 1973). The scale is not negative, as more rows are not to harm, and the
asymptote is a score that there can be. The law is fitted to every draw of the scores (other test rows, other
seeds), and what it says differs from draw to draw as much as it is uncertain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deltatune.comparison.scores import Floats

EXPONENTS = np.geomspace(0.05, 2.5, 80)
"""Those found are mostly from .07 to 1 (Viering & Loog, table 1)."""
_LEAST_SHARE = 0.01  # of the largest variance: no number counts more than a hundred times another


@dataclass(frozen=True)
class Laws:
    """Power laws, one for each draw; arrays are [draws]."""

    largest: float
    """The number of rows that `scale` is the distance from the asymptote at."""
    sign: float
    """1 if a higher score is better, else -1."""
    asymptote: Floats
    scale: Floats
    exponent: Floats
    misfit: Floats
    """Weighted sum of the squares that are left."""

    def at(self, rows: float) -> Floats:
        """The scores of so many rows, [draws]."""
        return self.asymptote - self.sign * self.scale * (rows / self.largest) ** -self.exponent

    def gain(self, rows: float, more: float) -> Floats:
        """How much better the scores of `more` rows are than those of `rows`, [draws]."""
        found: Floats = self.sign * (self.at(more) - self.at(rows))
        return found


def fit(
    rows: Sequence[float], scores: Floats, weights: Floats, *, sign: float, low: float, high: float
) -> Laws:
    """Fit a law to each draw, by weighted least squares.

    Args:
        rows: Numbers of training rows, [numbers], at least three different ones.
        scores: Of each number in each draw, [draws, numbers].
        weights: Of each number's square, [numbers].
        sign: 1 if a higher score is better, else -1.
        low: No score is lower.
        high: No score is higher.
    """
    n = np.asarray(rows, dtype=np.float64)
    y, w = sign * scores, weights / weights.sum()
    top = high if sign > 0 else -low
    best = np.full((4, len(y)), np.inf)  # the squares that are left, asymptote, scale, exponent
    for exponent in EXPONENTS:
        x = (n / n.max()) ** -exponent
        a, b = _solved(x, y, w, top)
        left = (w * (y - a[:, None] + b[:, None] * x) ** 2).sum(axis=1)
        best = np.where(left < best[0], np.stack([left, a, b, np.full_like(a, exponent)]), best)
    return Laws(float(n.max()), sign, sign * best[1], best[2], best[3], best[0])


def _solved(x: Floats, y: Floats, w: Floats, top: float) -> tuple[Floats, Floats]:
    """Asymptotes a and scales b of y = a - b x with a <= top and b >= 0, [draws]; w sums to 1."""
    mean_x, mean_y = float(w @ x), y @ w
    spread = float(w @ (x - mean_x) ** 2)
    b = np.maximum(0.0, -((y - mean_y[:, None]) @ (w * (x - mean_x))) / spread)
    a = mean_y + b * mean_x
    beyond = a > top
    bounded = np.maximum(0.0, (top - y) @ (w * x) / float(w @ x**2))
    return np.where(beyond, top, a), np.where(beyond, bounded, b)


@dataclass(frozen=True)
class Fitted:
    """A law with its chances."""

    law: Laws
    """Of the scores as they are: one draw."""
    drawn: Laws
    """Of every draw."""
    p: float
    """How likely chance alone makes scores that are as far from a law as these."""


def fitted(
    rows: Sequence[float], scores: Floats, drawn: Floats, *, sign: float, low: float, high: float
) -> Fitted:
    """Fit a law to scores and to draws of them.

    Numbers of rows count the less the more their scores differ from draw to draw. To tell whether there is a
    law at all, the draws are moved to lie about the one that was found, and each is fitted anew: what is left
    of them is what chance leaves.

    Args:
        rows: Numbers of training rows, [numbers], at least three different ones.
        scores: Of each number, [numbers].
        drawn: The same as other test rows and seeds would have made them, [draws, numbers].
        sign: 1 if a higher score is better, else -1.
        low: No score is lower.
        high: No score is higher.
    """
    variances = drawn.var(axis=0)
    largest = float(variances.max())
    weights = 1 / np.maximum(variances, _LEAST_SHARE * largest) if largest else np.ones_like(variances)

    def through(values: Floats) -> Laws:
        return fit(rows, values, weights, sign=sign, low=low, high=high)

    law = through(scores[None])
    on_law = np.array([float(law.at(number)[0]) for number in rows])
    by_chance = through(drawn - scores + on_law).misfit
    slack = 1e-12 * max(1.0, float(np.abs(scores).max())) ** 2  # of scores that are on a law to rounding
    as_far = int((by_chance + slack >= law.misfit[0]).sum())
    return Fitted(law, through(drawn), (1 + as_far) / (1 + len(drawn)))
