"""What moves a method's score by chance besides test rows and seeds: splits, and the choosing of settings.

**Splits.** Each run has validation and test rows of its own, drawn from one pool (`splits` of a recipe). All
rows that were in any test part stand side by side here, each run with those of its own part. They are drawn
as rows of the pool: a row that is in the test parts of several splits counts in all of them at once, so what
these have in common is not taken for something new. What runs differ by beyond their rows, owing to seeds and
to training rows, is estimated as the spread of seeds is (seeds.py).

Usual tests of resampled splits know no rows, and must widen their intervals by what splits share (Nadeau &
Bengio 2003, "Inference for the generalization error"). With rows drawn that is not needed, and would make
intervals too wide (docs/adr/0016).

**Choosing.** A method whose settings were chosen on validation rows would have got others with other rows.
Candidates are chosen again on resampled validation rows. How far apart the validation scores of those are
that win is how far the choice moves the method's score. It does not average out with seeds or test rows: all
runs have the settings that were chosen once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Chance:
    """What of it there is for a method.

    Attributes:
        present: Which examples are in the test part of each run's split, [runs, examples]; None: all are.
        again: How often each candidate is chosen again, a share, with its validation score in the unit of
            the method's; empty where nothing was chosen.
    """

    present: Flags | None = None
    again: tuple[tuple[float, float], ...] = ()

    def grouped(self, groups: Sequence[int]) -> Chance:
        """The same of groups of examples, of which each has a number from 0 on."""
        if self.present is None:
            return self
        present = np.zeros((len(self.present), max(groups) + 1), dtype=np.bool_)
        for run, there in enumerate(self.present):
            present[run, np.asarray(groups)[there]] = True
        return replace(self, present=present)

    def without_rows(self, weights: Floats) -> Flags:
        """Which resamples [draws, examples] have no example of some run's, and so no score of it, [draws]."""
        if self.present is None:
            return np.zeros(len(weights), dtype=np.bool_)
        found: Flags = (weights @ self.present.T.astype(np.float64) == 0).any(axis=1)
        return found

    def of_one_example(self, runs: int) -> Flags:
        """Which of so many runs have one example, without which they have no score."""
        if self.present is None:
            return np.zeros(runs, dtype=np.bool_)
        found: Flags = self.present.sum(axis=1) == 1
        return found

    @property
    def choosing(self) -> float:
        """The variance that choosing adds to the score."""
        shares, apart = self._apart()
        return float(shares @ apart**2)

    def chosen_again(self, random: np.random.Generator, draws: int) -> Floats:
        """What choosing on other rows would add to the score, either way, [draws]."""
        shares, apart = self._apart()
        if not apart.any():
            return np.zeros(draws)
        return random.choice(apart, size=draws, p=shares) * random.choice([-1.0, 1.0], size=draws)

    def _apart(self) -> tuple[Floats, Floats]:
        """How often candidates are chosen, of sum 1, and how far each is from their mean."""
        shares, values = np.array(self.again, dtype=np.float64).reshape(-1, 2).T
        if not shares.size:
            return np.ones(1), np.zeros(1)
        shares = shares / shares.sum()
        return shares, values - shares @ values


NONE = Chance()
TOLD_BY = 50
"""Rows that runs of several splits have in common: fewer do not tell that runs are the same."""


def differ(values: Floats, present: Flags | None) -> bool:
    """Whether runs differ in anything that they have in common; with too little of it, they may.

    Args:
        values: Of each run and row, [runs, rows, ...].
        present: Which rows are those of each run, [runs, rows]; None: all.
    """
    if present is None:
        return bool((values != values[:1]).any())
    pairs = [(a, b, present[a] & present[b]) for a, b in combinations(range(len(values)), 2)]
    if sum(int(rows.sum()) for _, _, rows in pairs) < TOLD_BY:
        return True
    return any(bool((values[a][rows] != values[b][rows]).any()) for a, b, rows in pairs)
