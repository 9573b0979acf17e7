"""Triton's kernels run by its interpreter, on the CPU, and compiled without a GPU."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest


def interpret(patch: pytest.MonkeyPatch) -> None:
    """Let the kernels of this package be run by Triton's interpreter until the patch is undone."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

    multiply: Any = InterpreterBuilder.create_dot

    def wide(handle: Any) -> Any:
        """What holds bfloat16 as float32: the interpreter (3.9) would multiply the bits, as whole numbers."""
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    patch.setattr(
        InterpreterBuilder,
        "create_dot",
        lambda builder, a, b, *rest: multiply(builder, wide(a), wide(b), *rest),
    )
    for name in ("down", "add_up", "down_up", "grad_input", "grad_down"):
        module = importlib.import_module(f"deltatune.core.fast.kernels.{name}")
        kernel = f"{name}_kernel"
        patch.setattr(module, kernel, InterpretedFunction(getattr(module, kernel).fn))
