"""What a method scored where rows are judged against each other: areas under curves, resampled by weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from deltatune.comparison.chance import NONE, Chance, differ
from deltatune.evaluation.metrics.curves import Curve
from deltatune.evaluation.metrics.values import ranks

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
_CELLS_AT_ONCE = 4_000_000  # of rows and draws in the jackknife: 32 MB


@dataclass(frozen=True, eq=False)
class RankedSample:
    """Scores of each test row by class, and the area under a curve that their order comes to.

    It offers what `Sample` does. A resample weighs the rows, and the area is computed anew for each.

    Attributes:
        scores: How likely each row is of each class, in any unit, [seeds, rows, classes].
        positive: Which class it is of, [rows, classes].
        curve: What is computed of them.
        groups: The example that each row belongs to, [rows].
        low: No area is lower.
        high: No area is higher.
        biased: As of `Sample`.
        rows: Where runs have other rows, those of each, [seeds][its rows]; None: all have all.
        chance: What else moves the score by chance.
    """

    scores: Floats
    positive: Flags
    curve: Curve
    groups: NDArray[np.intp]
    low: float = 0.0
    high: float = 1.0
    biased: bool = False
    rows: tuple[NDArray[np.intp], ...] | None = None
    chance: Chance = NONE

    @classmethod
    def of(cls, scores: Floats, positive: Flags, curve: Curve) -> RankedSample:
        """A sample in which each row is an example; arguments as the attributes."""
        return cls(scores, positive, curve, np.arange(len(positive)))

    def grouped(self, groups: Sequence[int]) -> RankedSample:
        """The same scores, with the rows of a group as one example: they depend on each other.

        Args:
            groups: The number of each row's group, from 0 on without a gap.
        """
        return replace(self, groups=np.asarray(groups)[self.groups], chance=self.chance.grouped(groups))

    @property
    def seeds(self) -> int:
        """How many times the method was trained."""
        return self.scores.shape[0]

    @property
    def examples(self) -> int:
        """How many test examples there are: rows, or groups of them."""
        return int(self.groups.max()) + 1

    @property
    def rows_each(self) -> float:
        """How many test rows an example is, on average."""
        return len(self.groups) / self.examples

    @property
    def varies(self) -> bool:
        """Whether seeds differ in any row."""
        if self.rows is None:
            return differ(self.scores, None)
        there = np.zeros(self.scores.shape[:2], dtype=np.bool_)
        for run, rows in enumerate(self.rows):
            there[run, rows] = True
        return differ(self.scores, there)

    def by_seed(self) -> Floats:
        """The score of each seed's run, [seeds]."""
        return self.weighted(np.ones((1, self.examples)))[0]

    def mean(self) -> float:
        """The score, averaged over seeds."""
        return float(self.by_seed().mean())

    def influence(self) -> Floats:
        """How much the score of each seed falls without each example, [seeds, examples] (the jackknife)."""
        if self.examples == 1:
            return np.zeros((self.seeds, 1))
        without = np.empty((self.seeds, self.examples))
        for left_out in self._examples_at_once():
            weights = np.ones((len(left_out), self.examples))
            weights[np.arange(len(left_out)), left_out] = 0
            without[:, left_out] = self.weighted(weights).T
        return self.by_seed()[:, None] - without

    def _examples_at_once(self) -> Iterator[NDArray[np.intp]]:
        size = max(1, _CELLS_AT_ONCE // len(self.groups))
        yield from np.array_split(np.arange(self.examples), -(-self.examples // size))

    def weighted(self, weights: Floats) -> Floats:
        """Scores of resamples that have each example so many times, [draws, examples] to [draws, seeds]."""
        return self.areas(self.of_rows(weights))

    def of_rows(self, weights: Floats) -> NDArray[np.float32]:
        """How many times resamples have each row, [draws, examples] to [rows, draws]."""
        return np.ascontiguousarray(weights.T, dtype=np.float32)[self.groups]

    def areas(self, of_rows: NDArray[np.float32]) -> Floats:
        """Scores [draws, seeds] of resamples that have each row so many times, [rows, draws]."""
        areas = [
            self.curve.macro(scores[rows], self.positive[rows], of_rows[rows])
            for scores, rows in zip(self.scores, self.of_runs, strict=True)
        ]
        return np.stack(areas, axis=1)

    @property
    def of_runs(self) -> Sequence[NDArray[np.intp] | slice]:
        """The rows of each run."""
        return self.rows or [slice(None)] * self.seeds


class RankedSamples:
    """Several methods on the same examples."""

    def __init__(self, samples: Sequence[RankedSample]) -> None:
        self.samples = samples
        self.ranks = [
            [_ranked(scores[rows]) for scores, rows in zip(sample.scores, sample.of_runs, strict=True)]
            for sample in samples
        ]

    @property
    def width(self) -> int:
        """Numbers that a draw keeps at once, in half the digits of others."""
        return max(1, len(self.samples[0].groups) // 2)

    @property
    def swap_width(self) -> int:
        """The same where methods are swapped: the rows of two."""
        return 2 * self.width

    def drawn(self, weights: Floats) -> list[Floats]:
        """Of each method the scores [draws, seeds] of resamples, [draws, examples]."""
        of_rows = self.samples[0].of_rows(weights)
        return [sample.areas(of_rows) for sample in self.samples]

    def swapped(self, pairs: Sequence[tuple[int, int]], swap: Floats) -> Floats:
        """Differences [pairs, draws] after the two of a pair have exchanged examples.

        What they exchange are ranks among all rows, of the same seed: scores of two models may have other
        scales (Bandos, Rockette & Gur 2005, "A permutation test sensitive to differences in areas for
        comparing ROC curves from a paired design").

        Args:
            pairs: Of methods.
            swap: 1 where an example is exchanged, else 0, [draws, examples].
        """
        moved = np.ascontiguousarray(swap.T)[self.samples[0].groups]
        return np.stack([self._swapped(pair, moved) for pair in pairs])

    def _swapped(self, pair: tuple[int, int], moved: Floats) -> Floats:
        a, b = (self.ranks[i] for i in pair)
        sample, seeds = self.samples[pair[0]], max(len(a), len(b))
        each = [
            sample.curve.exchange(a[seed % len(a)], b[seed % len(b)], sample.positive[rows], moved[rows])
            for seed, rows in zip(range(seeds), cycle(sample.of_runs))
        ]
        return np.mean(each, axis=0)


def _ranked(scores: Floats) -> Floats:
    """Ranks of the rows for each class, [rows, classes]; equal ones share the mean of theirs."""
    return np.stack([ranks(of_class) for of_class in scores.T], axis=1)
