"""Answers that are texts: written token by token, never taken from teacher-forced logits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor

from deltatune.core.devices import to_device
from deltatune.evaluation.corpus import LARGEST_EXPONENT
from deltatune.evaluation.generation import Generation, Written, write
from deltatune.evaluation.interfaces import evaluating, of_like_lengths
from deltatune.evaluation.keys import scoring
from deltatune.evaluation.kinds.kind import Answer, Decoding, Job, Kind, MeanLoss, Scored
from deltatune.evaluation.loss import RowLoss, mean
from deltatune.evaluation.metrics import Scores, text_metrics
from deltatune.tasks import TASKS
from deltatune.tasks.task import ANSWER, Feature, Row, each_reference
from deltatune.tasks.tokens import LOSSES


class Texts(Kind):
    """Write, and compare with the references; the loss is that of their tokens."""

    def answer(self, job: Job, decoding: Decoding) -> Sequence[Answer]:
        """What the model writes."""
        return list(map(_answer, _write(job, decoding)))

    def evaluate(self, job: Job, rows: Sequence[Row], keys: Sequence[str], decoding: Decoding) -> Scored:
        """Write and score; nothing is written if only losses are asked for, or rows are plain text."""
        pairs = zip(rows, job.encoded.features, strict=True)
        targets = [row.references or (feature.get("reference", row.target),) for row, feature in pairs]
        several = [tuple(map(job.encoder.reference, texts)) for texts in targets]
        references = [texts[0] for texts in several]
        names = scoring(keys)
        if not names or not any(row.target for row in rows):
            losses = row_losses(job)
            answers = [Answer("")] * len(rows)
            return Scored(answers, references, Scores({}), losses, summed(losses), several)
        if not any(key in LOSSES for key in keys) or _answered(job):
            generations = _write(job, decoding)
            scores = text_metrics(generations, several, names)
            return Scored(list(map(_answer, generations)), references, scores, several=several)

        def of_batch(numbers: Sequence[int]) -> Iterable[tuple[Generation, RowLoss]]:
            """The loss of a batch shares the work of the encoder."""
            written = _write_batch(job, numbers, decoding)
            return zip(written.generations, batch_losses(job, numbers, written.states), strict=True)

        told = job.each_part(of_batch)
        generations, losses = [generation for generation, _ in told], [loss for _, loss in told]
        scores, answers = text_metrics(generations, several, names), list(map(_answer, generations))
        return Scored(answers, references, scores, losses, summed(losses), several)

    def mean_loss(self, job: Job) -> MeanLoss:
        """Loss per token, in nats; `perplexity` is its exponential. None of what a method answers itself."""
        if _answered(job):
            return MeanLoss({}, ())
        rows = row_losses(job)
        return MeanLoss(summed(rows), rows)


def _answered(job: Job) -> bool:
    """Whether the method knows the answers, so that no model says how likely they are."""
    return any(ANSWER in feature for feature in job.encoded.features)


def row_losses(job: Job) -> list[RowLoss]:
    """What each row adds to the loss, in the order of the rows."""
    return job.each_part(lambda rows: batch_losses(job, rows), of_like_lengths)


def batch_losses(job: Job, rows: Sequence[int], states: Tensor | None = None) -> list[RowLoss]:
    """The losses of `rows` as one batch; of rows with several references, of one for each in its turn.

    A row's loss is then summed over the tokens of all its references, as they are learned: each weighs as
    much as a token of any other row.

    Args:
        job: The model and the rows.
        rows: Row numbers.
        states: What the model's encoder made of the same batch, if that is known.
    """
    losses = [RowLoss(0.0, 0)] * len(rows)
    variants = [each_reference([job.encoded.features[row]]) for row in rows]
    width = max(len(feature["input_ids"]) for feature, *_ in variants)
    if states is None and max(map(len, variants)) > 1:  # all references of a row are of one input
        states = _states_of(job, [feature for feature, *_ in variants])
    for turn in range(max(map(len, variants))):
        places = [place for place, features in enumerate(variants) if len(features) > turn]
        batch = job.batch([variants[place][turn] for place in places])
        of_places = states
        if states is not None and len(places) < len(rows):  # and their padding may be less
            missing = width - batch["input_ids"].shape[1]
            of_places = states[places, : states.shape[1] - missing]
        for place, loss in zip(places, _losses(job, batch, of_places), strict=True):
            before = losses[place]
            losses[place] = RowLoss(before.nll + loss.nll, before.tokens + loss.tokens)
    return losses


def _states_of(job: Job, features: list[Feature]) -> Tensor | None:
    """What an encoder of its own makes of rows; None if the model has none."""
    if TASKS.get(job.encoder.task).continues:
        return None
    with evaluating(job.model):
        return job.model.encoder_states(to_device(job.encoder.collate_prompts(features), job.model.device))


def _losses(job: Job, batch: dict[str, Tensor], states: Tensor | None = None) -> list[RowLoss]:
    with evaluating(job.model):
        logits, targets = job.model.labelled_logits(batch, states)
        losses = F.cross_entropy(logits.float(), targets, reduction="none").cpu().double()
    counts = TASKS.get(job.encoder.task).count(batch["labels"]).tolist()  # row after row
    return [RowLoss(of_row.sum().item(), len(of_row)) for of_row in losses.split(counts)]


def summed(rows: Sequence[RowLoss]) -> dict[str, float]:
    """Loss, perplexity and number of tokens of a corpus.

    Raises:
        TrainingError: The loss is not finite.
    """
    loss, tokens = mean(rows), sum(row.tokens for row in rows)
    return {"loss": loss, "perplexity": math.exp(min(loss, LARGEST_EXPONENT)), "tokens": tokens}


def _write(job: Job, decoding: Decoding) -> list[Generation]:
    """Let the model write a text for each row."""
    return job.each_part(lambda rows: _write_batch(job, rows, decoding).generations)


def _write_batch(job: Job, rows: Sequence[int], decoding: Decoding) -> Written:
    features = [job.encoded.features[row] for row in rows]
    limit, beams = decoding.max_new_tokens, decoding.num_beams
    return write(job.model, features, job.encoder, max_new_tokens=limit, num_beams=beams)


def _answer(generation: Generation) -> Answer:
    return Answer(generation.text, generation.stopped, generation.tokens)


KIND: Kind = Texts()
