"""Is a difference real? Bootstrap over the test examples, corrected for the number of pairs looked at.

What is compared are samples (`Sample`): numbers of each test example whose sums give a score. For a metric
that is a mean over examples these are its scores; for BLEU, chrF and macro F1 they are counts, and every
resampled corpus is scored as a corpus.

Two methods are scored on the same examples, so examples are drawn in pairs: an example that is hard for both
then cancels out. A method trained anew is another draw as well. A handful of seeds is too few to be drawn
from, so each draw of examples gets, added to it, noise with the standard error of the mean over seeds, spread
as Student's t (Welch's degrees of freedom for two methods). Where seeds decide, this is Welch's test; where
examples decide, the paired bootstrap. One seed tells about the trained weights at hand, not about the method.

A bootstrap alone raises too many false alarms when two methods differ on a handful of examples only: four
of a hundred, all in favour of one, give p = .03, though this happens to equal methods in one case of eight.
So a difference must also pass a paired randomisation test, which is exact for equal methods: the p-value is
the larger of the two. Its interval is too narrow there as well (it held the truth in 93 % of cases where
8 examples of 200 differed): a handful of them tells little of how far differences spread. So draws are spread
as Student's t, with the degrees of freedom that Satterthwaite's approximation gives such a variance. Where
hundreds of examples differ this changes next to nothing.

Sources: Koehn 2004, "Statistical significance tests for machine translation evaluation" (paired bootstrap);
Hesterberg 2015, "What teachers should know about the bootstrap", section 4 (the percentile interval is too
narrow by sqrt(n / (n - 1)) and by the ratio of the quantiles of t and normal; both mended here); Riezler &
Maxwell 2005, "On some pitfalls in automatic evaluation and significance testing for MT" (randomisation);
Satterthwaite 1946 and Welch 1947 (degrees of freedom); Holm 1979 (several tests).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deltatune.compare.sample import Sample

Floats = NDArray[np.float64]
_CELLS_AT_ONCE = 2_000_000  # weights drawn at a time: 16 MB
_DRAWS_A_PAIR = 100  # so that the smallest corrected p is .02
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


class Pair(NamedTuple):
    """Two methods compared. `p` is corrected for the number of pairs; `tie`: they cannot be told apart.

    `examples_needed` and `seeds_needed` are for ties: so many test examples, or seeds of each method, in
    all, would tell apart methods that differ as much as these seem to. None: no tie, no difference, or (for
    examples) seeds differ too much for any number of examples to suffice, and the other way round.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    tie: bool
    examples_needed: int | None = None
    seeds_needed: int | None = None


