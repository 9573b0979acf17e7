"""The largest micro-batch of a run: by the data where they are encoded, by the recipe's limits elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from deltatune.data.batches import batches
from deltatune.data.encode import Encoded, Feature
from deltatune.memory.step import BatchShape
from deltatune.recipe.schema import Recipe
from deltatune.recipe.sections import TrainSpec


def largest_micro_batch(
    encoded: Encoded, task: str, spec: TrainSpec, seed: int, *, after_first: bool = False
) -> tuple[list[int], BatchShape]:
    """The rows of the first epoch's largest micro-batch, and its sizes once collated.

    Args:
        encoded: The training rows.
        task: The recipe's task.
        spec: How they are arranged in batches.
        seed: The run's.
        after_first: Leave the first step's batch out, unless it is the only one.
    """
    size = spec.micro_batch_size or spec.batch_size
    order = batches(encoded.lengths, spec.batch_size, seed, 0, spec.bucket_by_length)
    if after_first and len(order) > 1:
        order = order[1:]
    micro = [rows[start : start + size] for rows in order for start in range(0, len(rows), size)]
    shapes = [shape_of([encoded.features[row] for row in rows], task) for rows in micro]
    best = max(range(len(micro)), key=lambda i: (_elements(shapes[i]), shapes[i].labelled))
    return micro[best], shapes[best]


def _elements(shape: BatchShape) -> int:
    return shape.rows * max(shape.length + shape.target_length, 1)


def shape_of(features: Sequence[Feature], task: str) -> BatchShape:
    """Sizes of the batch that the encoder makes of `features`. Images: the rows alone."""
    rows = len(features)
    if task == "image-classification":
        return BatchShape(rows, padded=False)
    lengths = [len(feature["input_ids"]) for feature in features]
    padded = min(lengths) < max(lengths)
    if task == "text-to-text":
        targets = [len(feature["labels"]) for feature in features]
        return BatchShape(rows, max(lengths), max(targets), sum(targets), padded)
    labelled = 0
    if task == "causal-lm":  # nothing predicts the first token
        labelled = sum(len(f["input_ids"]) - max(f["prompt_length"], 1) for f in features)
    return BatchShape(rows, max(lengths), 0, labelled, padded)


def longest_allowed(recipe: Recipe, spec: TrainSpec, config: PreTrainedConfig) -> BatchShape:
    """The micro-batch in which every row is as long as the recipe lets it be."""
    rows, data, task = spec.micro_batch_size or spec.batch_size, recipe.data, recipe.task
    if task == "image-classification":
        return BatchShape(rows, padded=False, image=image_of(config, recipe.model.image_size))
    if task == "text-classification":
        return BatchShape(rows, data.max_input_tokens)
    if task == "text-to-text":
        target = data.max_target_tokens
        return BatchShape(rows, data.max_input_tokens, target, rows * target)
    if not recipe.has_targets:
        return BatchShape(rows, data.max_input_tokens, 0, rows * (data.max_input_tokens - 1))
    length = data.max_input_tokens + data.max_target_tokens
    return BatchShape(rows, length, 0, rows * data.max_target_tokens)


def image_of(config: PreTrainedConfig, size: int | None) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model of this configuration reads."""
    vision: Any = getattr(config, "vision_config", config)
    side = size or vision.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return int(getattr(vision, "num_channels", 3)), int(height), int(width)
