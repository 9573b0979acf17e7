"""Is a difference real? Bootstrap over the test examples, corrected for the number of pairs looked at.

What is compared are samples (`Sample`): numbers of each test example whose sums give a score. For a metric
that is a mean over examples these are its scores; for BLEU, chrF and macro F1 they are counts, and every
resampled corpus is scored as a corpus.

Two methods are scored on the same examples, so examples are drawn in pairs: an example that is hard for both
then cancels out. Rows of one group (of equal input) are one example (`Sample.grouped`): they are drawn
together, as clusters are. A method trained anew is another draw as well. A handful of seeds is too few to be
drawn from, so each draw of examples gets noise added to it, of the variance that other seeds would make. It
is estimated for all methods of a comparison together and drawn, too, since it is not well known (seeds.py).
One seed tells about the trained weights at hand, not about the method.

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
Satterthwaite 1946 (degrees of freedom); Smyth 2004 (variances of many methods); Holm 1979 (several tests);
Field & Welsh 2007, "Bootstrapping clustered data" (whole clusters are drawn).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from deltatune.comparison.scores import Floats, Sample
from deltatune.comparison.seeds import SeedSpread
from deltatune.results import Pair

_CELLS_AT_ONCE = 2_000_000  # weights drawn at a time: 16 MB
_DRAWS_A_PAIR = 100  # so that the smallest corrected p is .02
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
    return Draws(samples, resamples, seed).differences([(0, 1)], confidence)[0]


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
    return intervals({"": scores}, resamples=resamples, seed=seed, confidence=confidence)[""]


def intervals(
    scores: Mapping[str, ArrayLike | Sample],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Percentile interval of each method's score; how far seeds spread is estimated from all of them.

    Args:
        scores: Per method its scores on the same examples, or its sample.
        resamples: How many times to draw.
        seed: Of the draws.
        confidence: Of each interval.

    Raises:
        ValueError: Unequal numbers of examples, none, or a score that is not finite.
    """
    samples = [Sample.of(values) for values in scores.values()]
    return dict(zip(scores, Draws(samples, resamples, seed).intervals(confidence), strict=True))


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
    draws = Draws(samples, resamples, seed)
    found = draws.differences(pairs, confidence)
    alpha = (1 - confidence) / len(pairs)  # Holm's first step: what tells one pair apart whatever the others
    compared = []
    for pair, result, p in zip(pairs, found, holm([result.p for result in found]), strict=True):
        tie = p >= 1 - confidence
        needed = draws.needed(pair, result.difference, alpha) if tie else Needed(None, None)
        a, b = names[pair[0]], names[pair[1]]
        compared.append(
            Pair(
                a=a,
                b=b,
                **result._replace(p=p)._asdict(),
                tie=tie,
                examples_needed=needed.examples,
                seeds_needed=needed.seeds,
            )
        )
    return compared


class Needed(NamedTuple):
    """How large a comparison had to be, one of the two at a time; None if no size would do."""

    examples: int | None
    seeds: int | None


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


class Draws:
    """Scores of the methods of a comparison as other examples and seeds would have made them."""

    def __init__(self, samples: Sequence[Sample], resamples: int, seed: int) -> None:
        self.samples, self.resamples, self.seed = samples, resamples, seed
        self.scores = _resampled(samples, resamples, seed)
        self.means = [sample.mean() for sample in samples]
        self.influences = [sample.influence().mean(axis=0) for sample in samples]
        self.spread = SeedSpread.of(samples, resamples, seed)

    def intervals(self, confidence: float) -> list[Interval]:
        """Of each method's score."""
        found = []
        for i, sample in enumerate(self.samples):
            draws = _as_student(self.scores[i], self.means[i], self.influences[i], self.seed)
            draws = draws + self.spread.noise([i], self.seed)
            # Widened draws could leave the range of the scores: a ROUGE below 0, an accuracy above 1.
            found.append(_percentiles(np.clip(draws, sample.low, sample.high), confidence))
        return found

    def differences(self, pairs: Sequence[tuple[int, int]], confidence: float) -> list[Difference]:
        """Of each pair of methods."""
        swapped = _swapped(self.samples, pairs, self.resamples, self.seed)
        return [self._difference(pair, *both, confidence) for pair, both in zip(pairs, swapped, strict=True)]

    def _difference(
        self, pair: tuple[int, int], swapped: Floats, observed: float, confidence: float
    ) -> Difference:
        i, j = pair
        difference = self.means[i] - self.means[j]
        noise = self.spread.noise(pair, self.seed)
        influence = self.influences[i] - self.influences[j]
        drawn = _as_student(self.scores[i] - self.scores[j], difference, influence, self.seed) + noise
        low, high = _percentiles(drawn, confidence)
        if self.samples[i].examples == 1:
            return Difference(difference, low, high, 1.0)
        # Rounding must not put a difference of zero on one side of zero.
        slack = 1e-12 * max(1.0, *(float(np.abs(self.scores[k]).max()) for k in pair))
        smaller = min(int((drawn <= slack).sum()), int((drawn >= -slack).sum()))
        by_bootstrap = 2 * (1 + smaller) / (1 + self.resamples)
        as_large = int((np.abs(swapped + noise) >= abs(observed) - slack).sum())
        by_swapping = (1 + as_large) / (1 + self.resamples)
        return Difference(difference, low, high, min(1.0, max(by_bootstrap, by_swapping)))

    def needed(self, pair: tuple[int, int], difference: float, level: float) -> Needed:
        """Test rows, or seeds of each method, to find the observed difference with a power of 80 %.

        The observed difference stands for the true one, so this is a rough guide: it is itself no better
        known than its interval says.
        """
        sample = self.samples[pair[0]]
        variance = float(np.var(self.scores[pair[0]] - self.scores[pair[1]]))
        rows = round(sample.examples * sample.rows_each)
        seeds = max(self.samples[i].seeds for i in pair)

        def rows_do(count: float) -> bool:
            return self.spread.reach(pair, level, POWER, variance * rows / count, seeds) <= abs(difference)

        def seeds_do(count: float) -> bool:
            return self.spread.reach(pair, level, POWER, variance, count) <= abs(difference)

        differ = any(self.spread.typical[i] > 0 for i in pair)
        return Needed(_least(rows_do, rows), _least(seeds_do, seeds) if differ else None)


