"""What tuning buys: the best validation result to be expected after so many trials.

Of n results, in an order that chance made, k were the first. The best of k is expected to be the mean over
all choices of k of n, which has a closed form: the i-th best is the best of a choice if the k - 1 others come
from the n - i worse ones (Tang et al. 2020, "Showing your work doesn't always work": the estimator of Dodge
et al. 2019 draws with replacement and is biased).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from deltatune.report import charts, display
from deltatune.report.charts import Axis, Line
from deltatune.report.figures import Figure
from deltatune.report.load import Method
from deltatune.results import Tuning

FEWEST = 3
"""Trials of which a curve is drawn."""
BAND = (0.1, 0.9)


class Expected(NamedTuple):
    """The best of so many trials, over the orders in which they may come."""

    trials: int
    mean: float
    low: float
    """One order in ten has a worse best."""
    high: float
    """One order in ten has a better one."""


def expected_best(values: Sequence[float], *, higher_is_better: bool) -> list[Expected]:
    """The best result after 1, 2, ... of the trials, over all orders of them.

    Args:
        values: What each trial came to.
        higher_is_better: Their direction.
    """
    ordered, n = sorted(values, reverse=higher_is_better), len(values)
    found = []
    for k in range(1, n + 1):
        # comb(n - 1 - place, k - 1) / comb(n, k), each by the one before it
        ratios = ((n - k - place) / (n - 1 - place) for place in range(n - 1))
        shares = list(accumulate(ratios, operator.mul, initial=k / n))
        reached = list(accumulate(shares))  # by the best ones: the share of orders that found one of them
        better, worse = (
            next(value for value, share in zip(ordered, reached, strict=True) if share >= bound - 1e-12)
            for bound in BAND
        )
        mean = math.fsum(value * share for value, share in zip(ordered, shares, strict=True))
        found.append(Expected(k, mean, worse, better))
    return found


def tuning_curves(tuned: Sequence[tuple[Method, Tuning]], series: Mapping[str, int]) -> list[Figure]:
    """What each tuned method was expected to reach by its number of trials; nothing of too few."""
    lines, by = [], ""
    for method, tuning in tuned:
        values = [trial.value for trial in tuning.tried if trial.value is not None]
        if len(values) < FEWEST:
            continue
        by = tuning.by
        curve = expected_best(values, higher_is_better=by not in display.LOWER_FIRST)
        points = [(float(each.trials), each.mean) for each in curve]
        band = [(min(each.low, each.high), max(each.low, each.high)) for each in curve]
        lines.append(Line(method.shown, series[method.name], points, band))
    if not lines:
        return []
    style = display.style(by)
    axis = Axis(style.label, lambda value: f"{value * style.scale:.3g}")
    note = (
        "The best result to be expected of so many of the trials, on validation rows; the band holds eight "
        "of ten orders of them. What was stopped early counts with what it had."
    )
    chart = charts.line_chart(lines, Axis("Trials", display.tick), axis, marks=True)
    return [Figure("What tuning buys", note, chart)]
