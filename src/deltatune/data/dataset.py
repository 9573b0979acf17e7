"""The data set: all rows of a recipe, and what was found out about them."""

from __future__ import annotations

from dataclasses import dataclass, field

from deltatune.data.checks import DataCheck
from deltatune.data.rows import Row
from deltatune.tasks.values import Scale, Scales


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows of a recipe, split and checked."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    labels: list[str] | None = None
    """Classification: the labels of the training rows; a label's index is its class. Otherwise None."""
    scale: Scale | Scales | None = None
    """Regression: mean and standard deviation of the training rows' targets. Otherwise None."""
    pair: tuple[str, str] | None = None
    """The columns of the two texts that a row has; None where it has one."""
    references: dict[str, tuple[int, int]] | None = None
    """By part, inputs and texts that are right for them; None where each input has one."""
    fingerprint: str = ""
    """SHA-256 of ids, inputs and targets of all parts."""
    warnings: list[str] = field(default_factory=list)
    """What the user should know, such as test rows that are also training rows."""
    check: DataCheck | None = None
    """What the warnings rest on."""
    splitting: str | None = None
    """How texts are split into tagged words such as these (`deltatune.data.split_words`); else None."""
