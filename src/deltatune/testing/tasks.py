"""The kit for a task of one's own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from deltatune import api
from deltatune.core.loss import loss_of
from deltatune.core.model import AdaptedModel
from deltatune.data.dataset import Dataset
from deltatune.data.encode import Encoder
from deltatune.data.load import load_data
from deltatune.data.rows import Row
from deltatune.models.load import LoadedBase, load_base
from deltatune.recipe import Recipe
from deltatune.results import Prediction, RunResult
from deltatune.tasks import TASKS, Task
from deltatune.tasks.label_sets import labels_of
from deltatune.tasks.task import Feature
from deltatune.testing.checks import Check, known
from deltatune.testing.expecting import broken, expect
from deltatune.testing.folders import OF_CLASS, save_tiny

ROWS = 5
"""Rows of the batches that are looked at."""
ROUNDING = 1e-4
"""Of a loss, relative to it."""


def check_task(task: Task, data: Any, *, model: str | Path | None = None) -> None:
    """Check that a task keeps what deltatune relies on, and that everything works with it.

    A tiny model is made on the spot and trained for some steps; nothing is downloaded.

    Args:
        task: The task.
        data: At least 30 rows in memory, or a recipe's data section, as `deltatune.make_recipe` takes it.
        model: A folder with a base for the task, as small as can be. Default: a tiny T5, Llama, BERT or ViT,
            by the class of Transformers that the task loads its base with.

    Raises:
        AssertionError: A promise is broken; the message says which one, and what was found.
        DeltatuneError: A step of the way from the rows to predictions was refused; a note says which one.
    """
    for check in task_checks(task, data, model=model):
        check()


def task_checks(task: Task, data: Any, *, model: str | Path | None = None) -> list[Check]:
    """The checks of `check_task`, one by one; arguments as there."""
    trial = _Trial(task, data, model)
    return [Check(promise.__name__, _keeping(trial, promise)) for promise in PROMISES]


def _keeping(trial: _Trial, promise: Callable[[_Trial], None]) -> Callable[[], None]:
    def run() -> None:
        with known(TASKS, trial.task.name, trial.task), broken(trial.task.name, promise):
            promise(trial)

    return run


class _Trial:
    """A recipe of a task, and what comes of it; each thing is made when it is asked for, once."""

    def __init__(self, task: Task, data: Any, model: str | Path | None) -> None:
        self.task = task
        self._data, self._model = data, model
        self._place = tempfile.TemporaryDirectory(prefix="deltatune-kit-")

    @property
    def folder(self) -> Path:
        """Where everything is written; it goes when the trial goes."""
        return Path(self._place.name)

    @cached_property
    def recipe(self) -> Recipe:
        """LoRA and full fine-tuning, for some steps."""
        model = self._model
        if model is None:
            kind = OF_CLASS.get(self.task.auto_class)
            expect(
                kind is not None, f"there is no tiny model for {self.task.auto_class}: name a folder with one"
            )
            assert kind is not None
            model = save_tiny(kind, self.folder / "base")
        return api.make_recipe(
            task=self.task.name,
            model=str(model),
            data=self._data,
            methods=["lora", "full"],
            train={"max_steps": 6, "batch_size": 4, "precision": "fp32"},
            evaluation={"max_new_tokens": 4, "batch_size": 4},
        )

    @cached_property
    def dataset(self) -> Dataset:
        """The rows."""
        return load_data(self.recipe.data, self.task.name)

    @cached_property
    def trained(self) -> tuple[Path, RunResult]:
        """A run with LoRA: its folder and its result."""
        run = self.folder / "run"
        return run, api.train(self.recipe, run, method="lora", quiet=True)

    @cached_property
    def base(self) -> LoadedBase:
        """The base as it is, with a head for the classes."""
        return load_base(self.recipe.model, self.task.name, self.dataset.labels, dtype="float32")

    @cached_property
    def model(self) -> AdaptedModel:
        """The base, ready for a batch."""
        base = self.base
        model = AdaptedModel(base.model, base.new_modules, processor=base.processor, pooling=base.pooling)
        return model.eval()

    @cached_property
    def encoder(self) -> Encoder:
        """What makes features of the rows."""
        data, base = self.dataset, self.base
        return Encoder(self.task.name, base.processor, self.recipe.data, data.labels, base.facts, data.scale)

    @cached_property
    def rows(self) -> list[Row]:
        """Training rows of different lengths, where there are such."""
        rows = sorted(self.dataset.train, key=lambda row: len(row.input) if isinstance(row.input, str) else 0)
        return rows[:: max(1, len(rows) // ROWS)][:ROWS]

    @cached_property
    def features(self) -> list[Feature]:
        """Those rows, encoded."""
        return self.encoder.encode(self.rows).features

    def batch(self, features: list[Feature]) -> dict[str, Tensor]:
        """Collated."""
        return self.encoder.collate(features)

    @torch.no_grad()
    def loss(self, features: list[Feature]) -> float:
        """Summed over a batch."""
        outputs, targets = self.task.logits(self.model, self.batch(features))
        return float(loss_of(self.task.name, outputs, targets))


def explains_itself(trial: _Trial) -> None:
    """Everything that `deltatune tasks` prints is there, and the example is a recipe of this task."""
    for part in ("name", "title", "when", "rows", "example", "primary", "auto_class"):
        text = getattr(trial.task, part, None)
        expect(isinstance(text, str) and bool(text.strip()), f"its {part} is {text!r}, not a text")
    content = yaml.safe_load(trial.task.example)
    right = isinstance(content, Mapping) and content.get("task") == trial.task.name
    expect(right, f"its example is no recipe with `task: {trial.task.name}`: {trial.task.example!r}")
    expect(bool(trial.task.metrics), "it has no metrics")


def features_are_of_rows(trial: _Trial) -> None:
    """Each row becomes a feature, with its target and without, and a batch has as many rows."""
    encoder = trial.encoder
    for supervised in (True, False):
        features = encoder.encode(trial.rows, supervised=supervised).features
        expect(len(features) == len(trial.rows), f"{len(trial.rows)} rows are {len(features)} features")
    for name, tensor in trial.batch(trial.features).items():
        rows = len(trial.rows)
        expect(len(tensor) == rows, f"of {rows} rows, {name} has the shape {tuple(tensor.shape)}")
    expect("labels" in trial.batch(trial.features), "a batch of rows with targets has no labels")
    lengths = [trial.task.length(feature) for feature in trial.features]
    expect(min(lengths) > 0, f"rows have the lengths {lengths}")


def targets_are_counted(trial: _Trial) -> None:
    """`count` of a batch's labels is what `supervised` says of each row, and `logits` gives as many."""
    batch = trial.batch(trial.features)
    said = [trial.task.supervised(feature) for feature in trial.features]
    counted = trial.task.count(batch["labels"]).tolist()
    expect(counted == said, f"`supervised` says {said}, and `count` {counted}")
    outputs, targets = trial.task.logits(trial.model, batch)
    total = (len(outputs), len(targets))
    expect(total == (sum(said), sum(said)), f"{sum(said)} targets are counted, and `logits` gives {total}")


