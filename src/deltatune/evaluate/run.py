"""Evaluate a model on rows: generate or classify, score, and keep every prediction."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from deltatune.errors import DataError, RecipeError, nearest
from deltatune.evaluate.generation import Generation, generate
from deltatune.evaluate.interfaces import BatchEncoder, EncodedRows, Model, Progress
from deltatune.evaluate.loss import (
    CLASSIFICATION,
    RowLoss,
    batch_losses,
    classify,
    finite,
    row_losses,
    summed,
)
from deltatune.evaluate.metrics import (
    CLASS_METRICS,
    METRICS,
    TEXT_METRICS,
    Scores,
    classification_metrics,
    text_metrics,
)

PRIMARY = {
    "text-to-text": "rougeL_f",
    "causal-lm": "rougeL_f",
    "text-classification": "accuracy",
    "image-classification": "accuracy",
}
"""The number that decides a comparison, by task, unless the recipe names another."""

LOSSES = ("loss", "perplexity")


class EvaluationSettings(Protocol):
    """The part of a recipe's `evaluation` section that is needed here."""

    @property
    def metrics(self) -> str | Sequence[str]:
        """`auto`, or names of metrics ("rouge") and of their keys ("rougeL_f")."""

    @property
    def primary(self) -> str:
        """`auto`, or the key that decides a comparison."""

    @property
    def select_by(self) -> str:
        """The key by which validation rows choose."""

    @property
    def batch_size(self) -> int:
        """Rows at once."""

    @property
    def max_new_tokens(self) -> int:
        """Where a generated text is cut off."""

    @property
    def num_beams(self) -> int:
        """1 is greedy decoding."""


class LabelledRow(Protocol):
    """A row with its reference."""

    @property
    def id(self) -> str:
        """Name of the row, unique in the data."""

    @property
    def input(self) -> Any:
        """Text, or an image."""

    @property
    def target(self) -> str:
        """Reference text, or name of the label."""


@dataclass(frozen=True)
class Prediction:
    """What the model made of one row: a line of predictions.jsonl.

    Attributes:
        id: The row's id.
        input: The row's text; for an image, a note of its size.
        reference: The reference text or label name.
        prediction: The generated text or predicted label name.
        stopped: Whether the model ended the text itself; None in classification.
        scores: Numbers of this row by metric key, for the metrics that are means over rows.
        nll: Negative log-likelihood of the reference, in nats, summed over its tokens; None if no loss was
            asked for.
        tokens: How many tokens that sum has (1 in classification), in the model's own tokenizer.
        probabilities: Of each class, or of the most probable ones if there are many; None for texts, and in
            the files of runs from before they were written down.
        group: Rows of one group depend on each other and count as one in statistics: those of equal input.
    """

    id: str
    input: str
    reference: str
    prediction: str
    stopped: bool | None
    scores: dict[str, float] = field(default_factory=dict)
    nll: float | None = None
    tokens: int | None = None
    probabilities: dict[str, float] | None = None
    group: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The prediction as plain JSON values; of a text without `probabilities`."""
        values = asdict(self)
        if self.probabilities is None:
            del values["probabilities"]
        return values


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


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on rows, and what they were computed from.

    Attributes:
        metrics: By key, over all rows.
        predictions: One a row, in the order of the rows.
        signatures: By metric name, e.g. sacreBLEU's signature.
        seconds: Wall time of everything.
        tokens_generated: 0 in classification.
    """

    metrics: dict[str, float]
    predictions: list[Prediction]
    signatures: dict[str, str]
    seconds: float
    tokens_generated: int


