"""Whether a run packs the rows of its micro-batches, and what that spares, by numbers of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from deltatune.core.fast.packing import why_not
from deltatune.core.sites import BaseView
from deltatune.data.batches import batches, padding_share
from deltatune.errors import TargetError
from deltatune.recipe.sections import DataSpec
from deltatune.recipe.train_section import TrainSpec
from deltatune.results import Padding
from deltatune.tasks import TASKS

PAYS_FROM = 0.1
"""The share of padding from which `auto` packs on CPUs, where alone it was measured
(benchmarks/packing.py)."""


def padding_of(
    task: str,
    data: DataSpec,
    train: TrainSpec,
    *,
    lengths: Sequence[int],
    view: Callable[[], BaseView],
    seed: int,
) -> Padding | None:
    """What padding comes to in a run, and whether its rows are packed, as far as can be told without a trial.

    Args:
        task: The recipe's task.
        data: What the recipe says of its rows.
        train: How the entry is trained.
        lengths: Length of each training row in tokens.
        view: Gives the base; it is asked for if it matters.
        seed: The run's, by which rows are arranged.

    Returns:
        None for tasks that do not pack.

    Raises:
        TargetError: The recipe asks for packing, and this base cannot do it.
    """
    if not TASKS.get(task).packs or not lengths:
        return None
    order = batches(lengths, train.batch_size, seed, 0, train.bucket_by_length)[: train.max_steps]
    share = padding_share(lengths, order, train.micro_batch_size or train.batch_size)
    pays = share >= PAYS_FROM and not torch.cuda.is_available()
    if data.packing is False or not (pays or data.packing is True):
        return Padding(share=share, packed=False)
    why = why_not(view())
    if why is not None and data.packing is True:
        raise cannot_pack(why)
    return Padding(share=share, packed=why is None)


def cannot_pack(why: str) -> TargetError:
    """The error of a recipe that asks for what a base cannot do."""
    return TargetError(
        f"is true, and the rows of a batch cannot be packed: {why}.",
        field="data.packing",
        remedy="Leave it out: rows are padded then, and batched by length.",
    )