def the_loss_is_a_sum(trial: _Trial) -> None:
    """The loss of a batch is the sum of its rows' losses, so padding has no part in it.

    Where a row's loss depends on the others, their order has no part in it.
    """
    together = trial.loss(trial.features)
    if trial.task.spans_rows:
        turned = trial.loss(trial.features[::-1])
        near = abs(together - turned) <= ROUNDING * max(abs(together), 1.0)
        expect(near, f"the loss of the batch is {together:.6g}, and in another order {turned:.6g}")
        return
    alone = [trial.loss([feature]) for feature in trial.features]
    near = abs(together - sum(alone)) <= ROUNDING * max(abs(together), 1.0)
    expect(near, f"the loss of the batch is {together:.6g}, and its rows' losses add up to {sum(alone):.6g}")


def rows_can_be_shown(trial: _Trial) -> None:
    """`preview` gives pieces of text, each with whether it is learned."""
    for feature in trial.features:
        pieces = trial.encoder.preview(feature)
        right = bool(pieces) and all(
            isinstance(text, str) and isinstance(learned, bool) for text, learned in pieces
        )
        expect(right, f"a row is shown as {pieces}")


def sizes_are_those_of_batches(trial: _Trial) -> None:
    """`blank` of a batch's `shape` has its tensors with their sizes, and `longest` bounds them."""
    batch, shape = trial.batch(trial.features), trial.task.shape(trial.features)
    if "pixel_values" in batch:
        shape = shape.of_images(batch["pixel_values"])
    blank = trial.task.blank(shape)
    sizes, blank_sizes = (
        {name: (tuple(t.shape), t.dtype) for name, t in made.items()} for made in (batch, blank)
    )
    expect(blank_sizes == sizes, f"a batch has {sizes}, and a blank one of its shape {blank_sizes}")
    longest = trial.task.longest(len(trial.features), trial.recipe.data, True)
    for size in ("rows", "length", "target_length"):
        most, has = getattr(longest, size), getattr(shape, size)
        expect(has <= most, f"the {size} of a batch is {has}, and `longest` says {most} at most")


