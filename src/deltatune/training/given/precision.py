"""What `train.precision: auto` means on a device, and why: measured once for each processor.

Instructions for bfloat16 do not say that it is faster. An AMD EPYC multiplies twice as fast in it; an Intel
Xeon that has them, but no AMX, at half the speed. So products of shapes that occur in training are timed, and
what came of it is kept in the cache, under the processor's name and torch's version. A machine that is asked
again says the same, and so do machines with equal processors that share a cache: a repeated run must give the
same numbers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from deltatune.cache import MACHINES, cache_root, make_cache_folder
from deltatune.core.devices import computes_bfloat16, on_gpu, own_random_states
from deltatune.errors import DeltatuneError
from deltatune.files import write_json
from deltatune.training.given.machine import fast_cpu

SHAPES = ((1280, 512, 1024), (1024, 576, 576), (640, 384, 1536))
"""Tokens, width and width of products in T5-small, SmolLM2 and MiniLM with 8 rows."""
ROUNDS = 4
CLEARLY = 1.15
"""How many times as fast bfloat16 must be to be taken: within it lies the noise of a machine, and float32
rounds less. What was measured is kept, so that a close call does not flip."""


@dataclass(frozen=True)
class Choice:
    """What `auto` means on a device."""

    dtype: str
    """`float32` or `bfloat16`."""
    why: str
    """In words."""


def automatic(device: torch.device) -> Choice:
    """The precision of a base whose recipe leaves it to the machine.

    GPUs are asked for their instructions, processors are measured: a fifth of a second, the first time.
    """
    if not computes_bfloat16(device):
        return Choice("float32", "there are no instructions for bfloat16")
    if on_gpu(device):
        return Choice("bfloat16", "the GPU has instructions for it")
    ratio, name = _ratio(str(cache_root())), processor()
    told = (
        f"{name} multiplies {ratio:.2g} times as fast in bfloat16 as in float32 (torch {torch.__version__})"
    )
    if ratio >= CLEARLY:
        return Choice("bfloat16", told)
    return Choice("float32", f"{told}; it is taken from {CLEARLY} times on")


def by_instructions(device: torch.device) -> str:
    """What `auto` meant up to version 0.2."""
    return "bfloat16" if computes_bfloat16(device) else "float32"


def processor() -> str:
    """Its name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def _ratio(root: str) -> float:
    """How many times as fast bfloat16 is: as it is kept in the cache `root`, else measured and kept."""
    path = Path(root, MACHINES, f"{_key()}.json")
    if (kept := _kept(path)) is None:
        ratio = measured()
        with contextlib.suppress(DeltatuneError, OSError):  # without a cache it is measured by each process
            make_cache_folder(path.parent)
            if (kept := _kept(path)) is None:  # another process may have been faster
                about = {"processor": processor(), "torch": torch.__version__}
                write_json(path, about | {"bfloat16_by_float32": ratio})
    return ratio if kept is None else kept


def _key() -> str:
    """Of all that the speeds depend on, but for the load of the machine."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    told = json.dumps([processor(), torch.__version__, known], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _kept(path: Path) -> float | None:
    """What was measured before; None if nothing was, or the file is no longer whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))["bfloat16_by_float32"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) and value > 0 else None


def measured() -> float:
    """Time products in both, by one thread and its own clock, which the load of others does not move."""
    seconds = {torch.float32: 0.0, torch.bfloat16: 0.0}
    threads = torch.get_num_threads()
    with fast_cpu(), own_random_states():
        torch.set_num_threads(1)
        try:
            for rows, inner, columns in SHAPES:
                for dtype in seconds:
                    a, b = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
                    seconds[dtype] += min(_product(a, b) for _ in range(ROUNDS))
        finally:
            torch.set_num_threads(threads)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _product(a: torch.Tensor, b: torch.Tensor) -> float:
    started = time.thread_time()
    _ = a @ b.mT
    return time.thread_time() - started
