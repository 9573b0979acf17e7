"""A base that is spread over the processes of a launch: each holds a part of every layer.

Before a layer computes, all processes give each other their parts of it (an all-gather); behind it, what is
not a process's own is let go. So a process holds the layers' n-th part, and one layer or two as a whole. What
lies outside of the layers (embeddings, last norm, heads) stays whole everywhere: every pass needs it from
beginning to end. Deltas are no part of the base, and whole everywhere as well.

torch's `fully_shard` does this (FSDP2; Zhao et al. 2023, arXiv 2304.11277). All processes have to go through
the same passes in the same order, or they wait for each other for ever.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deltatune import quant
from deltatune.core.ranks import Ranks
from deltatune.core.sites import stacks
from deltatune.errors import ModelError


def shard_(base: nn.Module, group: Ranks, device: torch.device) -> None:
    """Spread a base's layers over the processes of a group, and bring the rest to the device.

    It is loaded and frozen, with equal numbers in every process. Its classes and names stay what they are.

    Args:
        base: A Transformers model.
        group: The processes.
        device: Of this one.

    Raises:
        ModelError: It has no stack of layers, or is quantized in a form that cannot be divided.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layers: list[Any] = [layer for stack in stacks(base).values() for layer in stack]
    if not layers:
        raise ModelError(
            f"{type(base).__name__} has no stack of layers, which a process could hold a part of.",
            field="train.shard",
            remedy="Leave it out: each process then holds the whole base.",
        )
    if others := quant.undividable(base):
        raise ModelError(
            f"the base is quantized ({others}), and layers of this kind keep more than "
            "their weights, which cannot be divided.",
            field="train.shard",
            remedy="Take quantization nf4 or fp4, or none.",
        )
    quant.settle_(base)
    mesh = init_device_mesh(device.type, (group.count,))
    kinds = [type(layer) for layer in layers]
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=_shared(base, layer))
    nn.Module.to(base, device)  # torch's class for the layers lets go of what this replaces
    for layer, kind in zip(layers, kinds, strict=True):
        layer.unshard()  # makes its place to be gathered in; inference mode's would be no good for training
        layer.reshard()
        layer.__class__ = kind  # what computes by a class, or names it, finds the base's own


def _shared(base: nn.Module, layer: nn.Module) -> set[nn.Parameter]:
    """The parameters of a layer that other parts of the base have as well: they stay whole."""
    inside = set(layer.modules())
    others = {p for m in base.modules() if m not in inside for p in m.parameters(recurse=False)}
    return others.intersection(layer.parameters())
