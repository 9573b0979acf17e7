"""Liger's kernels in the places of lean parts: the same trials decide where, these functions by what.

Liger's own patches replace classes by a list of families, for good, and evaluation with them. Here a module
computes by them while a training pass lasts, and only if its class's own code gives what lean.py takes it to.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

GATES = ("silu", "gelu_tanh")
"""Activations of gated products that Liger has."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return weight * x / sqrt(mean(x^2) + eps) over the last dimension.

    The weight is applied in x's type, as in Llama and T5. The gradient of the output is left as it is: it may
    be another's as well.
    """
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    result: Tensor = LigerRMSNormFunction.apply(x, weight, eps, 0.0, "llama", False)
    return result


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """Return act(gate) * up; the activation is one of `GATES`. Its backward pass writes over both."""
    from liger_kernel.ops.geglu import LigerGELUMulFunction
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    function: Any = LigerSiLUMulFunction if activation == "silu" else LigerGELUMulFunction
    result: Tensor = function.apply(gate, up)
    return result


def rotated(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate query and key [batch, heads, length, width] by their positions, as Llama does; over both.

    Args:
        query: The queries.
        key: The keys, of as many heads or fewer.
        cos: [batch or 1, length, width].
        sin: As `cos`.
    """
    from liger_kernel.ops.rope import LigerRopeFunction

    result: tuple[Tensor, Tensor] = LigerRopeFunction.apply(query, key, cos, sin)
    return result
