"""What a run and a comparison write at most, in bytes: known from sizes alone, before anything is trained.

A run holds its log from the first step, its state from the first saving, and its delta and predictions at its
end. While a state is replaced there are two, and the kept outputs of frozen layers are in a file if memory is
short. The state goes when the run is finished, the file when training is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from deltatune.data.dataset import Dataset
from deltatune.evaluation.metrics.chances import MOST_CLASSES
from deltatune.memory.predict import Prediction, Setup
from deltatune.recipe.rates import Course
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.spaces import searched
from deltatune.results import PlannedCurve
from deltatune.tasks import TASKS
from deltatune.tasks.values import SIGNIFICANT

SMALL_FILES = 100_000
"""Recipe, result, certificate and manifests of a run, and all of a state that grows with nothing."""
LOG_LINE = 400
PREDICTION = 600
"""Of a line besides its texts: names, scores, numbers."""
TOKEN = 8
"""Of a generated token, in UTF-8 with JSON's escapes."""
PROBABILITY = 20
DIGESTS = 16
"""Of a row, in a state."""


@dataclass(frozen=True)
class Disk:
    """Bytes of one run's files."""

    delta: int
    state: int
    """All from which an interrupted run goes on."""
    kept: int
    """The outputs of frozen layers, if memory is too short for them."""
    checkpoints: int
    """The deltas of checkpoints that are kept."""
    predictions: int
    other: int
    """The log and the small files."""

    @property
    def left(self) -> int:
        """When the run is finished."""
        return self.delta + self.checkpoints + self.predictions + self.other

    @property
    def most(self) -> int:
        """At any time."""
        one_more = self.delta if self.checkpoints else 0  # which is written before the oldest goes
        return self.left + 2 * self.state + self.kept + one_more

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self) | {"left": self.left, "most": self.most}


def disk_of(
    recipe: Recipe,
    entry: MethodEntry,
    setup: Setup,
    found: Prediction,
    *,
    dataset: Dataset | None,
    lengths: Sequence[int] | None,
    steps: int | None,
) -> Disk:
    """What a run of an entry writes.

    Args:
        recipe: Its recipe.
        entry: The entry.
        setup: The entry, as it was predicted.
        found: The prediction.
        dataset: The rows; None where they are not read.
        lengths: Tokens of each training row; None where they are not counted.
        steps: Optimizer steps; None if they are not known.
    """
    rows = 0 if dataset is None else len(dataset.train) + len(dataset.validation) + len(dataset.test)
    epochs = steps is not None and lengths is not None and steps > len(lengths) / entry.train.batch_size
    keeps = found.has_trunk and entry.train.cache_trunk and epochs
    return Disk(
        delta=found.file_bytes,
        state=found.state_bytes + rows * DIGESTS if found.state_bytes else 0,
        kept=_positions(setup, lengths or ()) * _width(setup) if keeps else 0,
        checkpoints=found.file_bytes * entry.train.keep_checkpoints,
        predictions=0 if dataset is None else _predictions(recipe, dataset),
        other=SMALL_FILES + 2 * LOG_LINE * (steps or 0),  # a step may be followed by a validation
    )


def disk_of_all(
    recipe: Recipe, entries: Sequence[tuple[MethodEntry, Disk]], curve: PlannedCurve | None = None
) -> dict[str, int]:
    """What a comparison writes: the number of its runs, bytes at any time, and bytes left at its end.

    Runs that are trained at once, or stopped behind a validation, each keep their state; so all may.
    """
    left = most = count = 0
    for entry, disk in entries:
        runs = runs_of(recipe, entry)
        count += runs
        left += runs * disk.left
        most += runs * (disk.left + disk.state)
    if curve is not None and entries:  # runs of the entry that leaves most
        count += curve.runs
        left += curve.runs * max(disk.left for _, disk in entries)
        most += curve.runs * max(disk.left + disk.state for _, disk in entries)
    most += max((disk.state + disk.kept for _, disk in entries), default=0)
    return {"runs": count, "most": most, "left": left}


def runs_of(recipe: Recipe, entry: MethodEntry) -> int:
    """How many runs an entry comes to at most: its candidates with one seed, the best with all."""
    config = entry.build_config()
    if not config.trains:
        return len(recipe.seeds)
    if searched(recipe, entry):
        assert recipe.search is not None
        return recipe.search.trials + len(recipe.seeds)
    tries = len(recipe.tune.points(entry.train, config, Course(1, "text", None))) if recipe.tune else 1
    return tries + len(recipe.seeds) - 1


def _predictions(recipe: Recipe, dataset: Dataset) -> int:
    if dataset.labels is not None:
        sets = TASKS.get(recipe.task).has_label_sets
        longest = sorted((len(json.dumps(label)) for label in dataset.labels), reverse=True)
        longest = longest if sets else longest[:MOST_CLASSES]
        written = sum(longest) * (2 if sets else 1) + len(longest) * PROBABILITY
    elif TASKS.get(recipe.task).writes_text:
        written = recipe.evaluation.max_new_tokens * TOKEN
    else:
        written = SIGNIFICANT
    texts = sum(len(json.dumps(row.input_text())) + len(json.dumps(row.target)) for row in dataset.test)
    return texts + len(dataset.test) * (PREDICTION + written)


def _positions(setup: Setup, lengths: Sequence[int]) -> int:
    """What the frozen layers give, over all training rows."""
    if TASKS.get(setup.task).reads == "text":
        return sum(lengths)
    size, patch = setup.image_size or _number(setup, "image_size"), _number(setup, "patch_size")
    return len(lengths) * ((size // patch) ** 2 + 2) if patch else 0


def _width(setup: Setup) -> int:
    """Bytes of a position that leaves a layer."""
    return _number(setup, "hidden_size") * getattr(torch, setup.dtype).itemsize


def _number(setup: Setup, name: str) -> int:
    value: Any = getattr(setup.config.get_text_config(), name, None)
    return value if isinstance(value, int) else 0
