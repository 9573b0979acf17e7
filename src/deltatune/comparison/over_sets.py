"""What methods come to over several data sets: normalised scores, their interquartile mean, their profile.

Scores of two data sets have no common scale: two points of accuracy are much on one and little on another. So
each set has marks of its own. 0 is what a yardstick scores there that has learned nothing, 1 what the best
method scores; these are fixed, like the marks of a thermometer, and not drawn anew.

Aggregates are those of rliable (Agarwal et al. 2021, "Deep reinforcement learning at the edge of the
statistical precipice"): the interquartile mean of all runs, of which the lowest and the highest quarter are
left out, so that one easy or broken set does not decide; and the performance profile, which says at what
share of the runs a method scores more than each value. Their intervals are stratified: examples (and seeds)
are drawn within each set, by the draws that the set's own intervals are made of (`resampling.py`). They tell
of these sets. What they leave out is that other sets would have been other tasks: for "tasks like these",
sets are drawn. A handful of them is few, so such draws are widened as Student's t of one degree of
freedom less than there are sets (Hesterberg 2015), and of fewer than `FEWEST` sets nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from deltatune.comparison.resampling import Draws, Interval
from deltatune.comparison.scores import AnySample, Floats
from deltatune.comparison.statistics import holm

FEWEST = 3
"""Sets of which something is said about tasks like these."""
MOST_COMPARED = 20
"""Methods that are compared in pairs, by draws: those of the highest means."""
RESAMPLES = 10_000
PROFILE_DRAWS = 2_000
LEVELS = 61
"""Values at which profiles are known."""
LOWEST = -1.0
"""Where they begin at the least: a run that is farther below the yardstick than the best is above it."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Marks:
    """What a set's normalised scores are measured by, in its own metric."""

    zero: float
    """The score that becomes 0."""
    one: float
    """The score that becomes 1; equal to `zero` where all score alike."""

    @classmethod
    def of(cls, scores: Sequence[float], yardstick: float | None, *, higher_is_better: bool) -> Marks:
        """The marks of a set.

        Args:
            scores: Of the methods, means over seeds.
            yardstick: What one scores that has learned nothing. Without one, the worst method is 0.
            higher_is_better: The direction of scores.
        """
        sign = 1 if higher_is_better else -1
        levels = [sign * score for score in scores]
        zero = min(levels) if yardstick is None else sign * yardstick
        best = max(levels)
        if best <= zero:  # nothing beats the yardstick: the worst is as far below 0 as 1 is above
            best = zero + max(zero - min(levels), 0.0)
        return cls(sign * zero, sign * best)

    def __call__(self, scores: Floats) -> Floats:
        """Normalised scores."""
        width = self.one - self.zero
        return np.zeros_like(scores) if width == 0 else (scores - self.zero) / width

    def distance(self, differences: Floats) -> Floats:
        """Normalised differences of scores."""
        width = self.one - self.zero
        return np.zeros_like(differences) if width == 0 else differences / width


@dataclass
class JudgedSet:
    """The methods on one data set: their samples in one order, the same in each set."""

    samples: Sequence[AnySample]
    marks: Marks
    seed: int
    """Of the draws, another one for each set."""
    resamples: int = RESAMPLES
    _cells: list[Floats] = field(init=False)

    def __post_init__(self) -> None:
        self._cells = [self.marks(sample.by_seed()) for sample in self.samples]

    @cached_property
    def draws(self) -> Draws:
        """Scores as other examples and seeds would have made them."""
        return Draws(self.samples, self.resamples, self.seed)

    def cells(self, method: int) -> Floats:
        """The normalised score of each run, [seeds]."""
        return self._cells[method]

    def drawn(self, method: int) -> Floats:
        """The same as other examples and seeds would have made them, [resamples, seeds].

        Draws are of the mean over seeds. The runs lie about it as they do here.
        """
        cells = self.cells(method)
        return self.marks(self.draws.anew(method))[:, None] + (cells - cells.mean())


def interquartile_mean(cells: Floats) -> Floats:
    """The mean without the lowest and the highest quarter, [..., runs] to [...].

    As rliable and scipy's `trim_mean` count: of n numbers floor(n / 4) are left out at either end.
    """
    count = cells.shape[-1]
    cut = count // 4
    mean: Floats = np.sort(cells, axis=-1)[..., cut : count - cut].mean(axis=-1)
    return mean


@dataclass(frozen=True)
class Aggregate:
    """What one method comes to over the sets."""

    iqm: float
    here: Interval
    """Of these sets."""
    on_tasks: Interval | None
    """Of sets like these; None if there are too few."""
    shares: Floats
    """Of the runs that score more than each level, [levels]."""
    lows: Floats
    highs: Floats


