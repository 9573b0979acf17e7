"""Is a difference real? Bootstrap over the test examples, corrected for the number of pairs looked at.

What is compared are samples (`Sample`): numbers of each test example whose sums give a score. For a metric
that is a mean over examples these are its scores; for BLEU, chrF and macro F1 they are counts, and every
resampled corpus is scored as a corpus. Areas under curves, in which every row is held against every other,
are no function of sums: their rows are weighted by how often a resample has each (`RankedSample`).

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

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from deltatune.comparison.ranked import RankedSample
from deltatune.comparison.resampling import Difference, Draws, Interval, Needed
from deltatune.comparison.scores import AnySample, Sample
from deltatune.results import Pair, PairAcross

_DRAWS_A_PAIR = 100  # so that the smallest corrected p is .02


def paired_bootstrap(
    a: ArrayLike | AnySample,
    b: ArrayLike | AnySample,
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
    samples = [_sample(a), _sample(b)]
    return Draws(samples, resamples, seed).differences([(0, 1)], confidence)[0]


def bootstrap_interval(
    scores: ArrayLike | AnySample, *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
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
    scores: Mapping[str, ArrayLike | AnySample],
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
    samples = [_sample(values) for values in scores.values()]
    return dict(zip(scores, Draws(samples, resamples, seed).intervals(confidence), strict=True))


def _sample(scores: ArrayLike | AnySample) -> AnySample:
    """A sample, of the scores of a mean over examples if it is none."""
    return scores if isinstance(scores, RankedSample) else Sample.of(scores)


def holm(p_values: ArrayLike) -> list[float]:
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
    scores: Mapping[str, ArrayLike | AnySample],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    worth: float | None = None,
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
        worth: The smallest difference that matters. A pair is equivalent if two one-sided tests on the same
            draws show that it differs by less, with a correction of their own for the number of pairs.

    Raises:
        ValueError: Unequal numbers of examples, none, or a score that is not finite.
    """
    names, samples = list(scores), [_sample(values) for values in scores.values()]
    pairs = list(combinations(range(len(names)), 2))
    if not pairs:
        return []
    resamples = max(resamples, _DRAWS_A_PAIR * len(pairs))
    draws = Draws(samples, resamples, seed)
    found = draws.differences(pairs, confidence)
    alpha = (1 - confidence) / len(pairs)  # Holm's first step: what tells one pair apart whatever the others
    within: list[float | None] = [None] * len(pairs)
    if worth is not None:
        within = [*holm([draws.equivalence(pair, worth) for pair in pairs])]
    compared = []
    for pair, result, p, inside in zip(
        pairs, found, holm([result.p for result in found]), within, strict=True
    ):
        tie = p >= 1 - confidence
        equivalent = None if inside is None else inside < 1 - confidence
        known = equivalent or not tie
        needed = Needed(None, None) if known else draws.needed(pair, result.difference, alpha, worth)
        a, b = names[pair[0]], names[pair[1]]
        compared.append(
            Pair(
                a=a,
                b=b,
                **result._replace(p=p)._asdict(),
                tie=tie,
                equivalent=equivalent,
                p_equivalent=inside,
                examples_needed=needed.examples,
                seeds_needed=needed.seeds,
            )
        )
    return compared


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


def tie_matrix(names: Sequence[str], pairs: Sequence[Pair] | Sequence[PairAcross]) -> list[list[bool]]:
    """`ties[i][j]` for `shared_ranks`, in the order of `names`; a method ties with itself."""
    tied = {frozenset((pair.a, pair.b)) for pair in pairs if pair.tie}
    return [[a == b or frozenset((a, b)) in tied for b in names] for a in names]