def paired_bootstrap(
    a: ArrayLike | Sample,
    b: ArrayLike | Sample,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """Score of `a` minus score of `b`, with a percentile interval and a two-sided p-value.

    The p-value is the larger of two: of the bootstrap (twice the smaller share of resampled differences on
    either side of zero) and of the randomisation test (the share of differences at least as large when the
    two methods' results are swapped at random in each example). If it is below 1 - confidence, the interval
    leaves zero out. One example tells nothing: its interval has no width and its p is 1. Nor do results that
    are equal in all examples: what others would show is not known, and the interval has no width either.

    Args:
        a: Scores, `[examples]` or `[seeds, examples]`, or a sample.
        b: The same of the same examples in the same order; the number of seeds may differ.
        resamples: How many times to draw.
        seed: Of the draws.
        confidence: Of the interval.

    Raises:
        ValueError: Unequal numbers of examples, none, or a score that is not finite.
    """
    samples = [Sample.of(a), Sample.of(b)]
    return _difference(samples, _resampled(samples, resamples, seed), seed, confidence)


def bootstrap_interval(
    scores: ArrayLike | Sample, *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Percentile interval of a score: of the mean of `scores`, or of the sample's own.

    Args:
        scores: `[examples]` or `[seeds, examples]`, or a sample.
        resamples: How many times to draw.
        seed: Of the draws.
        confidence: Of the interval.

    Raises:
        ValueError: No scores, or one that is not finite.
    """
    sample = Sample.of(scores)
    (draws,) = _resampled([sample], resamples, seed)
    draws = _as_student(draws, sample.mean(), _influence(sample), seed)
    draws = draws + _seed_noise([sample], resamples, seed)
    # Widened draws could leave the range of the scores: a ROUGE below 0, an accuracy above 1.
    return _percentiles(np.clip(draws, sample.low, sample.high), confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979): reject where the result is below the level wanted.

    The chance of even one false rejection among all is then below that level, however the tests depend on
    each other.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    corrected = np.empty_like(p)
    corrected[order] = stepped
    return [float(value) for value in corrected]


def pairwise(
    scores: Mapping[str, ArrayLike | Sample],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Pair]:
    """Compare every two methods, with Holm's correction over all pairs.

    The interval of a pair is its own, uncorrected: a pair can be a tie though its interval just leaves out
    zero.

    Args:
        scores: Per method its scores on the same examples, or its sample.
        resamples: How many times to draw at least; the examples drawn are the same for all. The smallest p
            that draws can show is 2 / (1 + resamples), and Holm multiplies it by the number of pairs: with
            many methods more draws are made, lest all of them tie for want of draws.
        seed: Of the draws.
        confidence: Of the intervals; a pair is a tie if its corrected p is not below 1 - confidence.

    Raises:
        ValueError: Unequal numbers of examples, none, or a score that is not finite.
    """
    names, samples = list(scores), [Sample.of(values) for values in scores.values()]
    pairs = list(combinations(range(len(names)), 2))
    if not pairs:
        return []
    resamples = max(resamples, _DRAWS_A_PAIR * len(pairs))
    draws = _resampled(samples, resamples, seed)
    found = [_difference([samples[i], samples[j]], [draws[i], draws[j]], seed, confidence) for i, j in pairs]
    alpha = (1 - confidence) / len(pairs)  # Holm's first step: what tells one pair apart whatever the others
    compared = []
    for (i, j), result, p in zip(pairs, found, holm([result.p for result in found]), strict=True):
        needed = Needed(None, None)
        if p >= 1 - confidence:
            spread = float(np.var(draws[i] - draws[j])) * samples[i].examples
            needed = _needed([samples[i], samples[j]], result.difference, spread, alpha)
        compared.append(Pair(names[i], names[j], *result[:3], p, p >= 1 - confidence, *needed))
    return compared


class Needed(NamedTuple):
    """How large a comparison had to be, one of the two at a time; None if no size would do."""

    examples: int | None
    seeds: int | None


def _needed(samples: Sequence[Sample], difference: float, spread: float, alpha: float) -> Needed:
    """Test examples, or seeds of each method, to find the observed difference with a power of 80 %.

    In the normal approximation the variance of a difference must be below (difference / (z of 1 - alpha / 2
    + z of the power))^2. It is spread / examples + spread of the seeds / seeds. The observed difference
    stands for the true one, so this is a rough guide: it is itself no better known than its interval says.

    Args:
        samples: The two methods.
        difference: Between their scores.
        spread: Variance of that difference owing to examples, times their number.
        alpha: Level of the test.
    """
    normal = NormalDist()
    allowed = (difference / (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(POWER))) ** 2
    of_seeds = _standard_error(samples)
    left = allowed - of_seeds.value**2
    examples = math.ceil(spread / left) if left > 0 else None
    seeds = None
    if of_seeds.value > 0:
        left = allowed - spread / samples[0].examples
        total = sum(float(sample.by_seed().var(ddof=1)) for sample in samples if sample.seeds > 1)
        seeds = max(2, math.ceil(total / left)) if left > 0 else None
    return Needed(examples, seeds)


def shared_ranks(
    means: Sequence[float], ties: Sequence[Sequence[bool]], *, higher_is_better: bool = True
) -> list[int]:
    """Ranks: 1 + the number of methods that are significantly better (`deltatune.report.ranking.RANK_RULE`).

    Significantly better is a method whose mean is better and that is no tie. So every method that nothing
    beats has rank 1, and two methods have one rank if equally many beat each, be they a tie or not. "Cannot
    be told apart" is not transitive: if a ties with b and b with c but a beats c, the ranks are 1, 1, 2.

    Args:
        means: One a method.
        ties: `ties[i][j]`, symmetric: methods i and j cannot be told apart.
        higher_is_better: The direction of `means`.
    """
    sign = 1 if higher_is_better else -1
    levels = [sign * float(mean) for mean in means]  # NumPy's numbers would leak into the ranks, and JSON
    return [
        1 + sum(other > level and not ties[i][j] for j, other in enumerate(levels))
        for i, level in enumerate(levels)
    ]


def tie_matrix(names: Sequence[str], pairs: Sequence[Pair]) -> list[list[bool]]:
    """`ties[i][j]` for `shared_ranks`, in the order of `names`; a method ties with itself."""
    tied = {frozenset((pair.a, pair.b)) for pair in pairs if pair.tie}
    return [[a == b or frozenset((a, b)) in tied for b in names] for a in names]


def _difference(
    samples: Sequence[Sample], draws: Sequence[Floats], seed: int, confidence: float
) -> Difference:
    """Compare two samples, given their scores on the same resampled examples."""
    first, second = samples
    difference = first.mean() - second.mean()
    resamples = len(draws[0])
    noise = _seed_noise(samples, resamples, seed)
    influence = _influence(first) - _influence(second)
    drawn = _as_student(draws[0] - draws[1], difference, influence, seed) + noise
    low, high = _percentiles(drawn, confidence)
    if first.examples == 1:
        return Difference(difference, low, high, 1.0)
    # Rounding must not put a difference of zero on one side of zero.
    slack = 1e-12 * max(1.0, *(float(np.abs(scores).max()) for scores in draws))
    smaller = min(int((drawn <= slack).sum()), int((drawn >= -slack).sum()))
    by_bootstrap = 2 * (1 + smaller) / (1 + resamples)
    swapped, observed = _swapped(first, second, resamples, seed)
    as_large = int((np.abs(swapped + noise) >= abs(observed) - slack).sum())
    by_swapping = (1 + as_large) / (1 + resamples)
    return Difference(difference, low, high, min(1.0, max(by_bootstrap, by_swapping)))


def _resampled(samples: Sequence[Sample], resamples: int, seed: int) -> list[Floats]:
    """Scores of resampled corpora, averaged over seeds, [resamples] each; all samples share the examples.

    Drawing n examples with replacement is the same as drawing how often each occurs (multinomial), which
    turns the sums over resampled examples into one matrix product.
    """
    examples = samples[0].examples
    for sample in samples:
        if sample.examples != examples:
            raise ValueError(
                f"{examples} scores against {sample.examples}; they must be of the same examples."
            )
    random = np.random.default_rng(seed)
    drawn: list[list[Floats]] = [[] for _ in samples]
    for size in _chunks(resamples, examples):
        weights = random.multinomial(examples, np.full(examples, 1 / examples), size=size).astype(np.float64)
        for sample, parts in zip(samples, drawn, strict=True):
            sums = np.stack([weights @ values for values in sample.values])
            parts.append(sample.score(sums, examples).mean(axis=0))
    wider = math.sqrt(examples / max(1, examples - 1))
    found = []
    for sample, parts in zip(samples, drawn, strict=True):
        center = sample.mean()
        found.append(center + (np.concatenate(parts) - center) * wider)
    return found


def _swapped(a: Sample, b: Sample, resamples: int, seed: int) -> tuple[Floats, float]:
    """Differences after swapping the methods in randomly chosen examples, and the difference unswapped.

    Both from numbers averaged over seeds, since the numbers of seeds may differ.
    """
    random = np.random.default_rng((seed, 1))
    first, second = a.values.mean(axis=0), b.values.mean(axis=0)
    total, gap = (first + second).sum(axis=0), second - first
    found = []
    for size in _chunks(resamples, a.examples):
        swap = random.integers(0, 2, size=(size, a.examples), dtype=np.int8).astype(np.float64)
        sums = first.sum(axis=0) + swap @ gap
        found.append(a.score(sums, a.examples) - a.score(total - sums, a.examples))
    observed = a.score(first.sum(axis=0), a.examples) - a.score(second.sum(axis=0), a.examples)
    return np.concatenate(found), float(observed)


def _chunks(resamples: int, examples: int) -> Iterator[int]:
    size = max(1, _CELLS_AT_ONCE // examples)
    yield from (min(size, resamples - start) for start in range(0, resamples, size))


@dataclass(frozen=True)
class _Error:
    """A standard error and its degrees of freedom."""

    value: float
    freedom: float


def _standard_error(samples: Sequence[Sample]) -> _Error:
    """Of a score, or of the difference of two, as far as it is owing to seeds; 0 with one seed each."""
    parts = [
        (float(sample.by_seed().var(ddof=1)) / sample.seeds, sample.seeds - 1)
        for sample in samples
        if sample.seeds > 1
    ]
    variance = sum(part for part, _ in parts)
    below = sum(part**2 / freedom for part, freedom in parts)
    return _Error(math.sqrt(variance), variance**2 / below if below > 0 else 1.0)


def _seed_noise(samples: Sequence[Sample], resamples: int, seed: int) -> Floats:
    error = _standard_error(samples)
    if error.value == 0:
        return np.zeros(resamples)
    return error.value * np.random.default_rng((seed, 2)).standard_t(error.freedom, size=resamples)


def _influence(sample: Sample) -> Floats:
    """How much the score falls without each example, averaged over seeds, [examples] (the jackknife)."""
    if sample.examples == 1:
        return np.zeros(1)
    without = sample.values.sum(axis=1, keepdims=True) - sample.values
    return (sample.by_seed()[:, None] - sample.score(without, sample.examples - 1)).mean(axis=0)


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
