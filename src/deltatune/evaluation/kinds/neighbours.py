"""Answers that are vectors: the nearest of other texts, and which of them are right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from deltatune.errors import DataError
from deltatune.evaluation.interfaces import evaluating
from deltatune.evaluation.keys import scoring
from deltatune.evaluation.kinds.kind import Answer, Decoding, Job, Kind, MeanLoss, Scored
from deltatune.evaluation.loss import RowLoss, mean
from deltatune.evaluation.metrics.neighbours import Search, neighbour_metrics
from deltatune.tasks.task import Row
from deltatune.tasks.vectors import in_batch_negatives

SHOWN = 3
"""So many of the nearest texts are kept of a row."""
AT_ONCE = 512
"""Rows that are compared with the pool at a time."""


class Neighbours(Kind):
    """The nearest of the rows' positives; the loss is that of training with all rows as one batch."""

    def answer(self, job: Job, decoding: Decoding) -> Sequence[Answer]:
        """The vector of each row's text."""
        vectors, _ = embedded(job)
        return [Answer("", vector=as_numbers(row[0])) for row in vectors]

    def evaluate(self, job: Job, rows: Sequence[Row], keys: Sequence[str], decoding: Decoding) -> Scored:
        """Search by each row for its positive, among those of all rows."""
        vectors, names = embedded(job)
        assert names is not None  # the encoder of rows with targets gives them
        positives = [row.target for row in rows]
        searches, answers = [], []
        for search, nearest in _searches(vectors, names, positives):
            searches.append(search)
            answers.append(Answer(nearest[0], nearest=nearest))
        scores = neighbour_metrics(searches, positives, scoring(keys))
        if scoring(keys) and not scores.values:
            raise DataError(
                f"({', '.join(keys)}) is about negatives, and the rows have none.",
                field="evaluation",
                remedy="Name their column as data.columns.negative, or another metric.",
            )
        if "loss" not in keys:
            return Scored(answers, positives, scores)
        losses = _losses(vectors, names)
        return Scored(answers, positives, scores, losses, {"loss": mean(losses)})

    def mean_loss(self, job: Job) -> MeanLoss:
        """Loss a row."""
        vectors, names = embedded(job)
        assert names is not None
        losses = _losses(vectors, names)
        return MeanLoss({"loss": mean(losses), "tokens": len(losses)}, losses)


def embedded(job: Job) -> tuple[Tensor, Tensor | None]:
    """Vectors of all rows, [rows, texts, width] in float32 on the CPU, and their labels if they have any."""

    def of_batch(rows: Sequence[int], batch: dict[str, Tensor]) -> Iterable[tuple[Tensor, Tensor | None]]:
        with evaluating(job.model):
            vectors = job.model.text_vectors(batch).float().cpu()
        return zip(vectors, batch["labels"].cpu() if "labels" in batch else [None] * len(rows), strict=True)

    told = job.each(of_batch)
    labels = [label for _, label in told if label is not None]
    return torch.stack([vector for vector, _ in told]), torch.stack(labels) if labels else None


def as_numbers(vector: Tensor) -> list[float]:
    """A vector as numbers of seven digits, which is what float32 has."""
    return [float(f"{value:.7g}") for value in vector.tolist()]


def _parts(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + AT_ONCE, rows)) for start in range(0, rows, AT_ONCE))


def _losses(vectors: Tensor, names: Tensor) -> list[RowLoss]:
    found = [in_batch_negatives(vectors, names, part) for part in _parts(len(vectors))]
    return [RowLoss(loss, 1) for loss in torch.cat(found).double().tolist()]


def _searches(
    vectors: Tensor, names: Tensor, positives: Sequence[str]
) -> Iterator[tuple[Search, tuple[str, ...]]]:
    """For each row how its search ended, and the nearest texts of the pool."""
    anchors, of_positives = names[:, 0].tolist(), names[:, 1].tolist()
    place: dict[int, int] = {}  # of each different positive in the pool
    first: list[int] = []
    right: dict[int, dict[int, None]] = {}  # by anchor, the places of all that are right for it
    for row, (anchor, name) in enumerate(zip(anchors, of_positives, strict=True)):
        if name not in place:
            place[name] = len(first)
            first.append(row)
        right.setdefault(anchor, {})[place[name]] = None
    pool = vectors[first, 1]
    nearer = _nearer(vectors)
    for part in _parts(len(vectors)):
        cosines = vectors[part, 0] @ pool.T
        nearest = cosines.topk(min(SHOWN, len(pool)), dim=1).indices.tolist()
        for row, values, places in zip(range(part.start, part.stop), cosines, nearest, strict=True):
            own = values[list(right[anchors[row]])]
            ranks = (values[None] >= own[:, None]).sum(dim=1).tolist()
            shown = tuple(positives[first[found]] for found in places)
            yield Search(tuple(ranks), None if nearer is None else nearer[row]), shown


def _nearer(vectors: Tensor) -> list[float] | None:
    """Of each row the share of its negatives that are farther than its positive."""
    if vectors.shape[1] < 3:
        return None
    cosines = (vectors[:, :1] * vectors[:, 1:]).sum(dim=-1)
    shares: list[float] = (cosines[:, :1] > cosines[:, 1:]).double().mean(dim=1).tolist()
    return shares


KIND: Kind = Neighbours()