def levels_of(sets: Sequence[JudgedSet]) -> Floats:
    """The values at which profiles are known."""
    every = np.concatenate([data_set.cells(i) for data_set in sets for i in range(len(data_set.samples))])
    return np.linspace(max(LOWEST, min(0.0, float(every.min()))), max(1.0, float(every.max())), LEVELS)


def aggregate(sets: Sequence[JudgedSet], method: int, levels: Floats) -> Aggregate:
    """The interquartile mean of one method, with its intervals, and its profile."""
    cells = np.concatenate([data_set.cells(method) for data_set in sets])
    drawn = np.stack([data_set.drawn(method) for data_set in sets], axis=1)  # [draws, sets, seeds]
    flat = drawn.reshape(len(drawn), -1)
    center = float(interquartile_mean(cells))
    above = (flat[:PROFILE_DRAWS, :, None] > levels).mean(axis=1)
    tail = (1 - CONFIDENCE) / 2
    lows, highs = np.quantile(above, [tail, 1 - tail], axis=0)
    return Aggregate(
        iqm=center,
        here=_interval(interquartile_mean(flat)),
        on_tasks=_on_tasks(np.stack([data_set.cells(method) for data_set in sets]), center, len(drawn)),
        shares=(cells[:, None] > levels).mean(axis=0),
        lows=lows,
        highs=highs,
    )


def _on_tasks(cells: Floats, center: float, draws: int) -> Interval | None:
    """The interval if other sets are drawn, of scores [sets, seeds].

    What rows and seeds add to a score is in it already as it is observed, so sets alone are drawn.
    """
    sets = len(cells)
    if sets < FEWEST:
        return None
    random = np.random.default_rng(7)
    again = cells[random.integers(0, sets, size=(draws, sets))]
    means = interquartile_mean(again.reshape(draws, -1))
    tails = np.sqrt(random.chisquare(sets - 1, size=draws) / (sets - 1))
    return _interval(center + (means - center) * math.sqrt(sets / (sets - 1)) / tails)


def _interval(draws: Floats) -> Interval:
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Apart:
    """Two methods compared over these sets, by their interquartile means."""

    a: int
    b: int
    difference: float
    low: float
    high: float
    p: float
    """Corrected for the number of all pairs."""

    @property
    def tie(self) -> bool:
        """Whether they cannot be told apart."""
        return self.p >= 1 - CONFIDENCE


def compared(sets: Sequence[JudgedSet], means: Sequence[float]) -> list[Apart]:
    """Every two of the leading methods, on these sets.

    A pair is drawn as it is within each set (`Draws.of_pairs`): examples are drawn for both, and exchanged
    between the two at random; its p is the larger of the two. What is drawn of a pair is its difference, and
    the mean of both is where it was.

    Args:
        sets: The sets.
        means: The interquartile mean of each method.
    """
    kept = sorted(sorted(range(len(means)), key=lambda i: -means[i])[:MOST_COMPARED])
    pairs = [(i, j) for place, i in enumerate(kept) for j in kept[place + 1 :]]
    parts = [data_set.draws.of_pairs(pairs) for data_set in sets]
    contrasts = []
    for pair, of_sets in zip(pairs, zip(*parts, strict=True), strict=True):
        observed = means[pair[0]] - means[pair[1]]
        drawn = _difference(sets, pair, [each for each, _ in of_sets])
        swapped = _difference(sets, pair, [each for _, each in of_sets])
        low, high = _interval(drawn)
        slack = 1e-12 * max(1.0, abs(observed))
        smaller = min(int((drawn <= slack).sum()), int((drawn >= -slack).sum()))
        as_large = int((np.abs(swapped) >= abs(observed) - slack).sum())
        p = max(2 * (1 + smaller), 1 + as_large) / (1 + len(drawn))
        contrasts.append(Apart(*pair, observed, low, high, min(1.0, p)))
    left_out = math.comb(len(means), 2) - len(pairs)
    p_values = holm([pair.p for pair in contrasts] + [1.0] * left_out)
    return [
        Apart(pair.a, pair.b, pair.difference, pair.low, pair.high, p)
        for pair, p in zip(contrasts, p_values, strict=False)
    ]


def _difference(sets: Sequence[JudgedSet], pair: tuple[int, int], differences: Sequence[Floats]) -> Floats:
    """Differences of the interquartile means, of those of the scores in each set, [resamples]."""
    both = []
    for method, side in zip(pair, (0.5, -0.5), strict=True):
        cells = []
        for data_set, difference in zip(sets, differences, strict=True):
            middle = (data_set.cells(pair[0]).mean() + data_set.cells(pair[1]).mean()) / 2
            about = data_set.cells(method) - data_set.cells(method).mean()
            cells.append(middle + side * data_set.marks.distance(difference)[:, None] + about)
        both.append(interquartile_mean(np.concatenate(cells, axis=1)))
    difference_of_means: Floats = both[0] - both[1]
    return difference_of_means
