"""Batches that are padded to few lengths, so that passes have few shapes and few graphs are compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from deltatune.data.batches import levels
from deltatune.data.encode import Encoded
from deltatune.memory.batch import epoch_of, shape_of
from deltatune.recipe.train_section import TrainSpec
from deltatune.tasks.task import IGNORED

PADDED = 0.1
"""Share of tokens that padding to few lengths may add; there are as few as keep to it."""
MOST, MOST_BESIDE_TARGETS, MOST_OF_TARGETS = 12, 4, 2
"""Lengths at most. For eight rows of similar length twelve add 5 to 11 % (benchmarks/compiling.py)."""


@dataclass(frozen=True)
class Filling:
    """To which lengths the batches of a run are padded.

    Args:
        inputs: Rising, the last that of the longest row; none for images.
        targets: Of labels that have a length of their own.
        pad_id: What stands for no token.
    """

    inputs: Sequence[int]
    targets: Sequence[int]
    pad_id: int

    def filled(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A collated batch, padded further on the right."""
        values = {"input_ids": self.pad_id, "attention_mask": 0, "token_type_ids": 0, "labels": IGNORED}
        made = dict(batch)
        for name, value in values.items():
            tensor = batch.get(name)
            if tensor is None or tensor.ndim < 2:
                continue
            apart = name == "labels" and self.targets
            to = _next(self.targets if apart else self.inputs, tensor.shape[-1])
            made[name] = F.pad(tensor, (0, to - tensor.shape[-1]), value=value)
        return made

    def sizes(self, batch: dict[str, Tensor]) -> tuple[tuple[int, ...], ...]:
        """What tells the shape of a batch that was filled."""
        return tuple(tuple(tensor.shape) for tensor in batch.values())


def micro_batches(encoded: Encoded, spec: TrainSpec, task: str, seed: int) -> list[list[int]]:
    """The rows of the first epoch's micro-batches that are full; all, if none is."""
    size, order = spec.micro_batch_size or spec.batch_size, epoch_of(encoded, task, spec, seed, 0)
    parts = [rows[at : at + size] for rows in order for at in range(0, len(rows), size)]
    return [part for part in parts if len(part) == size] or parts


def filling_of(encoded: Encoded, parts: Sequence[Sequence[int]], task: str, pad_id: int) -> Filling:
    """Choose the lengths by the micro-batches of an epoch.

    Args:
        encoded: The training rows.
        parts: As of `micro_batches`.
        task: The recipe's task.
        pad_id: As of `Filling`.
    """
    shapes = [shape_of([encoded.features[row] for row in rows], task) for rows in parts]
    whole = shape_of(encoded.features, task)
    most = MOST_BESIDE_TARGETS if whole.target_length else MOST
    inputs = _fewest([*(shape.length for shape in shapes), whole.length], most)
    targets = _fewest([*(shape.target_length for shape in shapes), whole.target_length], MOST_OF_TARGETS)
    return Filling(inputs if whole.length else (), targets if whole.target_length else (), pad_id)


def _fewest(lengths: Sequence[int], most: int) -> list[int]:
    """As few lengths as keep padding small, `most` at most."""
    count = 0
    while True:
        count += 1
        to = levels(lengths, count)
        filled = sum(_next(to, length) for length in lengths)
        if count == most or filled <= (1 + PADDED) * sum(lengths):
            return to


def _next(lengths: Sequence[int], length: int) -> int:
    """The first of rising lengths that is no shorter; the length itself beyond them."""
    return next((to for to in lengths if to >= length), length)
