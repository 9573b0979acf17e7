"""Evaluate a model on rows: let it answer, score the answers, and keep every prediction."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deltatune.core.devices import out_of_memory
from deltatune.errors import DataError
from deltatune.evaluation.interfaces import BatchEncoder, EncodedRows, Model, Progress
from deltatune.evaluation.keys import EvaluationSettings, metric_keys
from deltatune.evaluation.kinds import KINDS, Kind
from deltatune.evaluation.kinds.kind import Answer, Job, MeanLoss
from deltatune.results import Prediction
from deltatune.tasks import TASKS
from deltatune.tasks.task import Row


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on rows, and what they were computed from.

    Attributes:
        metrics: By key, over all rows.
        predictions: One a row, in the order of the rows.
        signatures: By metric name, e.g. sacreBLEU's signature.
        seconds: Wall time of everything.
        tokens_generated: 0 where no text is written.
    """

    metrics: dict[str, float]
    predictions: list[Prediction]
    signatures: dict[str, str]
    seconds: float
    tokens_generated: int


def evaluate(  # noqa: PLR0917 - the order in which everything else passes them
    model: Model,
    rows: Sequence[Row],
    encoded: EncodedRows,
    encoder: BatchEncoder,
    spec: EvaluationSettings,
    progress: Progress | None = None,
    threshold: float | None = None,
) -> Evaluation:
    """Evaluate by the kind of answer that the encoder's task asks for.

    Rows of plain text without any target have no prompt to answer: they get loss and perplexity only, and
    predictions without text. So do others if no metric of texts is asked for, since generating takes the most
    time.

    Args:
        model: Model with its active deltas.
        rows: The rows, with references.
        encoded: The same rows, encoded.
        encoder: The encoder that made them.
        spec: Metrics, batch size and decoding.
        progress: Called with (steps done, steps in total); a row is one step.
        threshold: What `threshold_on` gave for validation rows.

    Raises:
        RecipeError: An unknown metric, or one that does not fit the task.
        DataError: There are no rows.
        TrainingError: The loss is not finite.
    """
    if not rows:
        raise DataError("there are no rows to evaluate.", remedy="Check data.split and data.limit.")
    keys = metric_keys(spec, encoder.task, targets=any(row.target for row in rows))
    started = time.perf_counter()
    job = Job(model, encoded, encoder, spec.batch_size, progress, threshold)
    with _within_memory(encoder, spec.batch_size, spec.num_beams):
        scored = _kind(encoder).evaluate(job, rows, keys, spec)
    losses = scored.losses
    predictions = [
        replace(
            _prediction(row, reference, answer),
            scores={key: values[index] for key, values in scored.scores.examples.items() if key in keys},
            nll=losses[index].nll if losses else None,
            tokens=losses[index].tokens if losses else None,
            group=_group(row.input, row.pair) if row.group is None else _digest(row.group.encode()),
            references=list(texts) if len(texts) > 1 else None,
        )
        for index, (row, reference, answer, texts) in enumerate(
            zip(rows, scored.references, scored.answers, scored.several or [()] * len(rows), strict=True)
        )
    ]
    metrics = scored.scores.values | (scored.means or {})
    return Evaluation(
        metrics={key: metrics[key] for key in keys if key in metrics} | _of_targets(metrics, keys),
        predictions=predictions,
        signatures=scored.scores.signatures,
        seconds=time.perf_counter() - started,
        tokens_generated=sum(answer.tokens for answer in scored.answers),
    )


def answer(  # noqa: PLR0917
    model: Model,
    rows: Sequence[Row],
    encoded: EncodedRows,
    encoder: BatchEncoder,
    spec: EvaluationSettings,
    threshold: float | None = None,
) -> list[Prediction]:
    """Predict for rows without references; arguments as of `evaluate`."""
    job = Job(model, encoded, encoder, spec.batch_size, threshold=threshold)
    with _within_memory(encoder, spec.batch_size, spec.num_beams):
        answers = _kind(encoder).answer(job, spec)
    return [_prediction(row, "", given) for row, given in zip(rows, answers, strict=True)]


def loss_on(
    model: Model,
    encoded: EncodedRows,
    encoder: BatchEncoder,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Mean loss, every labelled token (or row, of classes and numbers) weighing the same.

    Returns:
        `loss` (in nats; of numbers the task's own) and `tokens`, the number of labels it is the mean of; with
        `perplexity` = exp(loss) for text tasks and `accuracy` for classification.

    Raises:
        TrainingError: The loss is not finite.
    """
    return losses_on(model, encoded, encoder, batch_size, progress).values


def losses_on(
    model: Model,
    encoded: EncodedRows,
    encoder: BatchEncoder,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> MeanLoss:
    """What `loss_on` gives, and the loss of each row; arguments and errors as of it."""
    with _within_memory(encoder, batch_size, beams=1):
        return _kind(encoder).mean_loss(Job(model, encoded, encoder, batch_size, progress))


def _within_memory(encoder: BatchEncoder, rows: int, beams: int) -> contextlib.AbstractContextManager[None]:
    """Within the block, running out of a GPU's memory is an error that says what to change."""
    task = TASKS.get(encoder.task)
    ways = [f"evaluation.batch_size={rows // 2} (the same result)"] if rows > 1 else []
    if task.writes_text:
        ways += ["evaluation.num_beams=1"] if beams > 1 else []
        ways.append("a smaller evaluation.max_new_tokens")
    ways.append("a smaller data.max_input_tokens" if task.reads == "text" else "a smaller model.image_size")
    what = f"evaluating {rows} rows at once" + (f" with {beams} beams" if beams > 1 else "")
    return out_of_memory(what, f"Set {', or '.join(ways)}.", "evaluation.batch_size")


def threshold_on(
    model: Model, encoded: EncodedRows, encoder: BatchEncoder, batch_size: int = 32
) -> float | None:
    """The probability from which on labels are given, as these rows choose it: validation rows, never others.

    None where a row has one answer.
    """
    return _kind(encoder).threshold(Job(model, encoded, encoder, batch_size))


def _of_targets(metrics: Mapping[str, float], keys: Sequence[str]) -> dict[str, float]:
    """Of rows with several targets, the metrics of each, such as `mae[price]`."""
    return {key: value for key, value in metrics.items() if key.endswith("]") and key.split("[")[0] in keys}


def _kind(encoder: BatchEncoder) -> Kind:
    return KINDS.get(TASKS.get(encoder.task).scored_as)


def _prediction(row: Row, reference: str, answer: Answer) -> Prediction:
    return Prediction(
        row.id,
        _shown(row.input),
        reference,
        answer.text,
        answer.stopped,
        probabilities=answer.probabilities,
        spans=answer.spans,
        words=answer.words,
        nearest=answer.nearest,
        vector=answer.vector,
        pair=row.pair,
    )


def _group(value: Any, pair: str | None) -> str:
    """The same for the same input, be it a text, a pair of texts, the file of an image, or an image."""
    if isinstance(value, str):
        content = value.encode() if pair is None else f"{len(value)} {value}{pair}".encode()
    elif isinstance(value, Path):
        content = value.read_bytes()
    else:
        pixels = np.ascontiguousarray(value)
        content = repr(pixels.shape).encode() + pixels.tobytes()
    return _digest(content)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _shown(value: Any) -> str:
    """A text as it is, an image as a note of its size."""
    if isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    size = value.size if isinstance(getattr(value, "size", None), tuple) else value.shape[1::-1]
    return f"[image, {size[0]} x {size[1]} pixels]"
