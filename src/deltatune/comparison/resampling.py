"""Scores of a comparison's methods as other test examples, and other seeds, would have made them.

Why they are drawn in this way, and the sources: `statistics.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from deltatune.comparison.ranked import RankedSample, RankedSamples
from deltatune.comparison.scores import AnySample, Floats, Sample, Samples
from deltatune.comparison.seeds import SeedSpread

_CELLS_AT_ONCE = 2_000_000  # weights drawn at a time: 16 MB
_SWAPS_AT_ONCE = 20_000_000  # differences after a swap that are kept at a time: 160 MB
_MOST_NEEDED = 10**9  # rows or seeds: more is as good as never
POWER = 0.8
"""With which a difference as large as the observed one shall be found by the examples said to be needed."""


class Interval(NamedTuple):
    """A range that holds the true value with the confidence asked for."""

    low: float
    high: float


class Difference(NamedTuple):
    """How much higher the score of `a` is than that of `b`, its interval, and how likely by chance alone."""

    difference: float
    low: float
    high: float
    p: float


class Needed(NamedTuple):
    """How large a comparison had to be, one of the two at a time; None if no size would do."""

    examples: int | None
    seeds: int | None


class Draws:
    """Scores of the methods of a comparison as other examples and seeds would have made them."""

    def __init__(self, samples: Sequence[AnySample], resamples: int, seed: int) -> None:
        self.samples, self.resamples, self.seed = samples, resamples, seed
        self.scores = _resampled(samples, resamples, seed)
        self.means = [sample.mean() for sample in samples]
        self.influences = [sample.influence().mean(axis=0) for sample in samples]
        self.spread = SeedSpread.of(samples, resamples, seed)

    def anew(self, method: int) -> Floats:
        """A method's score as other examples and seeds would have made it, [resamples]."""
        draws = _as_student(self.scores[method], self.means[method], self.influences[method], self.seed)
        draws = draws + self.spread.noise([method], self.seed)
        # Widened draws could leave the range of the scores: a ROUGE below 0, an accuracy above 1.
        return np.clip(draws, self.samples[method].low, self.samples[method].high)

    def intervals(self, confidence: float) -> list[Interval]:
        """Of each method's score."""
        return [_percentiles(self.anew(i), confidence) for i in range(len(self.samples))]

    def of_pairs(self, pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[Floats, Floats]]:
        """Of each pair its difference as others would have made it, and as it is if the two swap results.

        Both are [resamples]. Each draw of examples is one of all pairs; the second swaps the results of a
        pair in examples chosen at random.
        """
        for pair, (swapped, _) in zip(
            pairs, _swapped(self.samples, pairs, self.resamples, self.seed), strict=True
        ):
            noise = self.spread.noise(pair, self.seed)
            yield self._drawn(pair) + noise, swapped + noise

    def differences(self, pairs: Sequence[tuple[int, int]], confidence: float) -> list[Difference]:
        """Of each pair of methods."""
        found = []
        size = max(1, _SWAPS_AT_ONCE // self.resamples)
        for start in range(0, len(pairs), size):
            part = pairs[start : start + size]
            swapped = _swapped(self.samples, part, self.resamples, self.seed)
            found += [self._difference(p, *both, confidence) for p, both in zip(part, swapped, strict=True)]
        return found

    def _difference(
        self, pair: tuple[int, int], swapped: Floats, observed: float, confidence: float
    ) -> Difference:
        i, j = pair
        difference = self.means[i] - self.means[j]
        noise = self.spread.noise(pair, self.seed)
        drawn = self._drawn(pair) + noise
        # Widened draws could leave the range of differences: an accuracy 120 points above another.
        most = farthest(self.samples[i], self.samples[j])
        low, high = _percentiles(np.clip(drawn, -most, most), confidence)
        if self.samples[i].examples == 1:
            return Difference(difference, low, high, 1.0)
        # Rounding must not put a difference of zero on one side of zero.
        slack = 1e-12 * max(1.0, *(float(np.abs(self.scores[k]).max()) for k in pair))
        smaller = min(int((drawn <= slack).sum()), int((drawn >= -slack).sum()))
        by_bootstrap = 2 * (1 + smaller) / (1 + self.resamples)
        as_large = int((np.abs(swapped + noise) >= abs(observed) - slack).sum())
        by_swapping = (1 + as_large) / (1 + self.resamples)
        return Difference(difference, low, high, min(1.0, max(by_bootstrap, by_swapping)))

    def _drawn(self, pair: tuple[int, int]) -> Floats:
        """The difference of a pair as other examples would have made it, [resamples]."""
        i, j = pair
        influence = self.influences[i] - self.influences[j]
        difference = self.means[i] - self.means[j]
        return _as_student(self.scores[i] - self.scores[j], difference, influence, self.seed)

    def equivalence(self, pair: tuple[int, int], margin: float) -> float:
        """The p-value of two one-sided tests (Schuirmann 1987): are the two less than `margin` apart?

        The larger share of draws beyond either margin. Where next to no example differs, draws hardly spread,
        and would call anything equivalent. So an example more that differs, as much as any here does, is
        drawn besides, to either side: what Agresti & Min 2005 do with the counts of matched pairs.
        """
        largest = self._largest(pair)
        if self.samples[pair[0]].examples == 1 or largest == 0:
            return 1.0
        unseen = np.random.default_rng((self.seed, 5)).standard_normal(self.resamples) * largest
        drawn = self._drawn(pair) + self.spread.noise(pair, self.seed) + unseen
        beyond = max(int((drawn >= margin).sum()), int((drawn <= -margin).sum()))
        return (1 + beyond) / (1 + self.resamples)

    def _largest(self, pair: tuple[int, int]) -> float:
        """What one example can do to the difference, as far as those here show."""
        i, j = pair
        largest = float(np.abs(self.influences[i] - self.influences[j]).max())
        if largest > 0:
            return largest
        return farthest(self.samples[i], self.samples[j]) / self.samples[i].examples

    def needed(
        self, pair: tuple[int, int], difference: float, level: float, margin: float | None = None
    ) -> Needed:
        """As of `needed`."""
        variance = float(np.var(self.scores[pair[0]] - self.scores[pair[1]]))
        unseen = self._largest(pair) ** 2
        return needed(self.spread, self.samples, pair, difference, variance, level, margin, unseen)


def farthest(a: AnySample, b: AnySample) -> float:
    """How far the scores of two methods can lie apart."""
    return float(max(a.high, b.high) - min(a.low, b.low))


def needed(  # noqa: PLR0917
    spread: SeedSpread,
    samples: Sequence[AnySample],
    pair: tuple[int, int],
    difference: float,
    variance: float,
    level: float,
    margin: float | None = None,
    unseen: float = 0.0,
) -> Needed:
    """Test rows, or seeds of each method, to find the observed difference with a power of 80 %.

    With a margin, to find that or that they are equivalent, whichever takes less.

    The observed difference stands for the true one, so this is a rough guide: it is itself no better known
    than its interval says.

    Args:
        spread: Of seeds.
        samples: Of all methods.
        pair: Two of them.
        difference: Of their scores.
        variance: Of the difference, as far as rows make it.
        level: Of the test.
        margin: The smallest difference that matters.
        unseen: The variance of the example that `equivalence` draws besides.
    """
    inside = -1.0 if margin is None else margin - abs(difference)
    sample = samples[pair[0]]
    rows = round(sample.examples * sample.rows_each)
    seeds = max(samples[i].seeds for i in pair)

    def tells(left: float, of_each: float) -> bool:
        """Whether such a share of the variance that rows make, and so many seeds, would."""
        of_rows = variance * left
        if difference and spread.reach(pair, level, POWER, of_rows, of_each) <= abs(difference):
            return True
        of_rows += unseen * left**2
        return spread.reach(pair, 2 * level, POWER, of_rows, of_each) <= inside  # one-sided at the same level

    def rows_do(count: float) -> bool:
        return tells(rows / count, seeds)

    def seeds_do(count: float) -> bool:
        return tells(1.0, count)

    differ = any(spread.typical[i] > 0 for i in pair)
    return Needed(_least(rows_do, rows), _least(seeds_do, seeds) if differ else None)


def _least(suffices: Callable[[float], bool], there: int) -> int | None:
    """The smallest number above those that are there that suffices; None if none does, or if these do."""
    if suffices(there) or not suffices(math.inf):
        return None
    low, high = there, 2 * there
    while not suffices(high):
        low, high = high, 2 * high
        if high > _MOST_NEEDED:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _resampled(samples: Sequence[AnySample], resamples: int, seed: int) -> list[Floats]:
    """Scores of resampled corpora, averaged over seeds, [resamples] each; all samples share the examples.

    Drawing n examples with replacement is the same as drawing how often each occurs (multinomial).
    """
    examples = samples[0].examples
    for sample in samples:
        if sample.examples != examples:
            raise ValueError(
                f"{examples} scores against {sample.examples}; they must be of the same examples."
            )
    random = np.random.default_rng(seed)
    together = _together(samples)
    drawn: list[list[Floats]] = [[] for _ in samples]
    for size in _chunks(resamples, together.width):
        weights = random.multinomial(examples, np.full(examples, 1 / examples), size=size).astype(np.float64)
        weights[samples[0].chance.without_rows(weights)] = 1.0  # once in millions, where parts are small
        for parts, by_seed in zip(drawn, together.drawn(weights), strict=True):
            parts.append(by_seed.mean(axis=1))
    wider = math.sqrt(examples / max(1, examples - 1))
    found = []
    for sample, parts in zip(samples, drawn, strict=True):
        center, draws = sample.mean(), np.concatenate(parts)
        middle = float(draws.mean()) if sample.biased else center
        found.append(center + (draws - middle) * wider)
    return found


def _swapped(
    samples: Sequence[AnySample], pairs: Sequence[tuple[int, int]], resamples: int, seed: int
) -> Iterator[tuple[Floats, float]]:
    """Per pair, differences after swapping the two in randomly chosen examples, and the one unswapped."""
    random = np.random.default_rng((seed, 1))
    examples = samples[0].examples
    together = _together(samples)
    found = np.empty((len(pairs), resamples))
    start = 0
    for size in _chunks(resamples, together.swap_width):
        swap = random.integers(0, 2, size=(size, examples), dtype=np.int8).astype(np.float64)
        found[:, start : start + size] = together.swapped(pairs, swap)
        start += size
    observed = together.swapped(pairs, np.zeros((1, examples)))[:, 0]
    for row in range(len(pairs)):
        yield found[row], float(observed[row])


def _together(samples: Sequence[AnySample]) -> Samples | RankedSamples:
    """All of a comparison are of one metric, so of one kind.

    Raises:
        TypeError: They are not.
    """
    if all(isinstance(sample, Sample) for sample in samples):
        return Samples([sample for sample in samples if isinstance(sample, Sample)])
    ranked = [sample for sample in samples if isinstance(sample, RankedSample)]
    if len(ranked) < len(samples):
        raise TypeError("samples of a metric of sums cannot be compared with those of a ranking.")
    return RankedSamples(ranked)


def _chunks(resamples: int, examples: int) -> Iterator[int]:
    size = max(1, _CELLS_AT_ONCE // examples)
    yield from (min(size, resamples - start) for start in range(0, resamples, size))


def _as_student(draws: Floats, center: float, influence: Floats, seed: int) -> Floats:
    """Draws about `center` with the tails of Student's t: normal ones divided by the root of chi^2 / freedom.

    A variance of n independent numbers with the kurtosis K has about 2 n / (K - 1) degrees of freedom: n if
    they are normal, 2 k if all but k of many are equal.

    Args:
        draws: [resamples].
        center: What they were drawn about.
        influence: Of the examples on it, [examples].
        seed: Of the divisors.
    """
    squares = (influence - influence.mean()) ** 2
    total = float(squares.sum())
    if total == 0:
        return draws
    excess = float((squares**2).sum()) / total**2 - 1 / len(squares)
    freedom = max(1.0, 2 / max(excess, 1e-6))
    tails = np.sqrt(np.random.default_rng((seed, 3)).chisquare(freedom, size=len(draws)) / freedom)
    return center + (draws - center) / tails


def _percentiles(draws: Floats, confidence: float) -> Interval:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