def places_are_bounded(trial: _Trial) -> None:
    """`places` names stacks of the base, and positions by the settings that bound them."""
    settings = {f"data.{name}" for name in type(trial.recipe.data).model_fields}
    settings |= {f"evaluation.{name}" for name in type(trial.recipe.evaluation).model_fields}
    for stack, positions in trial.task.places(trial.features, 4):
        expect(stack in ("input", "decoder"), f"{stack!r} is neither `input` nor `decoder`")
        unknown = set(positions) - settings
        expect(not unknown, f"{', '.join(unknown)} is no setting of a recipe")


def check_and_plan_know_it(trial: _Trial) -> None:
    """`check` shows its rows, and `plan` predicts what its methods take."""
    shown = api.check(trial.recipe, quiet=True)
    expect(bool(shown.samples), "`check` shows no row")
    unplanned = [f"{entry.name}: {entry.error}" for entry in api.plan(trial.recipe, quiet=True).unplanned]
    expect(not unplanned, f"`plan` cannot plan {'; '.join(unplanned)}")


def a_run_proves_itself(trial: _Trial) -> None:
    """A run is trained, and each line of its certificate holds."""
    _, result = trial.trained
    failed = [f"{line.check}: {line.detail}" for line in result.certificate if not line.passed]
    expect(not failed, "; ".join(failed))


def evaluating_again_gives_the_same(trial: _Trial) -> None:
    """The run's saved delta has the metrics that were measured when it was trained."""
    run, result = trial.trained
    first, again = result.metrics.test, api.evaluate(run, quiet=True)
    expect(trial.task.primary in first, f"its primary metric {trial.task.primary} is not among {list(first)}")
    for key, value in first.items():
        near = abs(again[key] - value) <= ROUNDING * max(abs(value), 1.0)
        expect(near, f"{key} was {value:.6g}, and is {again[key]:.6g}")


def it_answers(trial: _Trial) -> None:
    """Rows without a target get a prediction each; of classes, one of the data's."""
    asked = trial.rows[:2]
    if trial.task.reads == "images":
        encoder = trial.encoder
        expect(bool(encoder.encode(asked, supervised=False).features), "images cannot be encoded")
        return
    run, _ = trial.trained
    answers = api.predict(run, [str(row.input) if row.pair is None else row.columns for row in asked])
    for row, answer in zip(asked, answers, strict=True):
        if not isinstance(answer, Prediction):
            raise AssertionError(f"row {row.id} has no prediction: {answer}")
        labels = trial.dataset.labels if trial.task.has_classes else None
        given = [answer.prediction]
        if trial.task.has_label_sets:
            given = labels_of(answer.prediction)
        elif trial.task.tags_words:
            given = answer.prediction.split()
        fits = labels is None or set(given) <= set(labels)
        expect(fits, f"row {row.id} is answered with {answer.prediction!r}, which is none of {labels}")


def methods_are_compared(trial: _Trial) -> None:
    """A comparison of two methods ends with ranks, and its report is written."""
    out = trial.folder / "comparison"
    board = api.compare(trial.recipe, out, quiet=True)
    failed = [f"{row.name}: {row.error}" for row in board.rows if row.status != "done"]
    expect(not failed, "; ".join(failed))
    expect((out / "report.html").is_file(), "there is no report")


PROMISES: tuple[Callable[[_Trial], None], ...] = (
    explains_itself,
    features_are_of_rows,
    targets_are_counted,
    the_loss_is_a_sum,
    rows_can_be_shown,
    sizes_are_those_of_batches,
    places_are_bounded,
    check_and_plan_know_it,
    a_run_proves_itself,
    evaluating_again_gives_the_same,
    it_answers,
    methods_are_compared,
)
"""All of them, in the order of the tests."""
