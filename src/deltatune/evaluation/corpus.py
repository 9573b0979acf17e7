"""Metrics of a whole corpus as functions of sums over its rows, so that resampled corpora can be scored.

BLEU of a corpus is no mean of numbers for single rows, but it follows from sums of a few numbers a row
(matches, n-grams, lengths). So do chrF and macro F1. A bootstrap then draws rows, sums, and scores ten
thousand corpora at once. The rows' numbers are recomputed from the stored predictions: nothing else need be
kept, and they cannot disagree with them.

Correlations of numbers and R^2 follow from sums of their squares and products. Spearman's is that of ranks,
which a resample keeps as they are among all rows: ranking each one anew would be no function of sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_EXPONENT = 700.0
"""exp() of more is infinite in float64, and infinity is not JSON."""
Floats = NDArray[np.float64]
_NGRAMS = 4
_ROUNDING = 1e-13  # of a sum of squares: a variance that is a smaller share of it is none
_BETA2 = 4.0  # chrF2 weighs recall twice as much as precision


_Statistics = Callable[[Sequence[str], Sequence[str], Sequence[str]], Floats]


@dataclass(frozen=True)
class CorpusMetric:
    """A metric that follows from sums over rows."""

    statistics: _Statistics
    """(predictions, references, classes of the data) to the numbers that are summed, [rows, numbers]."""
    score: Callable[[Floats], Floats]
    """Sums [..., numbers] to scores [...]."""
    high: float
    """The best possible score."""
    low: float = 0.0
    """The worst."""


def bleu_statistics(predictions: Sequence[str], references: Sequence[str], _: Sequence[str] = ()) -> Floats:
    """SacreBLEU's numbers of each row: length, reference's length, 4 counts of matches, 4 of n-grams."""
    from sacrebleu.metrics import BLEU

    return _segments(BLEU(), predictions, references)


def chrf_statistics(predictions: Sequence[str], references: Sequence[str], _: Sequence[str] = ()) -> Floats:
    """SacreBLEU's numbers of each row: n-grams, the reference's n-grams and matches, for n of 1 to 6."""
    from sacrebleu.metrics import CHRF

    return _segments(CHRF(), predictions, references)


def _segments(metric: Any, predictions: Sequence[str], references: Sequence[str]) -> Floats:
    # Without a public way to these numbers; the tests compare what becomes of them with corpus_score.
    rows = metric._extract_corpus_statistics(list(predictions), [list(references)])
    return np.asarray(rows, dtype=np.float64)


def bleu_score(sums: Floats) -> Floats:
    """BLEU in 0..100, smoothed as sacreBLEU does: the k-th order without a match counts 2^-k of one."""
    length, reference = sums[..., 0], sums[..., 1]
    matches, ngrams = sums[..., 2 : 2 + _NGRAMS], sums[..., 2 + _NGRAMS :]
    halvings = np.cumsum(matches == 0, axis=-1)
    counted = np.where(matches > 0, matches, 0.5**halvings)
    usable = (ngrams > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.exp(np.log(counted / ngrams).mean(axis=-1))
        brevity = np.where(length < reference, np.exp(1 - reference / length), 1.0)
        return np.where(usable, 100 * brevity * precision, 0.0)


def chrf_score(sums: Floats) -> Floats:
    """chrF2 in 0..100: F of the mean precision and recall over the orders that occur on both sides."""
    made, wanted, matches = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    used = (made > 0) & (wanted > 0)
    orders = np.maximum(used.sum(axis=-1), 1)
    precision = np.where(used, matches / np.maximum(made, 1e-300), 0).sum(axis=-1) / orders
    recall = np.where(used, matches / np.maximum(wanted, 1e-300), 0).sum(axis=-1) / orders
    below = _BETA2 * precision + recall
    return np.where(below > 0, 100 * (1 + _BETA2) * precision * recall / np.where(below > 0, below, 1), 0.0)


def macro_f1_statistics(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str] = ()
) -> Floats:
    """Per row and class: is it right, predicted, true; [rows, 3 x classes].

    Args:
        predictions: One a row.
        references: One a row.
        labels: All classes of the data; those of the references count anyway.
    """
    guesses, truths = ([" ".join(text.split()) for text in texts] for texts in (predictions, references))
    known = {*truths, *(" ".join(label.split()) for label in labels)}
    classes = {label: index for index, label in enumerate(sorted(known))}
    found = np.zeros((len(truths), 3, len(classes)))
    for row, (guess, truth) in enumerate(zip(guesses, truths, strict=True)):
        found[row, 2, classes[truth]] = 1
        if guess in classes:
            found[row, 1, classes[guess]] = 1
        if guess == truth:
            found[row, 0, classes[truth]] = 1
    return found.reshape(len(truths), -1)


def macro_f1_score(sums: Floats) -> Floats:
    """Unweighted mean of F1 over the classes that occur in the (resampled) references or predictions."""
    right, guessed, true = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    there = guessed + true > 0
    f1 = 2 * right / np.maximum(guessed + true, 1e-300)
    scores: Floats = np.where(there, f1, 0).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
    return scores


def moments(predictions: Floats, references: Floats) -> Floats:
    """Per row 1, x, y, x^2, y^2 and xy of predicted numbers x and true ones y; [rows, 6].

    Both in standard deviations of the true ones from their mean: large numbers that differ little lose no
    digits, and rows of two models can be exchanged.
    """
    spread = references.std() or 1.0
    x, y = ((numbers - references.mean()) / spread for numbers in (predictions, references))
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)


def rank_moments(predictions: Floats, references: Floats) -> Floats:
    """The `moments` of ranks; equal numbers share the mean of theirs."""
    return moments(_ranks(predictions), _ranks(references))


def _ranks(numbers: Floats) -> Floats:
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def correlation(sums: Floats) -> Floats:
    """Pearson's correlation; 0 where one side is the same number in all rows, which tells nothing."""
    count, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    of_x, of_y = xx - x * x / count, yy - y * y / count
    varied = (of_x > _ROUNDING * xx) & (of_y > _ROUNDING * yy)
    below = np.sqrt(np.where(varied, of_x * of_y, 1.0))
    found: Floats = np.clip(np.where(varied, (xy - x * y / count) / below, 0.0), -1.0, 1.0)
    return found


