"""What a delta costs beside its training: what the base forgets, and the time of an answer."""

from __future__ import annotations

import math

from deltatune.results.record import Number, Record


class GeneralLoss(Record):
    """The loss on general text, of the base alone and with the delta, on the same tokens.

    It tells that a model has drifted from what it was trained on, and not what it still knows.
    """

    text: str
    """`bundled`, or the name of the file."""
    sha256: str
    """Of the texts."""
    measure: str
    """`next token`, or `corrupted spans` of an encoder-decoder that was trained on these."""
    documents: int
    """Texts with tokens to predict."""
    tokens: int
    """That are predicted."""
    base: Number
    """Loss per token of the base alone, in nats."""
    delta: Number
    """With the delta; over several seeds their mean."""
    difference: Number
    """With the delta, less the base: above zero something is forgotten."""
    low: Number | None
    """Of the 95 % interval of the difference, by resampling documents; null of a single one."""
    high: Number | None
    """The other end."""

    @property
    def perplexities(self) -> tuple[float, float]:
        """Of the base alone, and with the delta; they are infinite where no number holds them."""
        return _exp(self.base), _exp(self.delta)


class Ratio(Record):
    """How many times as long an answer takes as the base alone, row by row in turns."""

    median: Number
    """Over the turns."""
    low: Number
    """A tenth of the turns is below."""
    high: Number
    """A tenth of the turns is above."""


class Latency(Record):
    """The time of an answer to one row alone. It is noisy where others use the machine."""

    rows: int
    """Test rows that were asked."""
    turns: int
    """How often, in all; in each turn all variants answer the same row."""
    tokens: int | None
    """Written for each row, no fewer and no more; null where no text is written."""
    base_seconds: Number
    """Median time of the base alone."""
    delta_seconds: Number
    """With the delta attached."""
    merged_seconds: Number | None
    """With the delta folded into the weights; null where it cannot be."""
    delta: Ratio
    """With the delta, by the base."""
    merged: Ratio | None
    """Merged, by the base."""
    not_merged: str | None = None
    """Why it could not be folded."""


class Lost(Record):
    """What was asked for of this; null is what was not, or is not defined for the base."""

    general: GeneralLoss | None = None
    """Forgetting."""
    latency: Latency | None = None
    """The time of an answer; of several seeds the first one's."""


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
