"""Whether probabilities hold: accuracy by confidence, ECE and Brier scores, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from deltatune.report import charts, display
from deltatune.report.charts import Axis, Line
from deltatune.report.load import Method
from deltatune.results import Prediction

if TYPE_CHECKING:
    from deltatune.evaluation.metrics.chances import ClassChances, Floats

Z = 1.959964
"""Standard deviations to either side that 95 % of a normal distribution are within."""
DRAWS = 2000
FEWEST = 5
"""Rows of a bin that is drawn."""
_AT_ONCE = 2_000_000
KEYS = ("ece", "brier")


class Share(NamedTuple):
    """A share of rows with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, part: float, rows: float, inputs: float) -> Share | None:
        """`part` of `rows`, which have so many different inputs; None if there are no rows."""
        if rows <= 0 or inputs <= 0:
            return None
        share = part / rows
        below = 1 + Z * Z / inputs
        middle = (share + Z * Z / (2 * inputs)) / below
        reach = Z / below * math.sqrt(share * (1 - share) / inputs + Z * Z / (4 * inputs * inputs))
        return cls(share, max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach)))

    @property
    def text(self) -> str:
        """`91.2`, in percent."""
        return f"{100 * self.value:.1f}"

    @property
    def bounds(self) -> str:
        """`[88.0, 93.6]`, in percent."""
        return f"[{100 * self.low:.1f},\u00a0{100 * self.high:.1f}]"


class Number(NamedTuple):
    """A metric with its interval, as text."""

    value: float
    text: str
    bounds: str


class Calibration(NamedTuple):
    """What the page shows."""

    numbers: list[tuple[Method, list[Number]]]
    """Of each method its `KEYS`."""
    chart: Markup


def calibration(
    runs: Mapping[str, tuple[Method, list[list[Prediction]]]], labels: list[str], series: Mapping[str, int]
) -> Calibration | None:
    """Accuracy by confidence and the numbers, of the methods whose rows all have probabilities.

    Args:
        runs: By method the predictions of each seed, of the same rows in the same order.
        labels: The classes.
        series: Colour and mark of each method.
    """
    known = {
        name: (method, of_method)
        for name, (method, of_method) in runs.items()
        if of_method[0] and all(row.probabilities for run in of_method for row in run)
    }
    if not known:
        return None
    least = 1 / len(labels)  # the highest probability is no lower
    lines = [Line("as it should be", charts.NEUTRAL, [(least, least), (1.0, 1.0)])]
    numbers = []
    for name, (method, of_method) in known.items():
        tables = [_chances(run, labels) for run in of_method]
        lines.append(_line(method, series[name], tables))
        numbers.append((method, _numbers(of_method[0], tables)))
    axis = Axis("Confidence", lambda value: f"{value:.2g}")
    chart = charts.line_chart(lines, axis, Axis("Accuracy", axis.write), marks=True, linear=True)
    return Calibration(numbers, chart)


def _chances(run: Sequence[Prediction], labels: Sequence[str]) -> ClassChances:
    from deltatune.evaluation.metrics.chances import ClassChances

    predictions, references = [row.prediction for row in run], [row.reference for row in run]
    return ClassChances.of([row.probabilities or {} for row in run], predictions, references, labels)


def _numbers(rows: Sequence[Prediction], tables: Sequence[ClassChances]) -> list[Number]:
    from deltatune.evaluation.metrics.chances import CHANCES, BySums

    places = {key: place for place, key in enumerate(dict.fromkeys(row.of_input for row in rows))}
    groups = [places[row.of_input] for row in rows]
    found = []
    for key in KEYS:
        metric = CHANCES[key]
        assert isinstance(metric, BySums)
        found.append(_bootstrapped(key, [metric.statistics(table) for table in tables], metric.score, groups))
    return found


def _bootstrapped(
    key: str, of_seeds: Sequence[Floats], score: Callable[[Floats], Floats], groups: Sequence[int]
) -> Number:
    """A metric that follows from sums over rows, averaged over seeds, with a percentile interval over inputs.

    A resample of a biased score, as the ECE is, has its bias twice: so draws are moved until their mean is
    the value.

    Args:
        key: Of the metric.
        of_seeds: What is summed over rows, [rows, numbers] of each seed.
        score: Sums to scores.
        groups: The number of each row's input.
    """
    import numpy as np

    inputs = max(groups) + 1
    sums = np.zeros((len(of_seeds), inputs, of_seeds[0].shape[1]))
    for seed, values in enumerate(of_seeds):
        np.add.at(sums[seed], np.asarray(groups), values)
    value = float(score(sums.sum(axis=1)).mean())
    random, parts, size = np.random.default_rng(0), [], max(1, _AT_ONCE // inputs)
    for start in range(0, DRAWS, size):
        share = np.full(inputs, 1 / inputs)
        weights = random.multinomial(inputs, share, size=min(size, DRAWS - start)).astype(np.float64)
        parts.append(np.stack([score(weights @ of_seed) for of_seed in sums]).mean(axis=0))
    draws = np.concatenate(parts)
    ends = np.maximum(np.quantile(draws - draws.mean() + value, [0.025, 0.975]), 0.0)
    return Number(value, display.metric(key, value), display.interval(key, [float(end) for end in ends]))


def _line(method: Method, series: int, tables: Sequence[ClassChances]) -> Line:
    """Accuracy of the rows in each bin of confidence, of all seeds, with Wilson's interval."""
    import numpy as np

    from deltatune.evaluation.metrics.chances import BINS, bins_of

    confidence = np.concatenate([given.table.max(axis=1) for given in tables])
    right, bins = np.concatenate([given.right for given in tables]), bins_of(confidence)
    points, band = [], []
    for place in range(BINS):
        within = bins == place
        rows = int(within.sum())
        share = Share.of(float(right[within].sum()), rows, rows / len(tables))
        if share is None or rows < FEWEST:
            continue
        points.append((float(confidence[within].mean()), share.value))
        band.append((share.low, share.high))
    return Line(method.shown, series, points, band)