def evaluate(  # noqa: PLR0917 - the order in which everything else passes them
    model: Model,
    rows: Sequence[LabelledRow],
    encoded: EncodedRows,
    encoder: BatchEncoder,
    spec: EvaluationSettings,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate by generation (text tasks) or by classification, as the encoder's task says.

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
    if encoder.task in CLASSIFICATION:
        metrics, scores, outputs, losses = job.classes()
    else:
        metrics, scores, outputs, losses = job.texts() if targets and job.names else job.losses_only()
    predictions = [
        Prediction(
            row.id,
            _shown(row.input),
            reference,
            _text_of(output),
            output.stopped if isinstance(output, Generation) else None,
            {key: values[index] for key, values in scores.examples.items() if key in keys},
            losses[index].nll if losses else None,
            losses[index].tokens if losses else None,
            output.probabilities if isinstance(output, _Guess) else None,
            _group(row.input),
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


def _text_of(output: Generation | _Guess | str) -> str:
    if isinstance(output, _Guess):
        return output.label
    return output.text if isinstance(output, Generation) else output


_Found = tuple[dict[str, float], Scores, Sequence[Generation | _Guess | str], Sequence[RowLoss]]
"""Metrics, scores, one output a row, and one loss a row or none at all."""


@dataclass(frozen=True)
class _Job:
    """One evaluation."""

    model: Model
    rows: Sequence[LabelledRow]
    encoded: EncodedRows
    encoder: BatchEncoder
    spec: EvaluationSettings
    keys: Sequence[str]
    progress: Progress | None

    @property
    def names(self) -> list[str]:
        """Metrics that score outputs, by name."""
        return [name for name in _metrics_of(self.keys) if name not in LOSSES]

    @functools.cached_property
    def references(self) -> list[str]:
        """What outputs are held against: labels, or texts that lack the special tokens that outputs lack."""
        targets = [row.target for row in self.rows]
        return targets if self.encoder.labels else [self.encoder.reference(target) for target in targets]

    def texts(self) -> _Found:
        """Generate and score; the loss of each batch, if asked for, shares the work of the encoder."""
        spec, losses = self.spec, [RowLoss(0.0, 0)] * len(self.rows)

        def lose(rows: Sequence[int], states: Tensor | None) -> None:
            found = batch_losses(self.model, self.encoded, self.encoder, rows, states)
            for row, loss in zip(rows, found, strict=True):
                losses[row] = loss

        wants_loss = any(key in LOSSES for key in self.keys)
        generated = dict(
            generate(
                self.model,
                self.encoded,
                self.encoder,
                batch_size=spec.batch_size,
                max_new_tokens=spec.max_new_tokens,
                num_beams=spec.num_beams,
                progress=self.progress,
                also=lose if wants_loss else None,
            )
        )
        generations = [generated[row] for row in range(len(self.rows))]
        scores = text_metrics(generations, self.references, self.names)
        if not wants_loss:
            return scores.values, scores, generations, []
        return scores.values | summed(losses), scores, generations, losses

    def losses_only(self) -> _Found:
        """Plain text is modelled, or only losses are asked for: nothing is generated."""
        losses = row_losses(self.model, self.encoded, self.encoder, self.spec.batch_size, self.progress)
        return summed(losses), Scores({}), [""] * len(self.rows), losses

    def classes(self) -> _Found:
        """Classify and score, in one pass."""
        labels = list(self.encoder.labels or [])
        guesses = [_Guess("", {})] * len(self.rows)
        losses = torch.zeros(len(self.rows), dtype=torch.float64)
        for row, scores, _ in classify(
            self.model, self.encoded, self.encoder, batch_size=self.spec.batch_size, progress=self.progress
        ):
            guesses[row] = _Guess(labels[int(scores.argmax())], probabilities(labels, scores))
            losses[row] = -scores[labels.index(self.rows[row].target)]
        found = classification_metrics(
            [guess.label for guess in guesses], [row.target for row in self.rows], self.names, labels
        )
        if "loss" not in self.keys:
            return found.values, found, guesses, []
        rows = [RowLoss(loss, 1) for loss in losses.tolist()]
        return found.values | {"loss": finite(losses.mean().item())}, found, guesses, rows


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


def metric_keys(spec: EvaluationSettings, task: str, *, targets: bool = True) -> list[str]:
    """Keys that an evaluation with these settings will have. Call it before training, to fail early.

    Args:
        spec: The settings.
        task: The recipe's task.
        targets: Whether the rows have targets; plain text for a causal-lm has none.

    Raises:
        RecipeError: An unknown metric, one that does not fit the task, or one that is to decide (`primary`,
            `select_by`) and is better in neither direction.
    """
    if isinstance(spec.metrics, str) and spec.metrics != "auto":
        raise RecipeError(
            f"{spec.metrics!r} is neither auto nor a list of metrics.",
            field="evaluation.metrics",
            remedy=f"Write [{spec.metrics}].",
        )
    names = _automatic(task, targets) if isinstance(spec.metrics, str) else spec.metrics
    offered = _offered(task, targets)
    wanted: list[str] = []
    for index, name in enumerate(names):
        wanted += _expand(name, offered, f"evaluation.metrics[{index}]", task)
    ranking = {key: [key] for key in _ranking_keys(task, targets)}
    _expand(spec.select_by, ranking, "evaluation.select_by", task)  # is measured on validation rows only
    if spec.primary != "auto":
        wanted += _expand(spec.primary, ranking, "evaluation.primary", task)
    return list(dict.fromkeys(wanted))


def generates(spec: EvaluationSettings, task: str, *, targets: bool = True) -> bool:
    """Whether an evaluation with these settings lets the model write texts; arguments as of `metric_keys`."""
    keys = [*metric_keys(spec, task, targets=targets), spec.select_by]
    return task not in CLASSIFICATION and targets and any(name not in LOSSES for name in _metrics_of(keys))


def primary_metric(spec: EvaluationSettings, task: str, *, targets: bool = True) -> str:
    """The key that decides: as the recipe says; else the task's own if evaluated; else the first that can.

    Raises:
        RecipeError: An unknown metric, one that does not fit the task, or no metric that could decide.
    """
    keys = metric_keys(spec, task, targets=targets)
    if spec.primary != "auto":
        return spec.primary
    deciding = [key for key in keys if key in _ranking_keys(task, targets)]
    if not deciding:
        raise RecipeError(
            f"none of {', '.join(keys) or 'no metrics'} tells better from worse.",
            field="evaluation.metrics",
            remedy=f"Add {PRIMARY[task]}.",
        )
    return PRIMARY[task] if PRIMARY[task] in deciding else deciding[0]


def higher_is_better(key: str) -> bool:
    """Whether a higher value of this metric key is the better one.

    Raises:
        RecipeError: No metric has this key, or it is better in neither direction.
    """
    known = {k: direction for name in METRICS.names() for k, direction in METRICS.get(name).keys.items()}
    direction = known.get(key)
    if direction is None:
        ranking = [k for k, d in known.items() if d is not None]
        raise RecipeError(f"{key!r} does not tell better from worse.", remedy=nearest(key, ranking))
    return direction


def _automatic(task: str, targets: bool) -> list[str]:
    if task in CLASSIFICATION:
        return [*CLASS_METRICS, "loss"]
    return [*TEXT_METRICS, *LOSSES] if targets else list(LOSSES)


def _offered(task: str, targets: bool) -> dict[str, list[str]]:
    """What a recipe may ask for in this task: names of metrics, and single keys, each with its keys."""
    offered: dict[str, list[str]] = {}
    for name in METRICS.names():
        metric = METRICS.get(name)
        fits = metric.classes if task in CLASSIFICATION else metric.text if targets else None
        if fits or name in (("loss",) if task in CLASSIFICATION else LOSSES):
            offered[name] = list(metric.keys)
            offered |= {key: [key] for key in metric.keys}
    return offered


def _ranking_keys(task: str, targets: bool) -> list[str]:
    keys = {key for names in _offered(task, targets).values() for key in names}
    directions = {k: d for name in METRICS.names() for k, d in METRICS.get(name).keys.items()}
    return sorted(key for key in keys if directions[key] is not None)


def _expand(name: str, offered: dict[str, list[str]], where: str, task: str) -> list[str]:
    if name not in offered:
        raise RecipeError(
            f"{name!r} is not a metric that can be used here in the task {task}.",
            field=where,
            remedy=nearest(name, offered),
        )
    return offered[name]


def _metrics_of(keys: Sequence[str]) -> list[str]:
    """Names of the metrics that yield `keys`."""
    return [name for name in METRICS.names() if set(METRICS.get(name).keys) & set(keys)]
