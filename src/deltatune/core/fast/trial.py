"""Whether a class or function of Transformers computes what it is taken to: a trial on random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

TOLERANCE = 1e-5
"""What float32 values of order one may differ by when sums are taken in another order."""


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast chooses the precision of each operation, which only the base's own code allows for."""
    return torch.is_autocast_enabled(tensor.device.type)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Within the block tensors are real, precise, and gradients taken, wherever the model is being run."""
    with (
        _disable_current_modes(),
        torch.device("cpu"),
        torch.autocast("cpu", enabled=False),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


def agree(
    own: Callable[..., Any], ours: Callable[..., Any], inputs: list[Tensor], tolerance: float = TOLERANCE
) -> bool:
    """Whether two functions give the same values and gradients; one that cannot be called does not.

    Args:
        own: The one that is in place.
        ours: The other.
        inputs: What both are called with, and gradients are taken of.
        tolerance: How far they may be apart, as a number and as a share; 0: they have the same bits.
    """
    found = []
    for function in (own, ours):
        parts = [tensor.clone().requires_grad_() for tensor in inputs]
        try:
            value = function(*parts)
            weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape)
            found.append([value, *torch.autograd.grad(value, parts, weights)])
        except (AttributeError, TypeError, RuntimeError, IndexError, ValueError):
            return False
    return all(
        a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        for a, b in zip(*found, strict=True)
    )
