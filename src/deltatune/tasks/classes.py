"""What tasks share that tell classes apart: labels by their names, and a new head."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from deltatune.errors import DataError
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import Feature, Row, Tools

if TYPE_CHECKING:
    from torch import Tensor

Weights = Literal["balanced"] | Mapping[str, float] | None
"""As `train.class_weights` says."""
BINARY = 2
METRICS = ("accuracy", "macro_f1")
"""What `evaluation.metrics: auto` has."""
MORE_METRICS = (
    "mcc",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "roc_auc",
    "average_precision",
    "ece",
    "brier",
)
"""What a recipe may ask for besides."""

SENSELESS = {"data.target_template": "is for generated text; the target of {task} is a label."}
"""Fields of a recipe that classes have no use for."""
WITHOUT_EFFECT = ("data.max_target_tokens", "evaluation.num_beams", "evaluation.max_new_tokens")


def in_order(labels: Iterable[str]) -> list[str]:
    """Classes in the order of numbers if all are whole numbers, else of text, whatever the base's order."""
    different = set(labels)
    return sorted(different, key=_number if all(map(str.isdecimal, different)) else None)


def _number(digits: str) -> tuple[int, str, str]:
    """Key that orders whole numbers of any length by value, and one number's spellings by text: `01`, `1`."""
    value = "".join(str(unicodedata.decimal(digit)) for digit in digits).lstrip("0")
    return len(value), value, digits


def positive_last(labels: Iterable[str], positive: str | None) -> list[str]:
    """The classes in order; of two the positive one is the second, or the one that the recipe names."""
    ordered = in_order(labels)
    return sorted(ordered, key=lambda label: label == positive) if len(ordered) == BINARY else ordered


def class_weights(wanted: Weights, labels: Sequence[str], rows: Mapping[str, int]) -> list[float] | None:
    """What a training row of each class counts for in the loss, in the order of `labels`.

    Args:
        wanted: `balanced`, weights by name (1 for those that are not named), or None.
        labels: The classes.
        rows: Training rows of each. `balanced` is all rows / (classes x rows of the class), as scikit-learn
            has it; a class without rows has none to weigh.
    """
    if wanted is None:
        return None
    if wanted != "balanced":
        return [float(wanted.get(label, 1.0)) for label in labels]
    total = sum(rows.get(label, 0) for label in labels)
    return [total / (len(labels) * count) if (count := rows.get(label, 0)) else 1.0 for label in labels]


def label_of(row: Row, tools: Tools, supervised: bool) -> Feature:
    """The index of a row's class as `label`; nothing if it has none and needs none.

    Raises:
        DataError: It needs one, and has one that is no class.
    """
    if row.target in tools.class_index:
        return {"label": tools.class_index[row.target]}
    if not supervised:
        return {}
    raise DataError(
        f"has the label {row.target!r}, which is none of the classes {', '.join(tools.class_index)}.",
        field=f"row {row.id}",
        remedy="Mend the label, or train with rows that have it.",
    )


def label_batch(features: Sequence[Feature]) -> dict[str, Tensor]:
    """`labels` [rows], where the rows have them."""
    import torch

    labels = [feature["label"] for feature in features if "label" in feature]
    return {"labels": torch.tensor(labels)} if labels else {}


def label_shown(feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
    """The name of a row's class, as what is learned."""
    return [(tools.labels[feature["label"]], True)] if tools.labels and "label" in feature else []


def blank_batch(shape: BatchShape) -> dict[str, Tensor]:
    """A batch of zeros, every row of the first class."""
    import torch

    return {**shape.inputs(), "labels": torch.zeros(shape.rows, dtype=torch.long)}
