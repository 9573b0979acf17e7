"""The largest micro-batch of a run: by the data where they are encoded, by the recipe's limits elsewhere."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from deltatune.data.batches import batches
from deltatune.data.encode import Encoded
from deltatune.data.pixels import channels_of
from deltatune.models.tasks import has_token_types
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.train_section import TrainSpec
from deltatune.tasks import TASKS
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import Feature


@dataclass(frozen=True)
class Largest:
    """The first epoch's largest micro-batch, and the step that it is part of."""

    rows: list[int]
    shape: BatchShape
    step: tuple[BatchShape, ...]
    """All micro-batches of the step, in their order."""
    share: float = 1.0
    """Work of the first epoch's mean step, relative to that of this step: tokens, with their padding."""

    def with_images(self, pixels: Tensor | None) -> Largest:
        """The same of images as those in `pixels`; None for text."""
        if pixels is None:
            return self
        step = tuple(shape.of_images(pixels) for shape in self.step)
        return replace(self, shape=self.shape.of_images(pixels), step=step)


def epoch_of(encoded: Encoded, task: str, spec: TrainSpec, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch, as row numbers; arguments as of `largest_micro_batch` and `batches`."""
    evenly, by_length = TASKS.get(task).spans_rows, spec.bucket_by_length
    return batches(encoded.lengths, spec.batch_size, seed, epoch, by_length, evenly=evenly)


def largest_micro_batch(
    encoded: Encoded,
    task: str,
    spec: TrainSpec,
    seed: int,
    *,
    packed: bool = False,
    after_first: bool = False,
) -> Largest:
    """Find the largest micro-batch of the first epoch, by the sizes that it has once collated, or packed.

    Of an epoch that `max_steps` cuts short, batches that are never reached do not count.

    Args:
        encoded: The training rows.
        task: The recipe's task.
        spec: How they are arranged in batches.
        seed: The run's.
        packed: Whether the rows of a micro-batch are packed into one.
        after_first: Leave the first step's batch out, unless it is the only one.
    """
    size = spec.micro_batch_size or spec.batch_size
    order = epoch_of(encoded, task, spec, seed, 0)[: spec.max_steps]
    if after_first and len(order) > 1:
        order = order[1:]
    best: Largest | None = None
    work = []
    for rows in order:
        micro = [rows[start : start + size] for start in range(0, len(rows), size)]
        step = tuple(shape_of([encoded.features[row] for row in part], task) for part in micro)
        if packed:
            counts = (sum(encoded.lengths[row] for row in part) for part in micro)
            step = tuple(replace(shape, tokens=n) for shape, n in zip(step, counts, strict=True))
        work.append(_work(step))
        for part, shape in zip(micro, step, strict=True):
            if best is None or _size(shape) > _size(best.shape):
                best = Largest(part, shape, step)
    assert best is not None  # there are training rows
    return replace(best, share=statistics.mean(work) / _work(best.step))


def largest_micro_batches(
    encoded: Encoded, task: str, spec: TrainSpec, seed: int, *, packed: bool
) -> tuple[Largest, Largest]:
    """The largest micro-batch, and that of all steps but the first; as `largest_micro_batch`."""
    whole = largest_micro_batch(encoded, task, spec, seed, packed=packed)
    return whole, largest_micro_batch(encoded, task, spec, seed, packed=packed, after_first=True)


def _work(step: tuple[BatchShape, ...]) -> int:
    return sum(_size(shape)[0] for shape in step)


def _size(shape: BatchShape) -> tuple[int, int]:
    padded = shape.rows * shape.texts * max(shape.length + shape.target_length, 1)
    return padded if shape.tokens is None else shape.tokens, shape.labelled


def shape_of(features: Sequence[Feature], task: str) -> BatchShape:
    """Sizes of the batch that the encoder makes of `features`. Images: the rows alone."""
    return TASKS.get(task).shape(features)


def longest_allowed(recipe: Recipe, entry: MethodEntry, config: PreTrainedConfig) -> BatchShape:
    """The micro-batch in which every row is as long as the entry lets it be."""
    spec, task = entry.train, TASKS.get(recipe.task)
    shape = task.longest(spec.micro_batch_size or spec.batch_size, recipe.data_of(entry), recipe.has_targets)
    if task.reads != "images":
        paired = recipe.data.columns.pair is not None
        return replace(shape, typed=paired and has_token_types(config, recipe.task))
    return replace(shape, image=image_of(config, recipe.model.image_size))


def image_of(config: PreTrainedConfig, size: int | None) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model of this configuration reads."""
    vision: Any = getattr(config, "vision_config", config)
    side = size or vision.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return channels_of(config), int(height), int(width)
