"""A section of gpu.py about compiled layers: do they compute the same, what do they cost and spare?"""

from __future__ import annotations

import time
from typing import Any

import torch
from gpu_bench import Bench, clear
from torch import Tensor

from deltatune.core.devices import synchronize, to_device
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.testing import tiny

MODES = ("default", "reduce-overhead")
PASSES = 3
"""Before a step is timed: CUDA graphs are warmed up in the first, recorded in the second, then replayed."""
LIMIT = 5e-2
"""How far gradients in bfloat16 may be apart, as a share of their norm."""


def compiled_layers(bench: Bench) -> None:
    """Steps with plain layers and with compiled ones, with CUDA graphs and without, by size and batch."""
    for name in bench.shapes("0.1B", "1B", "3B", "8B"):
        for rows, length in ((1, 256),) if bench.dry else ((1, 256), (4, 128), (8, 1024)):
            about = {"of": name, "rows": [rows, length]}
            gradients, plain, _ = _measured(bench, name, bench.rows(rows, length, length // 4), None)
            bench.say(**about, mode=None, ms=plain)
            for mode in MODES[:1] if bench.dry else MODES:
                clear(bench)
                try:
                    found, ms, seconds = _measured(bench, name, bench.rows(rows, length, length // 4), mode)
                except Exception as error:  # what torch makes of a mode here is what is asked
                    bench.say(**about, mode=mode, failed=f"{type(error).__name__}: {error}"[:300])
                    continue
                finally:
                    torch.compiler.reset()
                apart = float((found - gradients).norm() / gradients.norm())
                bench.say(
                    **about, mode=mode, ms=ms, over_plain=ms / plain, compiling_seconds=seconds, apart=apart,
                    same=apart < LIMIT,
                )  # fmt: skip


def _measured(
    bench: Bench, name: str, batch: dict[str, Tensor], mode: str | None
) -> tuple[Tensor, float, float]:
    """Gradients of the batch, milliseconds of a step, and seconds that compiling took."""
    torch.manual_seed(0)  # the same weights each time
    model, adapter = bench.adapted(name)
    tiny.perturb(adapter)
    seconds = 0.0
    gradients = _gradients(bench, model, adapter, batch)
    if mode is not None:
        backend = "eager" if bench.dry else "inductor"
        model.fast.compiled.start(backend, None if bench.dry or mode == "default" else mode)
        started = time.perf_counter()
        with model.fast.compiled.trying():
            for _ in range(PASSES):
                gradients = _gradients(bench, model, adapter, batch)
        seconds = time.perf_counter() - started
    return gradients, bench.timed(bench.stepping(model, adapter, batch)), seconds


def _gradients(bench: Bench, model: AdaptedModel, adapter: Any, batch: dict[str, Tensor]) -> Tensor:
    tick = adapter.clock.tick
    summed_loss(model, to_device(batch, bench.device), "causal-lm").backward()
    made = torch.cat([p.grad.float().flatten() for _, p in adapter.trainable() if p.grad is not None])
    adapter.forget_pass(tick)
    synchronize(bench.device)
    return made
