"""Triton's kernels run by its interpreter, on the CPU, and compiled without a GPU."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

NAMES = ("down", "add_up", "down_up", "grad_input", "grad_down")
"""The kernels of this package, each in a file of its name."""


class Compiled:
    """Compiles a kernel for whatever it is launched with, and does not launch it."""

    def __init__(self, kernel: Any, found: list[Any]) -> None:
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid: Any) -> Any:
        """As a kernel's own: what to call with its arguments."""

        def launch(*arguments: Any, **named: Any) -> None:
            self.found.append(self.kernel.run(*arguments, grid=grid, warmup=True, **named))

        return launch


class NoDriver:
    """What Triton asks a GPU's driver for before it compiles."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        """The GPU to compile for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        """Its number."""
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        """Its stream."""
        return 0


def compile_only(patch: pytest.MonkeyPatch, capability: int) -> list[Any]:
    """Let launches compile for this GPU and do nothing; what was compiled is put into the list."""
    from triton.runtime.driver import driver

    found: list[Any] = []
    patch.setattr(driver, "_active", NoDriver(capability))
    for name in NAMES:
        module = importlib.import_module(f"deltatune.core.fast.kernels.{name}")
        patch.setattr(module, f"{name}_kernel", Compiled(getattr(module, f"{name}_kernel"), found))
    return found


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
    for name in NAMES:
        module = importlib.import_module(f"deltatune.core.fast.kernels.{name}")
        kernel = f"{name}_kernel"
        patch.setattr(module, kernel, InterpretedFunction(getattr(module, kernel).fn))
