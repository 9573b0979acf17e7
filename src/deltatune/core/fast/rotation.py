"""The rotation of queries and keys by their positions (Su et al. 2021), by Liger's kernel if asked.

Models of Llama's kind call a function of their own file for it. While a training pass lasts, another stands
in its place, if the file's own, run on random numbers, gives what this one does.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.core.fast.kernels import liger

NAME = "apply_rotary_pos_emb"


def files_that_rotate(modules: Iterable[nn.Module]) -> list[Any]:
    """The Python modules of these classes whose own function rotates halves, as Llama's does."""
    files = {type(module).__module__ for module in modules}
    known = [sys.modules[name] for name in sorted(files) if hasattr(sys.modules[name], NAME)]
    return [file for file in known if _rotates_halves(getattr(file, NAME))]


@contextlib.contextmanager
def by_liger(files: Iterable[Any]) -> Iterator[None]:
    """Within the block these files' functions are Liger's."""
    before = [(file, getattr(file, NAME)) for file in files]
    for file, own in before:
        setattr(file, NAME, functools.partial(_rotated, own))
    try:
        yield
    finally:
        for file, own in before:
            setattr(file, NAME, own)


def _rotated(  # noqa: PLR0917  (the order is Transformers')
    own: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    unsqueeze_dim: int = 1,
    **rest: Any,
) -> Any:
    if unsqueeze_dim != 1 or rest or cos.ndim != 3 or q.ndim != 4:
        return own(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim, **rest)
    return liger.rotated(q, k, cos, sin)


@functools.cache
def _rotates_halves(own: Callable[..., Any]) -> bool:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, 8, generator=generator) for heads in (4, 2))
    angles = torch.randn(2, 3, 8, generator=generator)
    cos, sin = angles.cos(), angles.sin()
    try:
        found = own(q, k, cos, sin)
    except Exception:  # a function of that name that is called in another way
        return False
    wanted = [x * cos[:, None] + _turned(x) * sin[:, None] for x in (q, k)]
    return len(found) == 2 and all(
        a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True)
    )


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
