"""What a run may take from the machine and what it took: float32 products, peak memory, versions."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import psutil
import torch

from deltatune.core.devices import HOST, forget_peak, name_of, on_gpu, peak_memory
from deltatune.results import GitState
from deltatune.training.given import cgroups

_PACKAGES = (
    "deltatune",
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "sacrebleu",
    "rouge-score",
    "numpy",
)


@contextlib.contextmanager
def fast_cpu(device: torch.device = HOST) -> Iterator[None]:
    """Within the block, let a CPU compute as fast as it can: products of float32, and the number of threads.

    Where a GPU computes, its products of float32 stay as they are: there the setting is one for TF32.

    The number of threads is a rule and not the fastest in a trial: sums differ with it in the last bit, and
    a run that is repeated must give the same numbers.
    """
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    if not on_gpu(device):
        torch.set_float32_matmul_precision(_float32_precision(precision))
    torch.set_num_threads(min(threads, cgroups.processors()))
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)


@contextlib.contextmanager
def deterministic(device: torch.device, wanted: bool) -> Iterator[None]:
    """Within the block, a GPU takes kernels that give the same each time, if `wanted`.

    Torch warns of what has none. CPUs give the same anyway.
    """
    if not wanted or not on_gpu(device):
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's libraries are first used
    before, warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


def _float32_precision(before: str) -> str:
    """The faster of torch's two ways to compute float32 products, if it is as exact.

    `medium` moves them to oneDNN, which is twice as fast on some processors and still float32; on others
    it may really compute in bfloat16. So the error of a product is measured.
    """
    torch.set_float32_matmul_precision("medium")
    return "medium" if _product_error() < 1e-5 else before


def _product_error() -> float:
    """Relative error of a float32 matrix product against float64."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).norm() / exact.norm())


WORTH_COLLECTING = 64 * 2**20
"""Bytes more than at the start of the run before: collecting garbage takes a fifth of a second."""


def _resident() -> int:
    """Bytes of RAM that the process holds."""
    return int(psutil.Process().memory_info().rss)


def _give_back() -> None:
    """Let the C library give freed memory back to the system, where it can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class PeakMemory:
    """Measures the peak memory since `start`: of the GPU's allocator, resident set (RSS) elsewhere.

    RSS counts everything the process holds: libraries, base, data. Where the system cannot reset its mark,
    the peak is that of the whole process.

    A run that is over is a cycle of objects, which Python collects seldom where there are many others. What
    it held would count as memory of the runs behind it, so it is collected before they start.
    """

    _settled: ClassVar[int] = 0
    """Bytes that the process held when the last run started."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.kind = "rss" if peak_memory(device) is None else device.type

    def start(self) -> None:
        """Forget earlier peaks, and free what earlier runs have left."""
        _give_back()
        if self.kind != "rss" or _resident() > PeakMemory._settled + WORTH_COLLECTING:
            gc.collect()
            _give_back()
        PeakMemory._settled = _resident()
        forget_peak(self._device)
        if self.kind != "rss":
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """Bytes at the highest point since `start`."""
        if (of_tensors := peak_memory(self._device)) is not None:
            return of_tensors
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else peak * 1024


def total_memory() -> int:
    """Bytes of RAM of the machine, or of the container's limit if that is lower."""
    return min(psutil.virtual_memory().total, cgroups.memory_limit() or sys.maxsize)


def available_memory() -> int:
    """Bytes of RAM that can still be taken, within the container's limit."""
    left = cgroups.memory_left()
    return min(psutil.virtual_memory().available, sys.maxsize if left is None else left)


def versions(device: torch.device = HOST) -> dict[str, str]:
    """Versions of everything that the numbers depend on."""
    known = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            known[package] = metadata.version(package)
    known["threads"] = str(torch.get_num_threads())
    if on_gpu(device):
        known["gpu"] = name_of(device)
    return known


def git_state() -> GitState | None:
    """Commit of the working directory and whether it has changes; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return GitState(commit=commit, dirty=bool(_git("status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
