"""The ranks of a comparison: every two methods compared, also where there are thousands.

Up to `MOST_DRAWN` pairs are compared by draws (statistics.py). After Holm's correction a pair of many needs
more draws to be told apart, 100 for each pair there is, so the work grows with the fourth power of the number
of methods: 45 methods take 100,000 draws of 1,000 pairs; 2,000 would take 200 million draws of two million.
Beyond, every pair is compared by Student's t: the difference over the root of its variance, which is made of
what draws are made of:

- the variance that rows make, by the jackknife, of the influence of each row on the difference (what a
  bootstrap converges to; Efron & Tibshirani 1993, chapter 11), with the degrees of freedom by which
  `resampling` spreads draws;
- the variance that other seeds make, the mean of what `SeedSpread` draws. How far those draws differ tells
  how well it is known, and so its degrees of freedom: with n of them a variance varies by 2 / n of its
  square.

Satterthwaite's approximation puts both together. For all pairs at once these are products of matrices. Of so
many pairs a leaderboard keeps those with the best method, and every two of the first `LEADING`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from deltatune.comparison.resampling import Needed, farthest, needed
from deltatune.comparison.scores import AnySample, Floats
from deltatune.comparison.seeds import SeedSpread, student
from deltatune.comparison.statistics import holm, pairwise, shared_ranks, tie_matrix
from deltatune.report.ranking import LEADING
from deltatune.results import Pair

MOST_DRAWN = 1_000
"""Pairs that are compared by draws: those of 45 methods."""
LEVEL = 0.05
_SPREADS = 4_000  # draws of how far seeds spread, of which the first two moments are used


class Contest(NamedTuple):
    """What came of comparing every two methods."""

    ranks: dict[str, int]
    pairs: list[Pair]
    warnings: list[str]
    """What a reader should know of how they were compared."""


def contest(
    samples: Mapping[str, AnySample],
    scores: Mapping[str, float],
    *,
    higher_is_better: bool,
    worth: float | None = None,
) -> Contest:
    """Compare every two methods and rank them (`shared_ranks`).

    Args:
        samples: Of each method, on the same examples.
        scores: Of each, in the order in which ranks are wanted.
        higher_is_better: The direction of the scores.
        worth: The smallest difference that matters (`pairwise`).
    """
    names = list(scores)
    count = math.comb(len(names), 2)
    if count <= MOST_DRAWN:
        pairs = pairwise(samples, worth=worth)
        ties = tie_matrix(names, pairs)
        ranks = shared_ranks(list(scores.values()), ties, higher_is_better=higher_is_better)
        return Contest(dict(zip(names, ranks, strict=True)), pairs, [])
    sign = 1 if higher_is_better else -1
    return _of_many([samples[name] for name in names], scores, sign=sign, worth=worth)


def _of_many(
    samples: Sequence[AnySample], scores: Mapping[str, float], *, sign: int, worth: float | None
) -> Contest:
    names, levels = list(scores), sign * np.array(list(scores.values()))
    spread = SeedSpread.of(samples, _SPREADS, 0)
    means = np.array([sample.mean() for sample in samples])
    variances, freedom = _variances(samples, spread)
    above = np.triu_indices(len(names), 1)
    differences = np.subtract.outer(means, means)
    p, p_equivalent, unseen = np.ones_like(variances), np.ones_like(variances), np.zeros_like(variances)
    p[above] = holm(_p_values(differences[above], variances[above], freedom[above]))
    if worth is not None:
        unseen = _largest(samples) ** 2
        p_equivalent[above] = holm(
            _p_equivalent(differences[above], variances[above], freedom[above], unseen[above], worth)
        )
    beaten = (np.minimum(p, p.T) < LEVEL) & (levels > levels[:, None])
    ranks = 1 + beaten.sum(axis=1)
    of_seeds, _ = spread.moments()
    pairs = []
    for i, j in _kept(np.lexsort((-levels, ranks)).tolist()):
        difference, variance, told = float(differences[i, j]), float(variances[i, j]), float(p[i, j])
        inside = None if worth is None else float(p_equivalent[i, j])
        equivalent = None if inside is None else inside < LEVEL
        reach = student(1 - LEVEL / 2, float(freedom[i, j])) * math.sqrt(variance)
        most = farthest(samples[i], samples[j])
        more = Needed(None, None)
        if told >= LEVEL and not equivalent:
            of_rows = variance - float(of_seeds[i] + of_seeds[j])
            level = LEVEL / len(above[0])
            more = needed(spread, samples, (i, j), difference, of_rows, level, worth, float(unseen[i, j]))
        pairs.append(
            Pair(
                a=names[i],
                b=names[j],
                difference=difference,
                low=max(difference - reach, -most),
                high=min(difference + reach, most),
                p=told,
                tie=told >= LEVEL,
                equivalent=equivalent,
                p_equivalent=inside,
                examples_needed=more.examples,
                seeds_needed=more.seeds,
            )
        )
    by_name = {name: int(rank) for name, rank in zip(names, ranks, strict=True)}
    return Contest(by_name, pairs, [_said(len(above[0]), len(pairs))])


def _kept(order: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs that a leaderboard keeps, of methods in the order of their ranks."""
    kept = {tuple(sorted(pair)) for pair in combinations(order[:LEADING], 2)}
    kept |= {tuple(sorted((order[0], other))) for other in order[LEADING:]}
    return sorted((i, j) for i, j in kept)


