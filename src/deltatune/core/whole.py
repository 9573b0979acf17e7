"""Reading tensors of which each process of a launch may hold a part only (core/sharding.py).

Whoever reads weights of a base outside of its forward pass asks here: starts of deltas, copies, hashes. On a
base that nobody has spread, nothing is copied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def is_sharded(base: nn.Module) -> bool:
    """Whether processes hold parts of a base."""
    return any(is_part(parameter) for parameter in base.parameters())


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor stands for parts on several processes (torch's DTensor, which is loaded with them)."""
    return hasattr(tensor, "full_tensor")


def as_whole(tensor: Any) -> Tensor:
    """A tensor as a whole, on every process, if this one holds a part of it; any other as it is.

    All processes have to ask for it.
    """
    full: Tensor = tensor.full_tensor() if is_part(tensor) else tensor
    return full


def held(tensor: Any) -> Tensor:
    """What this process holds of a tensor."""
    part: Tensor = tensor.to_local() if is_part(tensor) else tensor
    return part


@contextlib.contextmanager
def gathered(*modules: nn.Module) -> Iterator[None]:
    """Within the block, the parameters in modules are whole: for reading, copying and calling them alone.

    All processes have to come by. What is written into them is lost.
    """
    places = [
        (part, name, parameter)
        for module in modules
        for part in module.modules()
        for name, parameter in part._parameters.items()
        if parameter is not None and is_part(parameter)
    ]
    full = {id(parameter): parameter for _, _, parameter in places}
    made = {key: nn.Parameter(as_whole(part.detach()), requires_grad=False) for key, part in full.items()}
    for part, name, parameter in places:
        part._parameters[name] = made[id(parameter)]
    try:
        yield
    finally:
        for part, name, parameter in places:
            part._parameters[name] = parameter
