"""Answers that are cosines of two texts' vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deltatune.evaluation.keys import scoring
from deltatune.evaluation.kinds.kind import Answer, Decoding, Job, Kind, MeanLoss, Scored
from deltatune.evaluation.kinds.neighbours import AT_ONCE, embedded
from deltatune.evaluation.loss import finite
from deltatune.evaluation.metrics import value_metrics
from deltatune.tasks.task import Row
from deltatune.tasks.values import as_text
from deltatune.tasks.vectors import cosent

DIGITS = 6


class Cosines(Kind):
    """The cosine, which is compared with the score; the loss is that of training with all rows at once."""

    def answer(self, job: Job, decoding: Decoding) -> Sequence[Answer]:
        """The cosine of each row's texts."""
        return [Answer(as_text(value)) for value in _told(job)[0]]

    def evaluate(self, job: Job, rows: Sequence[Row], keys: Sequence[str], decoding: Decoding) -> Scored:
        """Compare cosines with scores, as they are written."""
        told, scores = _told(job)
        references = [row.target for row in rows]
        found = value_metrics(told, [float(reference) for reference in references], scoring(keys))
        answers = [Answer(as_text(value)) for value in told]
        if "loss" not in keys:
            return Scored(answers, references, found)
        return Scored(answers, references, found, means={"loss": _loss(told, scores)})

    def mean_loss(self, job: Job) -> MeanLoss:
        """One loss of all rows."""
        told, scores = _told(job)
        return MeanLoss({"loss": _loss(told, scores), "tokens": len(told)}, ())


def _told(job: Job) -> tuple[list[float], Tensor | None]:
    """Of each row the cosine, and its score if it has one."""
    vectors, scores = embedded(job)
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(dim=-1).double().tolist()
    return [round(finite(value), DIGITS) + 0.0 for value in cosines], scores


def _loss(told: Sequence[float], scores: Tensor | None) -> float:
    """CoSENT over all rows, some of them at a time: log(1 + the sum of what the parts have in it)."""
    assert scores is not None  # the encoder of rows with targets gives them
    cosines = torch.tensor(told, dtype=torch.float64)
    parts = [slice(start, start + AT_ONCE) for start in range(0, len(told), AT_ONCE)]
    return finite(math.log1p(math.fsum(math.expm1(float(cosent(cosines, scores, part))) for part in parts)))


KIND: Kind = Cosines()
