"""What tasks share whose rows have any number of labels: how a set of them is written, and learned.

In rows and predictions a set is a text, `toxic, insult`, since these are texts everywhere else. A label that
could be mistaken in it is written as a string of JSON, and no label at all is written `(none)`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import Feature, Row, Tools

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("micro_f1", "macro_f1", "average_precision", "exact_match")
SENSELESS = {"data.target_template": "is for generated text; the targets of {task} are labels."}
"""Fields of a recipe that sets of labels have no use for."""

HALF = 0.5
"""The probability from which on a label is given where no validation rows choose another."""
NONE = "(none)"
"""What is written where a row has no label."""
JOINT = ", "
_STRINGS = json.JSONDecoder()


def as_text(labels: Iterable[str]) -> str:
    """A set of labels as it is written, in the order given."""
    return JOINT.join(map(_quoted, labels)) or NONE


def labels_of(text: str) -> list[str]:
    """The labels of a set that `as_text` wrote; none of an empty text, as rows without a target have it.

    Of a text that it did not write, what follows a broken string of JSON is one label.
    """
    labels: list[str] = []
    place = len(text) if text == NONE else 0
    while place < len(text):
        if text[place] == '"':
            label, place = _decoded(text, place)
        else:
            end = text.find(JOINT[0], place)
            end = len(text) if end < 0 else end
            label, place = text[place:end], end
        labels.append(label)
        place += len(JOINT)
    return labels


def _decoded(text: str, place: int) -> tuple[str, int]:
    """The string of JSON that begins at `place`, and where it ends."""
    try:
        return _STRINGS.raw_decode(text, place)
    except ValueError:
        return text[place:], len(text)


def _quoted(label: str) -> str:
    plain = label and label == label.strip() and label != NONE and JOINT[0] not in label
    return label if plain and label[0] != '"' else json.dumps(label, ensure_ascii=False)


def label_set_of(row: Row, tools: Tools, supervised: bool) -> Feature:
    """The indices of a row's labels as `label_set`, and how many labels there are in all as `outputs`.

    Nothing if it has no target and needs none. A label that no training row has is nothing that the model
    could give; the check of the rows tells of it.
    """
    if not supervised:
        return {}
    known = tools.class_index
    indices = sorted(known[label] for label in labels_of(row.target) if label in known)
    return {"label_set": indices, "outputs": len(known)}


def label_set_batch(features: Sequence[Feature]) -> dict[str, Tensor]:
    """`labels` [rows, labels] of 0 and 1 in float32, where the rows have targets."""
    import torch

    if not all("label_set" in feature for feature in features):
        return {}
    labels = torch.zeros(len(features), outputs_of(features))
    for row, feature in zip(labels, features, strict=True):
        row[feature["label_set"]] = 1.0
    return {"labels": labels}


def outputs_of(features: Sequence[Feature]) -> int:
    """How many labels there are in all."""
    return max((int(feature.get("outputs", 0)) for feature in features), default=0)


def label_set_shown(feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
    """The names of a row's labels, as what is learned."""
    if tools.labels is None or "label_set" not in feature:
        return []
    return [(as_text(tools.labels[index] for index in feature["label_set"]), True)]


def losses_of_rows(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over labels of the binary cross-entropy of logits [rows, labels], [rows], in float32 or wider.

    Its mean over rows is what Transformers has for `multi_label_classification`.
    """
    import torch
    import torch.nn.functional as F

    wide = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    wanted = targets.to(wide.dtype).expand_as(wide)
    return F.binary_cross_entropy_with_logits(wide, wanted, reduction="none").mean(dim=-1)


def blank_batch(shape: BatchShape) -> dict[str, Tensor]:
    """A batch of zeros, every row without a label."""
    import torch

    return {**shape.inputs(), "labels": torch.zeros(shape.rows, shape.outputs)}
