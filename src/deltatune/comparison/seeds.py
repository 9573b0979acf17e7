"""How far the scores of a method spread from seed to seed, estimated from all methods of a comparison.

Two seeds of one method tell next to nothing of its spread: Welch's test has one degree of freedom there, and
everything is a tie. But a comparison has many methods. The variances of their scores over seeds, s^2, are
taken as draws of one population (Smyth 2004, "Linear models and empirical Bayes methods for assessing
differential expression in microarray experiments", section 3): s^2 is sigma^2 times chi^2 / d with d = seeds
- 1, and 1 / sigma^2 is chi^2 / (d0 s0^2) with d0 degrees of freedom. Then, given s^2, sigma^2 is (d0 s0^2 +
d s^2) / chi^2 with d0 + d degrees of freedom (his posterior variance): each method lends its degrees of
freedom to the others, fewer where spreads are unlike. s^2 / s0^2 has the F distribution of d and d0 degrees
of freedom (his section 4), which tells how likely each d0 and s0 is.

Smyth takes the best d0 and s0, from thousands of genes. From two to ten methods they are hardly known: the
best d0 is often infinite though spreads differ, and false alarms of unequal methods come to 10 to 17 %. So
they are not fixed but drawn, as likely as they are given the s^2 of all methods. Beforehand any log s0^2 is
alike likely, and so is any standard deviation between methods of log sigma^2, about sqrt(2 / d0), from 0 to 3
(Gelman 2006, "Prior distributions for variance parameters in hierarchical models", section 3: uniform on the
standard deviation). A method alone has then Student's t with d degrees of freedom, as is usual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from deltatune.comparison.chance import Chance
from deltatune.comparison.scores import AnySample, Floats

_UNLIKENESS = (np.arange(14) + 0.5) * 3 / 14  # the standard deviation of log sigma^2 between methods
_INVERSE_FREEDOM = _UNLIKENESS**2 / 2  # 1 / d0
_SCALES = 200  # values of log s0^2
_BEYOND = 8.0  # so far beyond the logarithms of all variances they reach
_LEAST_SHARE = 0.01  # a variance below this share of what rows alone make is chance: of two equal scores, say


@dataclass(frozen=True)
class SeedSpread:
    """The spread of each method's score over seeds, as far as rows do not explain it.

    A run scores other rows right than another one does, by chance alone: so scores of seeds differ though no
    seed is better than another. The draws of rows have that in them already (it averages out with many rows),
    so it is taken off here.

    Attributes:
        variances: Over seeds of a single run's score, drawn as likely as they are, [methods, draws].
        seeds: Of each method, [methods].
        freedom: Which d0 is likely (the inverse of the mean of 1 / d0).
        typical: One variance of each method, with d0 and s0 as they are likely, [methods].
        varying: How many methods have seeds that differ.
        chance: What else moves each method's score.
    """

    variances: Floats
    seeds: Floats
    freedom: float
    typical: Floats
    varying: int
    chance: tuple[Chance, ...] = ()

    @classmethod
    def of(cls, samples: Sequence[AnySample], draws: int, seed: int) -> SeedSpread:
        """Estimate it. A method with one seed, or whose seeds agree in every row (untuned), has none.

        Args:
            samples: All methods of the comparison.
            draws: How many.
            seed: Of the draws.
        """
        random = np.random.default_rng((seed, 2))
        moving = [i for i, sample in enumerate(samples) if sample.seeds > 1 and sample.varies]
        variances, typical = np.zeros((len(samples), draws)), np.zeros(len(samples))
        seeds = np.array([sample.seeds for sample in samples], dtype=np.float64)
        chance = tuple(sample.chance for sample in samples)
        if not moving:
            return cls(variances, seeds, 0.0, typical, 0, chance)
        of_rows = np.array([_owing_to_rows(samples[i]) for i in moving])
        spread = np.array([float(samples[i].by_seed().var(ddof=1)) for i in moving])
        spread = np.maximum(spread, _LEAST_SHARE * of_rows)
        d = seeds[moving] - 1
        likely, scales = _likelihood(spread, d)
        picked = np.minimum(np.searchsorted(likely.cumsum(), random.random(draws)), likely.size - 1)
        d0, s0 = 1 / _INVERSE_FREEDOM[picked // _SCALES], scales[picked % _SCALES]
        chi = random.chisquare(d0 + d[:, None], size=(len(moving), draws))
        drawn = (d0 * s0 + (d * spread)[:, None]) / chi
        variances[moving] = np.maximum(drawn - of_rows[:, None], 0)
        table = likely.reshape(len(_INVERSE_FREEDOM), _SCALES)
        freedom = 1 / float(table.sum(axis=1) @ _INVERSE_FREEDOM)
        scale = math.exp(float(table.sum(axis=0) @ np.log(scales)))
        typical[moving] = np.maximum((freedom * scale + d * spread) / (freedom + d) - of_rows, 0)
        return cls(variances, seeds, freedom, typical, len(moving), chance)

    def noise(self, methods: Sequence[int], seed: int) -> Floats:
        """What other seeds, splits and choices would have added to one score, or the difference of two.

        Returns:
            [draws].
        """
        draws = self.variances.shape[1]
        normal = np.random.default_rng((seed, 4)).standard_normal(draws)
        total = sum(self.variances[i] / self.seeds[i] for i in methods)
        again = (self.chance[i].chosen_again(np.random.default_rng((seed, 6, i)), draws) for i in methods)
        return np.asarray(normal * np.sqrt(total) + sum(again))

    def reach(self, methods: Sequence[int], level: float, power: float, rows: float, seeds: float) -> float:
        """The smallest difference that so many rows and seeds would find with this power.

        (t of 1 - level / 2 + t of the power) times the standard error, with Satterthwaite's degrees of
        freedom. A method's own are seeds - 1, and d0 from the others, of which there can be no more than
        theirs.

        Args:
            methods: The two.
            level: Of the test.
            power: With which it is found.
            rows: The variance that these rows leave.
            seeds: So many of each method whose seeds differ; infinity for any number.
        """
        parts = [self.typical[i] / seeds for i in methods if self.typical[i] > 0]
        total = rows + sum(parts) + sum(self.chance[i].choosing for i in methods)
        freedom = math.inf
        if sum(parts) > 0:
            others = self.varying - 1
            borrowed = min(self.freedom, others * (seeds - 1)) if others else 0.0
            freedom = total**2 / sum(part**2 for part in parts) * (seeds - 1 + borrowed)
        return math.sqrt(total) * (student(1 - level / 2, freedom) + student(power, freedom))

    def moments(self) -> tuple[Floats, Floats]:
        """Mean and variance of what all but rows adds to the variance of each method's score, [methods]."""
        choosing = np.array([chance.choosing for chance in self.chance])
        means, variances = self.variances.mean(axis=1), self.variances.var(axis=1)
        return means / self.seeds + choosing, variances / self.seeds**2