def _resampled(samples: Sequence[Sample], resamples: int, seed: int) -> list[Floats]:
    """Scores of resampled corpora, averaged over seeds, [resamples] each; all samples share the examples.

    Drawing n examples with replacement is the same as drawing how often each occurs (multinomial), which
    turns the sums over resampled examples, of all methods and seeds, into one matrix product.
    """
    examples = samples[0].examples
    for sample in samples:
        if sample.examples != examples:
            raise ValueError(
                f"{examples} scores against {sample.examples}; they must be of the same examples."
            )
    random = np.random.default_rng(seed)
    columns, places = _columns([sample.values for sample in samples])
    drawn: list[list[Floats]] = [[] for _ in samples]
    for size in _chunks(resamples, max(examples, columns.shape[1])):
        weights = random.multinomial(examples, np.full(examples, 1 / examples), size=size).astype(np.float64)
        sums = weights @ columns
        for sample, place, parts in zip(samples, places, drawn, strict=True):
            by_seed = sums[:, place].reshape(size, sample.seeds, -1)
            parts.append(sample.score(by_seed).mean(axis=1))
    wider = math.sqrt(examples / max(1, examples - 1))
    found = []
    for sample, parts in zip(samples, drawn, strict=True):
        center = sample.mean()
        found.append(center + (np.concatenate(parts) - center) * wider)
    return found


def _columns(values: Sequence[Floats]) -> tuple[Floats, list[slice]]:
    """Numbers [seeds, examples, numbers] of all samples side by side, [examples, all], and where each is."""
    flat = [each.transpose(1, 0, 2).reshape(each.shape[1], -1) for each in values]
    ends = np.cumsum([each.shape[1] for each in flat])
    starts = [0, *ends[:-1]]
    return np.concatenate(flat, axis=1), [slice(a, b) for a, b in zip(starts, ends, strict=True)]


def _swapped(
    samples: Sequence[Sample], pairs: Sequence[tuple[int, int]], resamples: int, seed: int
) -> Iterator[tuple[Floats, float]]:
    """Per pair, differences after swapping the two in randomly chosen examples, and the one unswapped.

    Both from numbers averaged over seeds, since the numbers of seeds may differ. The examples that are
    swapped are the same for all pairs, so the sums over them are made once for each method.
    """
    random = np.random.default_rng((seed, 1))
    examples = samples[0].examples
    columns, places = _columns([sample.values.mean(axis=0, keepdims=True) for sample in samples])
    totals = columns.sum(axis=0)
    found = np.empty((len(pairs), resamples))
    start = 0
    for size in _chunks(resamples, max(examples, columns.shape[1])):
        swap = random.integers(0, 2, size=(size, examples), dtype=np.int8).astype(np.float64)
        chosen = swap @ columns
        for row, (i, j) in enumerate(pairs):
            a, b = places[i], places[j]
            moved = chosen[:, b] - chosen[:, a]
            score = samples[i].score
            found[row, start : start + size] = score(totals[a] + moved) - score(totals[b] - moved)
        start += size
    for row, (i, j) in enumerate(pairs):
        score = samples[i].score
        yield found[row], float(score(totals[places[i]]) - score(totals[places[j]]))


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
