"""Answers that are tags, one for each word of a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from deltatune.evaluation.interfaces import evaluating
from deltatune.evaluation.keys import scoring
from deltatune.evaluation.kinds.kind import Answer, Decoding, Job, Kind, MeanLoss, Scored
from deltatune.evaluation.loss import RowLoss, mean
from deltatune.evaluation.metrics import tag_metrics
from deltatune.results import Span
from deltatune.tasks import TASKS
from deltatune.tasks.tags import OUTSIDE, Tagging
from deltatune.tasks.task import Row


class Tags(Kind):
    """The most probable tag of each word, and the entities that they mean; the loss is cross-entropy a word.

    A word without a token of its own is left outside, so that what a model cannot read counts against it.
    """

    def answer(self, job: Job, decoding: Decoding) -> Sequence[Answer]:
        """Tags and entities."""
        return [tagged.answer for tagged in _tagged(job)]

    def evaluate(self, job: Job, rows: Sequence[Row], keys: Sequence[str], decoding: Decoding) -> Scored:
        """Tag and score, in one pass."""
        tagged = _tagged(job)
        answers, references = [each.answer for each in tagged], [row.target for row in rows]
        labels = list(job.encoder.labels or [])
        scores = tag_metrics([answer.text for answer in answers], references, scoring(keys), labels)
        if "loss" not in keys:
            return Scored(answers, references, scores)
        losses = [each.loss for each in tagged]
        return Scored(answers, references, scores, losses, {"loss": mean(losses)})

    def mean_loss(self, job: Job) -> MeanLoss:
        """Loss a word."""
        losses = [each.loss for each in _tagged(job)]
        return MeanLoss({"loss": mean(losses), "tokens": sum(loss.tokens for loss in losses)}, losses)


class _Tagged(NamedTuple):
    """What a model makes of a row."""

    answer: Answer
    loss: RowLoss


def _tagged(job: Job) -> list[_Tagged]:
    """Of each row, in their order; the losses say something where tags are known."""
    labels = list(job.encoder.labels or [])
    tagging, task = Tagging.of(labels), TASKS.get(job.encoder.task)

    def of_batch(rows: Sequence[int], batch: dict[str, Tensor]) -> Iterator[_Tagged]:
        with evaluating(job.model):
            logits, targets = job.model.labelled_logits(batch)
            scores = F.log_softmax(logits.float(), dim=-1)
            losses = -scores.gather(1, targets[:, None])[:, 0].cpu().double()
        counts = task.count(batch["labels"]).tolist()  # row after row
        for row, of_row, lost in zip(rows, scores.cpu().split(counts), losses.split(counts), strict=True):
            answer = _answer(job.encoded.features[row], of_row, labels, tagging)
            yield _Tagged(answer, RowLoss(lost.sum().item(), len(lost)))

    return job.each(of_batch)


def _answer(feature: dict[str, Any], scores: Tensor, labels: Sequence[str], tagging: Tagging) -> Answer:
    """The tags of a row's words, and the entities.

    Args:
        feature: The row's.
        scores: Log-probabilities [words with a token, tags].
        labels: The tags.
        tagging: How they are read.
    """
    best = scores.max(dim=-1)
    told = iter(zip(best.indices.tolist(), best.values.exp().tolist(), strict=True))
    tags, certain = [], []
    for first in feature["firsts"]:
        index, probability = next(told) if first >= 0 else (None, 0.0)
        tags.append(OUTSIDE if index is None else labels[index])
        certain.append(probability)
    places, spans = feature["places"], []
    for label, begin, behind in tagging.entities(tags):
        start, end = places[begin][0], places[behind - 1][1]
        score = sum(certain[begin:behind]) / (behind - begin)
        spans.append(Span(feature["text"][start:end], label, start, end, float(f"{score:.6g}")))
    return Answer(" ".join(tags), spans=spans, words=[tuple(place) for place in places])


KIND: Kind = Tags()
