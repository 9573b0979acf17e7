"""What tasks share that tell classes apart: labels by their names, and a new head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deltatune.errors import DataError
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import Feature, Row, Tools

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("accuracy", "macro_f1")

SENSELESS = {"data.target_template": "is for generated text; the target of {task} is a label."}
"""Fields of a recipe that classes have no use for."""
WITHOUT_EFFECT = ("data.max_target_tokens", "evaluation.num_beams", "evaluation.max_new_tokens")


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