def _said(compared: int, kept: int) -> str:
    return (
        f"{compared:,} pairs of methods are too many to be resampled. They are compared by the variances of "
        f"rows and seeds (Student's t) and corrected for their number as always. The leaderboard keeps "
        f"{kept:,} of them: all with the best method, and every two of the first {LEADING}."
    )


def _variances(samples: Sequence[AnySample], spread: SeedSpread) -> tuple[Floats, Floats]:
    """The variance of each two methods' difference, and its degrees of freedom, [methods, methods]."""
    influence = np.stack([sample.influence().mean(axis=0) for sample in samples])
    c = influence - influence.mean(axis=1, keepdims=True)
    count = c.shape[1]
    products = c @ c.T
    own = products.diagonal()
    squares = own[:, None] + own - 2 * products
    squares[squares < 1e-12 * (own[:, None] + own)] = 0  # rounding, of methods that are equal in all rows
    thirds, quarters = c**3 @ c.T, (c**4).sum(axis=1)
    fourth = quarters[:, None] + quarters - 4 * (thirds + thirds.T) + 6 * (c**2 @ (c**2).T)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(squares > 0, fourth / squares**2, 0) - 1 / count
    rows, of_rows = squares * (count - 1) / count, np.maximum(1, 2 / np.maximum(excess, 1e-6))
    of_seeds, uncertain = spread.moments()
    total = rows + of_seeds[:, None] + of_seeds
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = 2 * total**2 / (2 * rows**2 / of_rows + uncertain[:, None] + uncertain)
    return total, np.where(total > 0, np.maximum(freedom, 1), 1)


def _p_values(differences: Floats, variances: Floats, freedom: Floats) -> Floats:
    """Of t tests. Without any variance methods are equal in all rows, or differ in all by as much."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(variances > 0, np.abs(differences) / np.sqrt(variances), 0)
    p = beyond(t, freedom)
    p[(variances == 0) & (np.abs(differences) > 1e-12)] = 0
    return p


def _largest(samples: Sequence[AnySample]) -> Floats:
    """How much one example more that differs could change each two methods' difference (`equivalence`)."""
    influence = np.stack([sample.influence().mean(axis=0) for sample in samples])
    low, high = (np.array([getattr(sample, end) for sample in samples]) for end in ("low", "high"))
    found = np.stack([np.abs(influence - own).max(axis=1) for own in influence])
    width = np.maximum(high[:, None], high) - np.minimum(low[:, None], low)
    return np.where(found > 0, found, width / influence.shape[1])


def _p_equivalent(
    differences: Floats, variances: Floats, freedom: Floats, unseen: Floats, worth: float
) -> Floats:
    """Of two one-sided tests, the larger: is the difference less than `worth` either way?"""
    room = worth - np.abs(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = room / np.sqrt(variances + unseen)
    return np.where(unseen > 0, np.where(room > 0, 0.5 * beyond(t, freedom), 1.0), 1.0)


def beyond(t: Floats, freedom: Floats) -> Floats:
    """How likely Student's t is farther from zero than `t` (Hill 1970, algorithm 395 of the Communications).

    Below two degrees of freedom, where the series is off, as of one (Cauchy's), which is more.
    """
    a = freedom - 0.5
    b = 48 * a**2
    y = a * np.log1p(t**2 / freedom)
    z = ((((-0.4 * y - 3.3) * y - 24) * y - 85.5) / (0.8 * y**2 + 100 + b) + y + 3) / b + 1
    normal = np.vectorize(math.erfc, otypes=[np.float64])(z * np.sqrt(y) / math.sqrt(2))
    return np.where(freedom < 2, 1 - 2 / math.pi * np.arctan(t), normal)
