"""What the trunk makes of the training rows, computed once and kept from the first epoch to the last.

Rows are recorded in groups of their own, by length, and never in the batches of a step: so a run that goes on
after an interruption works on the same numbers, bit for bit.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deltatune import units
from deltatune.core.devices import send, to_device
from deltatune.core.fast.trunk import Trunk, trunk_of
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoder
from deltatune.observer import Observer
from deltatune.tasks.task import Feature
from deltatune.training.given.energy import Spent, meter_of
from deltatune.training.given.machine import available_memory
from deltatune.training.proof.equal_logits import logits, rounding

TASK = "Caching frozen layers"
FEWEST = 4
"""Rows that the trial of a trunk needs."""
SMALL_GROUP = 8
"""Rows of which each takes 5 to 10 % more time than one of 32, on two cores (SmolLM2, T5)."""
PADDED_UP_TO = 1.25
"""A small group ends before a row that is so many times as long as its first."""
MEMORY_SHARE = 4
"""A file takes the place of memory when less than this many times the bytes is available."""
DISK_SHARE = 2
"""No file is written when less than this many times its bytes is free."""


class TrunkCache:
    """Recorded rows, without padding, one after another.

    Args:
        trunk: Where they were recorded.
        kept: Their bytes, [positions, bytes of a position].
        places: For each row, its first position and how many it has.
        like: A tensor with their type, on the device that they shall go to.
        spent: What it took to record them.
    """

    def __init__(
        self,
        trunk: Trunk,
        kept: NDArray[np.uint8],
        places: Sequence[tuple[int, int]],
        like: Tensor,
        spent: Spent,
    ) -> None:
        self._trunk, self._kept, self._places = trunk, kept, places
        self._type, self._device = like.dtype, like.device
        self.spent = spent

    def replaying(self, rows: Sequence[int]) -> AbstractContextManager[None]:
        """Within the block, one forward pass on the batch of `rows` does not run the trunk."""
        return self._trunk.replaying(self._padded(rows))

    def _padded(self, rows: Sequence[int]) -> Tensor:
        # By NumPy, since a slice of a tensor would bring all that is kept into the accounts of a step.
        places = [self._places[row] for row in rows]
        length = max(n for _, n in places)
        batch = np.zeros((len(rows), length, self._kept.shape[1]), np.uint8)
        for into, (start, n) in zip(batch, places, strict=True):
            into[:n] = self._kept[start : start + n]
        return send(torch.from_numpy(batch).view(self._type), self._device)


def record_trunk(
    model: AdaptedModel,
    name: str,
    encoder: Encoder,
    features: Sequence[Feature],
    *,
    rows_at_once: int,
    folder: Path,
    observer: Observer,
) -> TrunkCache | None:
    """Record what the trunk below an adapter makes of `features`.

    Args:
        model: The base with the adapter in force.
        name: The adapter.
        encoder: Makes batches of the features.
        features: The training rows.
        rows_at_once: Rows of a group, at most.
        folder: Where to put a file if memory is short. It has no name there and goes when it is let go of.
        observer: Is told of the progress.

    Returns:
        None if there is no trunk that can be replaced, or no room for what it gives.
    """
    trunk = trunk_of(model, name)
    if trunk is None or len(features) < FEWEST:
        return None
    meter = meter_of(model.device)
    begun = meter.read()
    model.eval()
    recorder = _Recorder(model, trunk, encoder, features)
    like = recorder.tried()
    if like is None:
        return None
    lengths = [recorder.length(feature, like.shape[1]) for feature in features]
    order = sorted(range(len(features)), key=lambda row: (lengths[row], row))
    width = like.shape[2] * like.element_size()
    size = sum(lengths) * width
    in_memory = MEMORY_SHARE * size <= available_memory()
    if not in_memory and DISK_SHARE * size > shutil.disk_usage(folder).free:
        return None
    groups = list(_groups(order, lengths, rows_at_once))
    observer.start(TASK, len(features))
    try:
        pieces = recorder.pieces(groups, lengths, observer)
        kept = _in_memory(pieces, size, width) if in_memory else _in_file(pieces, folder, width)
    except OSError as error:
        observer.warn(f"The outputs of {trunk.what} could not be cached in '{folder}' ({error.strerror}).")
        return None
    finally:
        observer.finish(TASK)
    ends = np.cumsum([lengths[row] for row in order]).tolist()
    starts = dict(zip(order, [0, *ends], strict=False))
    places = [(starts[row], n) for row, n in enumerate(lengths)]
    where = "memory" if in_memory else "a file"
    observer.log(
        f"Frozen layers' cache: the outputs of {trunk.what} for {len(features):,} rows "
        f"({units.size(size)} in {where})."
    )
    return TrunkCache(trunk, kept, places, like, meter.read().since(begun))


def _groups(order: Sequence[int], lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Cut `order`, from short to long, where a group is full, or large enough to be ended for its padding."""
    group: list[int] = []
    for row in order:
        much_padding = group and lengths[row] > PADDED_UP_TO * lengths[group[0]]
        if len(group) == most or (much_padding and len(group) >= SMALL_GROUP):
            yield group
            group = []
        group.append(row)
    yield group


