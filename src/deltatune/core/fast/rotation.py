"""The rotation of queries and keys by their positions (Su et al. 2021), in fewer operations.

Models of Llama's kind call a function of their own file for it. While a training pass lasts, another stands
in its place, if the file's own, run on random numbers, gives what this one does. It gives the same bits, and
leaves them lying as attention and its gradients need them; or Liger's kernel computes, where it is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deltatune.core.fast import kernels
from deltatune.core.fast.kernels import liger
from deltatune.core.fast.trial import agree, apart, autocasts

NAME = "apply_rotary_pos_emb"


class _Rotated(torch.autograd.Function):
    """(x1 cos1 - x2 sin1, x2 cos2 + x1 sin2), of the halves of x [batch, heads, length, width]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        y = torch.mul(x, cos, out=x.new_empty(x.shape))
        (y1, y2), (x1, x2), (sin1, sin2) = (part.chunk(2, dim=-1) for part in (y, x, sin))
        _ = y1.sub_(x2 * sin1), y2.add_(x1 * sin2)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        grad = torch.mul(grad_y, cos, out=empty_by_token(grad_y))
        (x1, x2), (y1, y2), (sin1, sin2) = (part.chunk(2, dim=-1) for part in (grad, grad_y, sin))
        _ = x1.add_(y2 * sin2), x2.sub_(y1 * sin1)
        return grad, None, None


def empty_by_token(x: Tensor) -> Tensor:
    """Make a tensor of x's shape [batch, heads, length, width] whose heads lie beside each other in memory.

    So lies what a linear layer gives, and what its gradient is copied to if it does not.
    """
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length, heads, width).transpose(1, 2)


def files_that_rotate(modules: Iterable[nn.Module]) -> list[Any]:
    """The Python modules of these classes whose own function rotates halves, as Llama's does."""
    files = {type(module).__module__ for module in modules}
    known = [sys.modules[name] for name in sorted(files) if hasattr(sys.modules[name], NAME)]
    return [file for file in known if _rotates_halves(_own(file))]


@contextlib.contextmanager
def replaced(files: Iterable[Any]) -> Iterator[None]:
    """Within the block these files' functions are the one of this file."""
    before = [(file, _own(file)) for file in files]
    for file, own in before:
        setattr(file, NAME, functools.partial(_rotated, own))
    try:
        yield
    finally:
        for file, own in before:
            setattr(file, NAME, own)


def _own(file: Any) -> Callable[..., Any]:
    """The file's own function, also while another pass, of another thread perhaps, has one in its place."""
    function: Any = getattr(file, NAME)
    own: Callable[..., Any] = function.args[0] if getattr(function, "func", None) is _rotated else function
    return own


def _rotated(  # noqa: PLR0917  (the order is Transformers')
    own: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    unsqueeze_dim: int = 1,
    **rest: Any,
) -> Any:
    plain = unsqueeze_dim == 1 and not rest and cos.ndim == 3 and q.ndim == 4 and not cos.requires_grad
    if not plain or q.shape[-1] != cos.shape[-1] or q.dtype != cos.dtype or autocasts(q):
        return own(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim, **rest)
    if kernels.asked_for(kernels.LIGER):
        return liger.rotated(q, k, cos, sin)
    return tuple(_Rotated.apply(x, cos[:, None], sin[:, None]) for x in (q, k))


@functools.cache
@apart()
def _rotates_halves(own: Callable[..., Any]) -> bool:
    # Some, as ModernBERT's, compute in float32 whatever they are given.
    return all(_same_bits(own, dtype) for dtype in (torch.float32, torch.bfloat16))


def _same_bits(own: Callable[..., Any], dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, 8, generator=generator).to(dtype) for heads in (4, 2))
    cos, sin = (torch.randn(2, 3, 8, generator=generator).to(dtype) for _ in range(2))
    # A function of that name that is called in another way does not agree.
    return agree(
        lambda *parts: torch.cat([x.flatten() for x in own(*parts, cos, sin)]),
        lambda *parts: torch.cat([_Rotated.apply(x, cos[:, None], sin[:, None]).flatten() for x in parts]),
        [q, k],
        tolerance=0.0,
    )