def determination(sums: Floats) -> Floats:
    """R^2: 1 less squared errors by those of the true numbers' mean; where these are all the same, 1 or 0."""
    count, _, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    error, spread = np.maximum(xx - 2 * xy + yy, 0.0), yy - y * y / count
    varied = spread > _ROUNDING * yy
    exact = np.where(error <= _ROUNDING * (xx + yy), 1.0, 0.0)
    found: Floats = np.where(varied, 1.0 - error / np.where(varied, spread, 1.0), exact)
    return found


def _of_texts(rows: Callable[[Floats, Floats], Floats]) -> _Statistics:
    """The same of numbers as they are written."""

    def statistics(predictions: Sequence[str], references: Sequence[str], _: Sequence[str] = ()) -> Floats:
        guesses, truths = (np.array(list(map(float, texts))) for texts in (predictions, references))
        return rows(guesses, truths)

    return statistics


@dataclass(frozen=True)
class RowMetric:
    """A metric that follows from sums of numbers that each prediction bears."""

    fields: tuple[str, ...]
    """Of a line of predictions.jsonl."""
    score: Callable[[Floats], Floats]
    """Sums [..., fields] to scores [...]."""


def mean_loss(sums: Floats) -> Floats:
    """Cross-entropy a token: every token of the corpus weighs the same, so long rows weigh more."""
    found: Floats = sums[..., 0] / sums[..., 1]
    return found


def perplexity(sums: Floats) -> Floats:
    """The exponential of the mean loss of the corpus, not a mean of the rows' own perplexities."""
    found: Floats = np.exp(np.minimum(mean_loss(sums), LARGEST_EXPONENT))
    return found


ROW_METRICS = {
    "loss": RowMetric(("nll", "tokens"), mean_loss),
    "perplexity": RowMetric(("nll", "tokens"), perplexity),
}
"""By metric key: those that are resampled by numbers of the rows which texts do not tell."""
CORPUS_METRICS = {
    "bleu": CorpusMetric(bleu_statistics, bleu_score, 100.0),
    "chrf": CorpusMetric(chrf_statistics, chrf_score, 100.0),
    "macro_f1": CorpusMetric(macro_f1_statistics, macro_f1_score, 1.0),
    "pearson": CorpusMetric(_of_texts(moments), correlation, 1.0, -1.0),
    "spearman": CorpusMetric(_of_texts(rank_moments), correlation, 1.0, -1.0),
    "r2": CorpusMetric(_of_texts(moments), determination, 1.0, -math.inf),
}
"""By metric key: those that are no means over rows and can still be resampled."""
