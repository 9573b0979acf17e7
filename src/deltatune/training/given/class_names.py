"""What a recipe says of classes by their names, held against those of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor

from deltatune.data.dataset import Dataset
from deltatune.errors import DataError, nearest
from deltatune.recipe.schema import Recipe, TrainSpec
from deltatune.tasks.classes import BINARY, class_weights

SHOWN = 20
"""Names of classes that a message lists: those that are most like it."""


def require_class_names(recipe: Recipe, labels: Sequence[str]) -> None:
    """Refuse names that no class of the data has.

    Args:
        recipe: The recipe.
        labels: The classes.

    Raises:
        DataError: There is such a name, or a positive class among more than two.
    """
    positive = recipe.evaluation.positive
    if positive is not None and len(labels) != BINARY:
        raise DataError(
            f"({positive}) is for two classes, of which one is positive; the data have {len(labels)}.",
            field="evaluation.positive",
            remedy="Leave it out: of more classes each is held against the others, and the mean is taken.",
        )
    for field, name in _named(recipe):
        if name not in labels:
            raise DataError(
                f"{name!r} is none of the data's classes.",
                field=field,
                remedy=nearest(name, get_close_matches(name, labels, n=SHOWN, cutoff=0)),
            )


def _named(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.evaluation.positive is not None:
        yield "evaluation.positive", recipe.evaluation.positive
    places = {"train.class_weights": recipe.train}
    places |= {f"methods.{at}.train.class_weights": entry.train for at, entry in enumerate(recipe.methods)}
    for field, spec in places.items():
        if isinstance(spec.class_weights, dict):
            yield from ((field, name) for name in spec.class_weights)


def weights_of(spec: TrainSpec, dataset: Dataset, labels: Sequence[str] | None) -> Tensor | None:
    """What a training row of each class counts for, [classes] in float32; None: all the same.

    Args:
        spec: How the entry is trained.
        dataset: The rows.
        labels: The classes in the order of the model's outputs.
    """
    rows = Counter(name for row in dataset.train for name in row.class_names)
    weights = class_weights(spec.class_weights, labels, rows) if labels else None
    return None if weights is None else torch.tensor(weights, dtype=torch.float32)
