"""Evaluate a model on rows: generate or classify, score, and keep every prediction."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deltatune.errors import DataError
from deltatune.evaluation.generation import Generation, generate
from deltatune.evaluation.interfaces import BatchEncoder, EncodedRows, Model, Progress
from deltatune.evaluation.keys import EvaluationSettings, metric_keys, scoring
from deltatune.evaluation.loss import (
    RowLoss,
    batch_losses,
    classify,
    finite,
    measure,
    row_losses,
    summed,
)
from deltatune.evaluation.metrics import Scores, classification_metrics, text_metrics, value_metrics
from deltatune.results import Prediction
from deltatune.tasks import TASKS
from deltatune.tasks.task import Row
from deltatune.tasks.tokens import LOSSES
from deltatune.tasks.values import as_text, scale_of

MOST_CLASSES = 100
"""So many probabilities of a row are kept: a line stays readable with a thousand classes."""


def probabilities(labels: Sequence[str], log_probabilities: Tensor) -> dict[str, float]:
    """Probabilities by label, to six digits, in the order of the labels.

    Args:
        labels: Names of the classes.
        log_probabilities: [classes], as `classify` gives them.
    """
    kept = log_probabilities.topk(min(MOST_CLASSES, len(labels))).indices.sort().values
    values = log_probabilities[kept].exp().tolist()
    return {labels[index]: float(f"{value:.6g}") for index, value in zip(kept.tolist(), values, strict=True)}


class _Guess(NamedTuple):
    """What a classifier makes of a row."""

    label: str
    probabilities: dict[str, float]


_Output = Generation | _Guess | str
_Found = tuple[dict[str, float], Scores, Sequence[_Output], Sequence[RowLoss]]
"""Metrics, scores, one output a row, and one loss a row or none at all."""


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
) -> Evaluation:
    """Evaluate by generation (text tasks), classification or regression, as the encoder's task says.

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

    Raises:
        RecipeError: An unknown metric, or one that does not fit the task.
        DataError: There are no rows.
        TrainingError: The loss is not finite.
    """
    if not rows:
        raise DataError("there are no rows to evaluate.", remedy="Check data.split and data.limit.")
    targets = any(row.target for row in rows)
    keys = metric_keys(spec, encoder.task, targets=targets)
    started = time.perf_counter()
    job = _Job(model, rows, encoded, encoder, spec, keys, progress)
    metrics, scores, outputs, losses = TASKS.get(encoder.task).evaluate(job, targets and bool(job.names))
    predictions = [
        replace(
            _prediction(row, reference, output),
            scores={key: values[index] for key, values in scores.examples.items() if key in keys},
            nll=losses[index].nll if losses else None,
            tokens=losses[index].tokens if losses else None,
            group=_group(row.input),
        )
        for index, (row, reference, output) in enumerate(zip(rows, job.references, outputs, strict=True))
    ]
    return Evaluation(
        metrics={key: metrics[key] for key in keys},
        predictions=predictions,
        signatures=scores.signatures,
        seconds=time.perf_counter() - started,
        tokens_generated=sum(output.tokens for output in outputs if isinstance(output, Generation)),
    )


def answer(
    model: Model,
    rows: Sequence[Row],
    encoded: EncodedRows,
    encoder: BatchEncoder,
    spec: EvaluationSettings,
) -> list[Prediction]:
    """Predict for rows without references; arguments as of `evaluate`."""
    job = _Job(model, rows, encoded, encoder, spec, (), None)
    outputs: Sequence[_Output] = TASKS.get(encoder.task).answer(job)
    return [_prediction(row, "", output) for row, output in zip(rows, outputs, strict=True)]


def _prediction(row: Row, reference: str, output: _Output) -> Prediction:
    prediction = Prediction(row.id, _shown(row.input), reference, "", None)
    if isinstance(output, Generation):
        return replace(prediction, prediction=output.text, stopped=output.stopped)
    if isinstance(output, _Guess):
        return replace(prediction, prediction=output.label, probabilities=output.probabilities)
    return replace(prediction, prediction=output)


@dataclass(frozen=True)
class _Job:
    """One evaluation."""

    model: Model
    rows: Sequence[Row]
    encoded: EncodedRows
    encoder: BatchEncoder
    spec: EvaluationSettings
    keys: Sequence[str]
    progress: Progress | None

    @property
    def names(self) -> list[str]:
        """Metrics that score outputs, by name."""
        return scoring(self.keys)

    @functools.cached_property
    def references(self) -> list[str]:
        """What outputs are held against: labels, numbers, or texts without the special tokens."""
        features = self.encoded.features
        targets = [
            feature.get("reference", row.target) for row, feature in zip(self.rows, features, strict=True)
        ]
        if not TASKS.get(self.encoder.task).writes_text:
            return targets
        return [self.encoder.reference(target) for target in targets]

    def write(self, also: Callable[[Sequence[int], Tensor | None], None] | None = None) -> list[Generation]:
        """Let the model write a text for each row; `also` is called with each batch, as of `generate`."""
        written = dict(
            generate(
                self.model,
                self.encoded,
                self.encoder,
                batch_size=self.spec.batch_size,
                max_new_tokens=self.spec.max_new_tokens,
                num_beams=self.spec.num_beams,
                progress=self.progress,
                also=also,
            )
        )
        return [written[row] for row in range(len(self.rows))]

    def texts(self) -> _Found:
        """Write and score; the loss of each batch, if asked for, shares the work of the encoder."""
        losses = [RowLoss(0.0, 0)] * len(self.rows)

        def lose(rows: Sequence[int], states: Tensor | None) -> None:
            found = batch_losses(self.model, self.encoded, self.encoder, rows, states)
            for row, loss in zip(rows, found, strict=True):
                losses[row] = loss

        wants_loss = any(key in LOSSES for key in self.keys)
        generations = self.write(also=lose if wants_loss else None)
        scores = text_metrics(generations, self.references, self.names)
        if not wants_loss:
            return scores.values, scores, generations, []
        return scores.values | summed(losses), scores, generations, losses

    def token_losses(self) -> _Found:
        """Plain text is modelled, or only losses are asked for: nothing is generated."""
        losses = row_losses(self.model, self.encoded, self.encoder, self.spec.batch_size, self.progress)
        return summed(losses), Scores({}), [""] * len(self.rows), losses

    def classify(self) -> list[_Guess]:
        """The most probable class of each row, and the probability of each."""
        guesses = [_Guess("", {})] * len(self.rows)
        for row, scores in self._scored():
            guesses[row] = _guess(self.encoder, scores)
        return guesses

    def classes(self) -> _Found:
        """Classify and score, in one pass."""
        labels, guesses = list(self.encoder.labels or []), [_Guess("", {})] * len(self.rows)
        losses = torch.zeros(len(self.rows), dtype=torch.float64)
        for row, scores in self._scored():
            guesses[row] = _guess(self.encoder, scores)
            losses[row] = -scores[labels.index(self.rows[row].target)]
        found = classification_metrics(
            [guess.label for guess in guesses], [row.target for row in self.rows], self.names, labels
        )
        if "loss" not in self.keys:
            return found.values, found, guesses, []
        rows = [RowLoss(loss, 1) for loss in losses.tolist()]
        return found.values | {"loss": finite(losses.mean().item())}, found, guesses, rows

    def measure(self) -> list[str]:
        """The number of each row in the data's units, as it is written."""
        return [as_text(value) for value in self._measured()[0]]

    def values(self) -> _Found:
        """Tell numbers and score them as they are written, in one pass."""
        numbers, losses = self._measured()
        truths = [float(reference) for reference in self.references]
        found = value_metrics(numbers, truths, self.names)
        outputs = [as_text(value) for value in numbers]
        if "loss" not in self.keys:
            return found.values, found, outputs, []
        loss = finite(math.fsum(row.nll for row in losses) / len(losses))
        return found.values | {"loss": loss}, found, outputs, losses

    def _measured(self) -> tuple[list[float], list[RowLoss]]:
        """Of each row the number in the data's units, and the loss, 0 of one without a target."""
        scale, numbers = scale_of(self.encoder), [0.0] * len(self.rows)
        losses = [RowLoss(0.0, 1)] * len(self.rows)
        told = measure(
            self.model, self.encoded, self.encoder, batch_size=self.spec.batch_size, progress=self.progress
        )
        for row, output, loss in told:
            numbers[row], losses[row] = scale.outside(finite(output)), RowLoss(loss or 0.0, 1)
        return numbers, losses

    def _scored(self) -> Iterator[tuple[int, Tensor]]:
        """Each row's number and its log-probabilities [classes], a batch at a time."""
        for row, scores, _ in classify(
            self.model, self.encoded, self.encoder, batch_size=self.spec.batch_size, progress=self.progress
        ):
            yield row, scores


def _guess(encoder: BatchEncoder, scores: Tensor) -> _Guess:
    labels = encoder.labels or []
    return _Guess(labels[int(scores.argmax())], probabilities(labels, scores))


def _group(value: Any) -> str:
    """The same for the same input, be it a text, the file of an image, or an image."""
    if isinstance(value, str):
        content = value.encode()
    elif isinstance(value, Path):
        content = value.read_bytes()
    else:
        pixels = np.ascontiguousarray(value)
        content = repr(pixels.shape).encode() + pixels.tobytes()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _shown(value: Any) -> str:
    """A text as it is, an image as a note of its size."""
    if isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    size = value.size if isinstance(getattr(value, "size", None), tuple) else value.shape[1::-1]
    return f"[image, {size[0]} x {size[1]} pixels]"
