"""How numbers of a whole corpus follow from sums over its rows, so that resampled corpora can be scored.

BLEU of a corpus is no mean of numbers for single rows, but it follows from sums of a few numbers a row
(matches, n-grams, lengths). So do chrF and macro F1. A bootstrap then draws rows, sums, and scores ten
thousand corpora at once. The rows' numbers are recomputed from the stored predictions: nothing else need be
kept, and they cannot disagree with them.

Correlations of numbers and R^2 follow from sums of their squares and products. Spearman's is that of ranks,
which a resample keeps as they are among all rows: ranking each one anew would be no function of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_EXPONENT = 700.0
"""exp() of more is infinite in float64, and infinity is not JSON."""
Floats = NDArray[np.float64]
_Statistics = Callable[[Sequence[str], Sequence[Any], Sequence[str]], Floats]


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
    several: bool = False
    """Whether the references may be lists of them; otherwise the first of each row is given."""


@dataclass(frozen=True)
class RowMetric:
    """A metric that follows from sums of numbers that each prediction bears."""

    fields: tuple[str, ...]
    """Of a line of predictions.jsonl."""
    score: Callable[[Floats], Floats]
    """Sums [..., fields] to scores [...]."""


def mean_loss(sums: Floats) -> Floats:
    """Cross-entropy per token: every token of the corpus weighs the same, so long rows weigh more."""
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
