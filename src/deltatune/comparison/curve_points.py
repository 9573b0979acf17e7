"""What came of the runs of a curve: scores with intervals, a power law, and what more would gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from deltatune.comparison.judged import read_judged
from deltatune.comparison.many import contest
from deltatune.comparison.power_law import Fitted, fitted
from deltatune.comparison.resampling import Draws
from deltatune.comparison.scores import AnySample, Floats
from deltatune.results import (
    AnyResult,
    CurvePoint,
    FailedRun,
    Gain,
    LawPoint,
    PowerLaw,
    RunResult,
)

FEWEST = 4
"""Numbers of rows to which a power law is fitted: it has three parameters."""
UNLIKELY = 0.01
"""Below this p, scores are not taken to follow a power law."""
CONFIDENCE = 0.95
_DRAWS = 10_000
_OF_LAW = 4_000  # of these, to which a law is fitted
_LINE = 24  # points of a law that are written down


@dataclass(frozen=True)
class Runs:
    """The runs of one point."""

    at: float
    asked: int | None
    folders: Sequence[Path]
    results: Sequence[AnyResult]

    @property
    def done(self) -> list[RunResult]:
        """Their results, if all came to their end."""
        found = [result for result in self.results if isinstance(result, RunResult)]
        return found if len(found) == len(self.results) else []


@dataclass(frozen=True)
class Measure:
    """How scores are read."""

    metric: str
    up: bool
    """Whether a higher score is better."""
    task: str
    positive: str | None
    """As of `read_judged`."""
    worth: float | None = None
    """The smallest difference that matters."""
    splits: int | None = None
    """As of `read_judged`."""


class Points:
    """The points of a curve that came to their end, and all of them as they are written down.

    Args:
        runs: Of each point, the smallest first.
        measure: How scores are read.
        out: The comparison's folder.
    """

    def __init__(self, runs: Sequence[Runs], measure: Measure, out: Path) -> None:
        self.measure = measure
        self.sign = 1.0 if measure.up else -1.0
        done = [each for each in runs if each.done]
        self.samples = _samples(done, measure)
        self.draws = Draws(self.samples, _DRAWS, 0) if self.samples else None
        bounds = self.draws.intervals(CONFIDENCE) if self.draws else [None] * len(done)
        of = dict(zip(map(id, done), bounds, strict=True))
        self.all = [_point(each, of.get(id(each)), measure.metric, out) for each in runs]
        self.done = [point for point in self.all if point.status == "done"]

    def least(self) -> int | None:
        """The smallest point that no other is shown to beat."""
        if self.draws is None or len(self.done) < 2:
            return None
        names = list(map(str, range(len(self.done))))
        scores = {name: float(point.score or 0) for name, point in zip(names, self.done, strict=True)}
        samples = dict(zip(names, self.samples, strict=True))
        ranks = contest(samples, scores, higher_is_better=self.measure.up, worth=self.measure.worth).ranks
        return next(point.at for name, point in zip(names, self.done, strict=True) if ranks[name] == 1)

    def last(self) -> Gain | None:
        """How much the last point is better than the one before it."""
        if self.draws is None or len(self.done) < 2:
            return None
        one, other = len(self.done) - 2, len(self.done) - 1
        found = self.draws.differences([(other, one)], CONFIDENCE)[0]
        low, high = sorted((self.sign * found.low, self.sign * found.high))
        return _gain(self.done[one].at, self.done[other].at, self.sign * found.difference, low, high)

    def law(self) -> PowerLaw | None:
        """A power law through them, if they are enough."""
        rows = [float(point.at) for point in self.done]
        if self.draws is None or len(set(rows)) < FEWEST:
            return None
        found = fitted(
            rows,
            np.array([sample.mean() for sample in self.samples]),
            together(self.draws)[:_OF_LAW],
            sign=self.sign,
            low=min(sample.low for sample in self.samples),
            high=max(sample.high for sample in self.samples),
        )
        return _written(found, rows)


def together(draws: Draws) -> Floats:
    """Scores of all points as the same other test rows, and other seeds of each, would have made them.

    [draws, points]. The draws of one point have the spread of its interval, but for the tails of Student's t.
    """
    scores = np.stack(draws.scores, axis=1)
    normal = np.random.default_rng((draws.seed, 6)).standard_normal(scores.shape)
    spread = draws.spread.variances.T / draws.spread.seeds
    found: Floats = scores + normal * np.sqrt(spread)
    return found


def _samples(done: Sequence[Runs], measure: Measure) -> list[AnySample]:
    """What the points scored on the test rows; none if the metric has no value for each row."""
    files = {str(n): [folder / "predictions.jsonl" for folder in each.folders] for n, each in enumerate(done)}
    data = done[-1].done[0].data if done else None
    positive, splits = measure.positive, measure.splits
    found = read_judged(files, measure.metric, measure.task, data, positive, splits=splits).samples
    return list(found.values()) if len(found) == len(files) else []


def _point(runs: Runs, bounds: Sequence[float] | None, metric: str, out: Path) -> CurvePoint:
    done = runs.done
    failed = next((result for result in runs.results if isinstance(result, FailedRun)), None)
    point = CurvePoint(
        at=round(runs.at),
        asked=runs.asked,
        status="done" if done else "failed",
        error=failed.error if failed else None,
        runs=[folder.relative_to(out).as_posix() for folder in runs.folders],
    )
    if not done:
        return point
    by_seed = [float(result.metrics.test[metric]) for result in done]
    return point.model_copy(
        update={
            "score": fmean(by_seed),
            "interval": list(bounds) if bounds else None,
            "by_seed": by_seed,
            "steps": fmean(result.cost.steps for result in done),
            "trained_parameters": done[0].cost.trained_parameters,
        }
    )


def _written(found: Fitted, rows: Sequence[float]) -> PowerLaw:
    law, largest = found.law, max(rows)
    exponent = float(law.exponent[0])

    def bounds(values: Floats) -> tuple[float, float]:
        low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return float(low), float(high)

    line = []
    for at in dict.fromkeys(round(number) for number in np.geomspace(min(rows), 2 * largest, _LINE)):
        low, high = bounds(found.drawn.at(at))
        line.append(LawPoint(at=at, score=float(law.at(at)[0]), low=low, high=high))
    gained = float(law.gain(largest, 2 * largest)[0])
    more = _gain(round(largest), round(2 * largest), gained, *bounds(found.drawn.gain(largest, 2 * largest)))
    return PowerLaw(
        asymptote=float(law.asymptote[0]),
        scale=float(law.scale[0]) * largest**exponent,
        exponent=exponent,
        p=found.p,
        line=line,
        next=more if found.p >= UNLIKELY and law.scale[0] else None,
    )


def _gain(before: int, to: int, gain: float, low: float, high: float) -> Gain:
    return Gain.model_validate({"from": before, "to": to, "gain": gain, "low": low, "high": high})
