"""Is a difference real? Bootstrap over the test examples, corrected for the number of pairs looked at.

Scores are arrays of one number a test example, `[examples]`, or `[seeds, examples]` when a method was
trained several times. Two methods are scored on the same examples, so examples are drawn in pairs: an
example that is hard for both then cancels out. With several seeds the seeds are drawn too, each method's on
its own (a two-level bootstrap), since a method trained anew is another draw. A handful of seeds is a small
sample: the intervals are then still somewhat too narrow.

Sources: Koehn 2004, "Statistical significance tests for machine translation evaluation" (paired bootstrap);
Hesterberg 2015, "What teachers should know about the bootstrap", section 4 (the percentile interval is too
narrow by sqrt(n / (n - 1)); mended here); Holm 1979 (correction for several tests).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_CELLS_AT_ONCE = 2_000_000  # weights drawn at a time: 16 MB


class Interval(NamedTuple):
    """A range that holds the true value with the confidence asked for."""

    low: float
    high: float


class Difference(NamedTuple):
    """How much higher the mean of `a` is than that of `b`, its interval, and how likely by chance alone."""

    difference: float
    low: float
    high: float
    p: float


class Pair(NamedTuple):
    """Two methods compared. `p` is corrected for the number of pairs; `tie`: they cannot be told apart."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    tie: bool


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """Mean of `a` minus mean of `b`, with a percentile interval and a two-sided p-value.

    The p-value is twice the smaller share of resampled differences on either side of zero, so that it
    falls below 1 - confidence exactly when the interval leaves zero out. One example tells nothing: its
    interval has no width and its p is 1.

    Args:
        a: Scores, `[examples]` or `[seeds, examples]`.
        b: Scores on the same examples in the same order; the number of seeds may differ.
        resamples: How many times to draw.
        seed: Of the draws.
        confidence: Of the interval.

    Raises:
        ValueError: Unequal numbers of examples, none, or a score that is not finite.
    """
    first, second = _scores(a), _scores(b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{first.shape[1]} scores against {second.shape[1]}; they must be of the same examples."
        )
    difference = float(first.mean() - second.mean())
    draws = np.concatenate(list(_draw([(first, 1.0), (second, -1.0)], resamples, seed)))
    draws = _widen(draws, difference, first.shape[1])
    low, high = _percentiles(draws, confidence)
    if first.shape[1] == 1:
        return Difference(difference, low, high, 1.0)
    # Rounding must not put a difference of zero on one side of zero.
    slack = 1e-12 * max(1.0, float(np.abs(first).max()), float(np.abs(second).max()))
    smaller = min(int((draws <= slack).sum()), int((draws >= -slack).sum()))
    return Difference(difference, low, high, min(1.0, 2 * (1 + smaller) / (1 + resamples)))


def bootstrap_interval(
    scores: ArrayLike, *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Percentile interval of the mean of `scores`, `[examples]` or `[seeds, examples]`.

    Raises:
        ValueError: No scores, or one that is not finite.
    """
    values = _scores(scores)
    draws = np.concatenate(list(_draw([(values, 1.0)], resamples, seed)))
    draws = _widen(draws, float(values.mean()), values.shape[1])
    # Widened draws could leave the range of the scores: a ROUGE below 0, an accuracy above 1.
    return _percentiles(np.clip(draws, values.min(), values.max()), confidence)


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
    scores: Mapping[str, ArrayLike], *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> list[Pair]:
    """Compare every two methods, with Holm's correction over all pairs.

    The interval of a pair is its own, uncorrected: a pair can be a tie though its interval just leaves out
    zero.

    Args:
        scores: Per method its scores on the same examples.
        resamples: How many times to draw for each pair.
        seed: Of the draws, the same for each pair.
        confidence: Of the intervals; a pair is a tie if its corrected p is not below 1 - confidence.
    """
    pairs = list(combinations(scores, 2))
    found = [
        paired_bootstrap(scores[a], scores[b], resamples=resamples, seed=seed, confidence=confidence)
        for a, b in pairs
    ]
    corrected = holm([result.p for result in found])
    return [
        Pair(a, b, result.difference, result.low, result.high, p, p >= 1 - confidence)
        for (a, b), result, p in zip(pairs, found, corrected, strict=True)
    ]


def shared_ranks(
    means: Sequence[float], ties: Sequence[Sequence[bool]], *, higher_is_better: bool = True
) -> list[int]:
    """Ranks in which methods that cannot be told apart from the same ones above them are level.

    The rank of a method is 1 + the number of methods that are significantly better than it: whose mean is
    better and that are no tie with it. So every method that nothing beats has rank 1, and a rank can be
    shared by methods that differ from each other only if each is beaten by equally many. "Cannot be told
    apart" is not transitive: if a ties with b and b with c but a beats c, the ranks are 1, 1, 2.

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


def _scores(values: ArrayLike) -> Floats:
    """Scores as `[seeds, examples]`."""
    scores = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"scores must be [examples] or [seeds, examples], not of shape {np.shape(values)}.")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite numbers.")
    return scores


def _draw(parts: Sequence[tuple[Floats, float]], resamples: int, seed: int) -> Iterator[Floats]:
    """Resampled weighted sums of the means of `parts`, in chunks; all parts share the examples drawn.

    Drawing n examples with replacement is the same as drawing how often each occurs (multinomial), which
    turns the resampled means into one matrix product.
    """
    random = np.random.default_rng(seed)
    examples = parts[0][0].shape[1]
    chunk = max(1, _CELLS_AT_ONCE // examples)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        weights = random.multinomial(examples, np.full(examples, 1 / examples), size=size) / examples
        total = np.zeros(size)
        for scores, sign in parts:
            total += sign * np.einsum("rn,rn->r", weights, _draw_seeds(scores, size, random))
        yield total


def _draw_seeds(scores: Floats, size: int, random: np.random.Generator) -> Floats:
    """Scores averaged over seeds drawn with replacement: `[size, examples]`."""
    seeds = scores.shape[0]
    if seeds == 1:
        return np.broadcast_to(scores, (size, scores.shape[1]))
    weights: Floats = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=size) / seeds
    return weights @ scores


def _widen(draws: Floats, center: float, examples: int) -> Floats:
    factor = float(np.sqrt(examples / max(1, examples - 1)))
    return center + (draws - center) * factor


def _percentiles(draws: Floats, confidence: float) -> Interval:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
