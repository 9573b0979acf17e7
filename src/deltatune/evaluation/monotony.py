"""One answer for almost all rows: a score can look like learning and be the share of one class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from deltatune.evaluation.run import Prediction

MOST = 0.95
"""Share of the rows from which on one answer is worth a warning."""
BEYOND = 0.02
"""And it must be given to so many more, as a share of the rows, than it is right for."""
FEW = 20
"""Of fewer rows than these nothing is said."""
SHOWN = 40
"""Letters of an answer that are shown."""


def one_answer(predictions: Sequence[Prediction]) -> str | None:
    """Say that almost all rows have one prediction which is not theirs to that extent; None if not so."""
    if len(predictions) < FEW:
        return None
    [(answer, count)] = Counter(p.prediction for p in predictions).most_common(1)
    right = sum(answer in (p.references or [p.reference]) for p in predictions)
    share, real = count / len(predictions), right / len(predictions)
    if not answer or share < MOST or share < real + BEYOND:
        return None
    shown = answer if len(answer) <= SHOWN else f"{answer[: SHOWN - 1]}…"
    return f"predicts {shown!r} for {share:.0%} of the test rows; it is right for {real:.0%} of them."
