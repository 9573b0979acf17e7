"""Which methods rank apart over data sets: Friedman's test and critical differences (Demsar 2006).

On each set the methods are ranked by their scores, 1 for the best; equal scores share the mean of their
ranks. If all methods were equally good on tasks like these, every order would be alike likely on each set.
Friedman's statistic says how far the mean ranks are from that. Two methods are told apart whose mean ranks
differ by the critical difference or more: no two of equally good methods do so in more than 5 % of cases
(Nemenyi 1963).

Both are usually read off a limit for many sets: chi^2, and the studentized range. A comparison has few, where
these are wrong to either side: of two methods, four sets that agree would do by the studentized range, though
this happens in one case of eight. So the orders are drawn: within each set the ranks are dealt to the methods
anew. With many sets this comes to the tables.

Sources: Demsar 2006, "Statistical comparisons of classifiers over multiple data sets"; Friedman 1937.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deltatune.comparison.scores import Floats
from deltatune.evaluation.metrics.values import ranks

LEVEL = 0.05
DEALS = 20_000
_AT_ONCE = 2_000_000  # ranks that are dealt at a time
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Ranked:
    """What the ranks over sets come to."""

    means: Floats
    """The mean rank of each method."""
    statistic: float
    """Friedman's, corrected for ties."""
    p: float
    """How likely as large a statistic is if all methods are equally good."""
    critical: float | None
    """The critical difference of mean ranks; None if not even sets that all agree could tell two apart."""

    def apart(self, a: int, b: int) -> bool:
        """Whether two methods are told apart."""
        gap = abs(float(self.means[a] - self.means[b]))
        return self.critical is not None and gap >= self.critical - _ROUNDING


def rank_on_sets(scores: Floats, *, higher_is_better: bool) -> Floats:
    """Ranks within each set, [sets, methods]: 1 for the best, equal ones share their mean.

    Args:
        scores: [sets, methods].
        higher_is_better: Their direction.
    """
    return np.stack([ranks(-row if higher_is_better else row) for row in scores])


def friedman(given: Floats) -> float:
    """Friedman's statistic of ranks [sets, methods], corrected for ties; 0 if all are equal."""
    sets, methods = given.shape
    spread = float(((given - (methods + 1) / 2) ** 2).sum())
    between = sets**2 * float(((given.mean(axis=0) - (methods + 1) / 2) ** 2).sum())
    return 0.0 if spread == 0 else (methods - 1) * between / spread


def judge(given: Floats, *, deals: int = DEALS, seed: int = 0) -> Ranked:
    """Test ranks [sets, methods], of at least one set and two methods.

    Args:
        given: As `rank_on_sets` makes them.
        deals: How many times ranks are dealt.
        seed: Of the deals.
    """
    means, middle = given.mean(axis=0), (given.shape[1] + 1) / 2
    between, ranges = [], []
    for dealt in _deals(given, deals, seed):
        between.append(((dealt - middle) ** 2).sum(axis=1))
        ranges.append(dealt.max(axis=1) - dealt.min(axis=1))
    as_far = np.concatenate(between) >= ((means - middle) ** 2).sum() - _ROUNDING
    return Ranked(
        means,
        friedman(given),
        (1 + int(as_far.sum())) / (1 + deals),
        _critical(np.sort(np.concatenate(ranges))),
    )


def _deals(given: Floats, deals: int, seed: int) -> Iterator[Floats]:
    """Mean ranks if each set's ranks are dealt anew, [deals, methods] in parts."""
    random = np.random.default_rng((seed, 8))
    size = max(1, _AT_ONCE // given.size)
    for start in range(0, deals, size):
        count = min(size, deals - start)
        yield random.permuted(np.broadcast_to(given, (count, *given.shape)), axis=2).mean(axis=1)


def _critical(ranges: Floats) -> float | None:
    """The smallest range that at most 5 % of sorted ones reach, counting the one at hand."""
    deals = len(ranges)
    most = math.floor(LEVEL * (1 + deals)) - 1
    if most < 1:
        return None
    edge = float(ranges[deals - most])  # it and those above are `most`; equal ones below are too many
    reaching = deals - int(np.searchsorted(ranges, edge - _ROUNDING))
    if reaching <= most:
        return edge
    above = ranges[np.searchsorted(ranges, edge + _ROUNDING) :]
    return float(above[0]) if len(above) else None


def sets_that_could(methods: int) -> int:
    """How many sets it takes at least: of so many that all agree, the first and the last are told apart.

    The chance that any two methods are first and last on all of n sets is (m (m - 1))^(1 - n).
    """
    return 1 + math.ceil(math.log(1 / LEVEL) / math.log(methods * (methods - 1)) - _ROUNDING)