def _owing_to_rows(sample: AnySample) -> float:
    """Variance of one run's score owing to rows on which seeds differ by chance, by the jackknife.

    That of an interaction of rows and seeds: what is left of each row's influence when the mean of the row
    and that of the seed are taken away.
    """
    influence = sample.influence()
    left = influence - influence.mean(axis=0) - influence.mean(axis=1, keepdims=True) + influence.mean()
    return float((left**2).sum()) / (sample.seeds - 1) * (sample.examples - 1) / sample.examples


def _likelihood(spread: Floats, d: Floats) -> tuple[Floats, Floats]:
    """How likely each pair of d0 and s0^2 is, [d0 x scales] as one row of sum 1, and the values of s0^2."""
    floor = max(float(spread.max()) * 1e-12, 1e-300)
    logs = np.log(np.maximum(spread, floor))
    scales = np.linspace(logs.min() - _BEYOND, logs.max() + _BEYOND, _SCALES)
    ratio = logs - scales[:, None]  # [scales, methods]
    table = np.empty((len(_INVERSE_FREEDOM), _SCALES))
    for row, inverse in enumerate(_INVERSE_FREEDOM):
        d0 = 1 / inverse
        constant = np.array(
            [math.lgamma((n + d0) / 2) - math.lgamma(d0 / 2) - math.lgamma(n / 2) for n in d]
        ) + d / 2 * np.log(d / d0)
        density = constant + d / 2 * ratio - (d + d0) / 2 * np.log1p(d / d0 * np.exp(ratio))
        table[row] = density.sum(axis=1)
    likely = np.exp(table - table.max()).ravel()
    return likely / likely.sum(), np.exp(scales)


def student(share: float, freedom: float) -> float:
    """Quantile of Student's t (Hill 1970, algorithm 396 of the Communications of the ACM).

    Args:
        share: Below it, 0.5 to 1 exclusive.
        freedom: Its degrees of freedom, from 1 on; infinity for the normal distribution.
    """
    normal = NormalDist().inv_cdf(share)
    n, both = max(1.0, freedom), 2 * (1 - share)
    if n > 1e6:
        return normal
    if n < 1 + 1e-9:
        return 1 / math.tan(both * math.pi / 2)
    if abs(n - 2) < 1e-9:
        return math.sqrt(2 / (both * (2 - both)) - 2)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = (d * both) ** (2 / n)
    if y > 0.05 + a:
        x = -normal
        y = x * x
        if n < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (
            n + 1
        ) / (n + 2) + 1 / y
    return math.sqrt(n * y)