class _Recorder:
    """Records rows; the model is in eval mode and the adapter in force."""

    def __init__(
        self, model: AdaptedModel, trunk: Trunk, encoder: Encoder, features: Sequence[Feature]
    ) -> None:
        self._model, self._trunk, self._encoder, self._features = model, trunk, encoder, features

    @staticmethod
    def length(feature: Feature, images: int) -> int:
        """Positions of a row: its tokens, or as many as all images have."""
        return len(feature["input_ids"]) if "input_ids" in feature else images

    def tried(self) -> Tensor | None:
        """Try the trunk on the shortest and the longest row; give what leaves it, or None if it does not fit.

        Without the adapter, the base's logits must be the same with the recorded rows as without. Other rows
        go through the trunk in between, so that nothing that layers hand on by the side is still there.
        """
        by_length = sorted(range(len(self._features)), key=lambda row: self.length(self._features[row], 1))
        ends, others = [by_length[0], by_length[-1]], by_length[1:3]
        try:
            batch = self._batch(ends)
            hidden = self._trunk.record(batch, self._encoder.task)
            if hidden is None:
                return None
            rows = [self.length(self._features[row], hidden.shape[1]) for row in ends]
            if hidden.shape[:2] != (len(ends), max(rows)):
                return None
            padded = torch.zeros_like(hidden)
            for into, row, n in zip(padded, hidden, rows, strict=True):
                into[:n] = row[:n]
            with torch.no_grad(), self._model.using(), self._model.fast.training(batch):
                plain = logits(self._model, batch, self._encoder.task)
                self._trunk.record(self._batch(others), self._encoder.task)
                with self._trunk.replaying(padded):
                    replayed = logits(self._model, batch, self._encoder.task)
        except Exception:  # whatever an unknown architecture makes of this, it can be trained without
            return None
        # The same rows in the same batch: there is no sum in another order, so a tenth is ample.
        limit = rounding(self._model) / 10 * float(plain.abs().max())
        return hidden if float((plain - replayed).abs().max()) <= limit else None

    def pieces(
        self, groups: Sequence[Sequence[int]], lengths: Sequence[int], observer: Observer
    ) -> Iterator[NDArray[np.uint8]]:
        """The bytes of each group's rows, [positions, bytes of a position]."""
        for rows in groups:
            hidden = self._trunk.record(self._batch(rows), self._encoder.task)
            assert hidden is not None  # it was tried
            own = [states[: lengths[row]] for row, states in zip(rows, hidden.cpu(), strict=True)]
            yield torch.cat(own).contiguous().view(torch.uint8).numpy()
            observer.advance(TASK, len(rows))

    def _batch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        batch = self._encoder.collate([self._features[row] for row in rows])
        return to_device(batch, self._model.device)


def _in_memory(pieces: Iterator[NDArray[np.uint8]], size: int, width: int) -> NDArray[np.uint8]:
    kept = np.empty((size // width, width), np.uint8)
    at = 0
    for piece in pieces:
        kept[at : at + len(piece)] = piece
        at += len(piece)
    return kept


def _in_file(pieces: Iterator[NDArray[np.uint8]], folder: Path, width: int) -> NDArray[np.uint8]:
    """Written and not mapped at first, so that a full disk is an error and not the end of the process."""
    with tempfile.TemporaryFile(dir=folder) as handle:
        for piece in pieces:
            handle.write(piece.data)
        handle.flush()
        return np.memmap(handle, np.uint8, "r").reshape(-1, width)
