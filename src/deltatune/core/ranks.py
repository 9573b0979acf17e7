"""The processes that make one run together: their ranks, and what they sum and gather.

A launcher (`torchrun`, `accelerate launch`) starts the same command several times and gives each process a
rank. All of them hold the whole model and go through the same code with the same random numbers, so whatever
is decided is decided alike. They share only what takes time: rank r takes every r-th of a step's
micro-batches, and of the batches of rows that are evaluated. What that gives is put together before anything
is concluded from it. One process is a group of one, of which every operation gives back what it got.

A rank that fails leaves the group. The others notice at their next message, and end as well.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from deltatune.core.devices import ran_out
from deltatune.errors import TrainingError
from deltatune.launched import processes, rank

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes files and talks to people."""
        return self.rank == 0

    def takes(self, place: int) -> bool:
        """Whether part `place` of a list is this process's."""
        return place % self.count == self.rank

    def shares(self, parts: int, *, even: bool) -> list[tuple[int, bool]]:
        """The places of this process's parts of a list, in order, and whether each counts.

        Args:
            parts: How many there are.
            even: Whether all processes have to do equally many, as over a base that each holds a part of. Who
                has fewer then does the last part once more, for nothing.
        """
        mine = [(place, True) for place in range(parts) if self.takes(place)]
        idle = even and len(mine) < -(-parts // self.count)
        return [*mine, (parts - 1, False)] if idle else mine

    def gather(self, value: T) -> list[T]:
        """What each rank gives, in the order of the ranks.

        Raises:
            TrainingError: Another process has ended.
        """
        if self.count == 1:
            return [value]
        parts: list[Any] = [None] * self.count
        with _loss_explained():
            dist.all_gather_object(parts, value)
        return parts

    def sum_up(self, tensors: Sequence[Tensor], numbers: Sequence[Tensor]) -> Tensor:
        """Sum tensors over the ranks, in place, and numbers with them: one message for all.

        Args:
            tensors: Of the same shapes on every rank.
            numbers: [n] each, of the same sizes on every rank.

        Returns:
            The sums of the numbers, [all of them] in float32.

        Raises:
            TrainingError: Another process has ended.
        """
        flat = torch.cat([part.detach().float().flatten() for part in (*tensors, *numbers)])
        if self.count > 1:
            with _loss_explained():
                dist.all_reduce(flat)
        *pieces, sums = flat.split([*(tensor.numel() for tensor in tensors), sum(n.numel() for n in numbers)])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))
        return sums


ALONE = Ranks()
_GROUPS = itertools.count()
"""Numbers of the groups that this process has joined, equal in all processes of a launch."""


def ranks() -> Ranks:
    """This process among those that have joined; by itself where none have."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return ALONE


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Within the block, the processes that were launched together are a group.

    Args:
        device: Where the model will be, which decides how they talk.

    Raises:
        TrainingError: The others cannot be reached.
    """
    if processes() == 1 or dist.is_initialized():  # whoever began the group ends it
        yield ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _loss_explained():
        # Under another name each time: a store keeps where the processes of an earlier group listened.
        store = dist.PrefixStore(f"deltatune-{next(_GROUPS)}", _store())
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank(), world_size=processes())
    try:
        yield ranks()
    finally:
        dist.destroy_process_group()


@functools.cache
def _store() -> dist.Store:
    """Where the launched processes find each other: one for all groups that they ever make.

    Raises:
        RuntimeError: The launcher's address does not answer.
    """
    store, _, _ = next(dist.rendezvous("env://"))
    return store


@contextlib.contextmanager
def _loss_explained() -> Iterator[None]:
    """Within the block, losing another process is an error that says so."""
    try:
        yield
    except RuntimeError as error:  # of gloo, NCCL and the store alike
        if ran_out(error):
            raise
        said = str(error).splitlines()[0].partition(". This is typically")[0]  # gloo goes on with guesses
        raise TrainingError(
            f"process {rank()} of this launch lost the others ({said}).",
            remedy="One of them has ended, and says why. The same command with --resume continues the run.",
        ) from error
