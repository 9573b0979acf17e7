"""Sections of gpu.py about kernels and attention that a recipe may ask for: are they right, do they pay?"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_bench import LORA, Bench, clear
from torch import Tensor

from deltatune.core.delta import Clock
from deltatune.core.devices import forget_peak, on_gpu, peak_memory
from deltatune.core.fast import kernels
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.methods.lora import LoraDelta

LIMITS = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""What rounding may set two ways apart by, as a share of the norm."""
PACKAGES = {"triton": "triton", "liger": "liger_kernel", "cut-cross-entropy": "cut_cross_entropy"}
ATTENTION = {"sdpa": "torch", "eager": "torch", "flash_attention_2": "flash_attn", "flex_attention": "torch"}


def _there(bench: Bench, names: dict[str, str]) -> Iterator[str]:
    """Those whose package is installed; on a CPU none that needs a GPU."""
    for name, package in names.items():
        if name not in ("sdpa", "eager") and not on_gpu(bench.device):
            bench.say(of=name, left_out="it needs a GPU")
        elif importlib.util.find_spec(package) is None:
            bench.say(of=name, left_out=f"{package} is not installed")
        else:
            yield name


def low_rank_kernels(bench: Bench) -> None:
    """One site's update and its gradients by torch and by Triton, in all three types; and how far apart."""
    sizes = [(4, 16, 32)] if bench.dry else [(1, 512, 4096), (8, 512, 4096), (8, 2048, 4096)]
    names = ["torch", *_there(bench, {"triton": "triton"})]
    for rows, length, width in sizes:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for rank, p in ((8, 0.0), (8, 0.1), (64, 0.1)):
                found = {name: _site(bench, name, (rows, length, width), dtype, rank, p) for name in names}
                wanted = found["torch"][1]
                apart = {
                    name: max(float((a - b).norm() / b.norm()) for a, b in zip(made, wanted, strict=True))
                    for name, (_, made) in found.items()
                }
                bench.say(
                    rows=rows, length=length, width=width, dtype=str(dtype), rank=rank, dropout=p,
                    ms={name: ms for name, (ms, _) in found.items()}, apart=apart,
                    same=max(apart.values()) < LIMITS[dtype],
                )  # fmt: skip
                clear(bench)


def _site(  # noqa: PLR0917
    bench: Bench, name: str, shape: tuple[int, int, int], dtype: torch.dtype, rank: int, p: float
) -> tuple[float, list[Tensor]]:
    """Milliseconds of an update with its gradients, and both in float32."""
    torch.manual_seed(0)
    delta = LoraDelta(shape[2], shape[2], rank, 2.0, p).train()
    torch.nn.init.normal_(delta.lora_B.weight)
    delta.dropout.bind(Clock(1), "site")
    delta.to(bench.device)
    x, y = (torch.randn(shape).to(bench.device, dtype).requires_grad_() for _ in range(2))
    leaves = [x, y, delta.lora_A.weight, delta.lora_B.weight]

    def compute() -> list[Tensor]:
        with kernels.in_force(frozenset({name})):
            out = delta(x, y * 1)
        return [out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))]

    return bench.timed(compute), [tensor.float() for tensor in compute()]


def step_kernels(bench: Bench) -> None:
    """A step of LoRA with each kind of kernels, with all, and without; its peak memory."""
    for name in bench.shapes("0.1B", "1B", "8B"):
        batch = bench.rows(8, 512, 256, ragged=True)
        there = list(_there(bench, PACKAGES))
        for asked in ([], *([each] for each in there), *([there] if len(there) > 1 else [])):
            model, adapter = bench.adapted(name, dropout=0.1, **LORA)
            model.fast.lean.kernels = frozenset(asked)
            _measured(bench, bench.stepping(model, adapter, batch), of=name, kernels=asked)
            del model, adapter
            clear(bench)


def attention(bench: Bench) -> None:
    """A step of LoRA by each attention, on short and long rows."""
    for name in bench.shapes("0.1B", "1B"):
        for rows, length in ((16, 256), (4, 2048)):
            batch = bench.rows(rows, length, 64, ragged=True)
            for way in _there(bench, ATTENTION):
                base: Any = bench.base(name)
                base.set_attn_implementation(way)
                model = AdaptedModel(base)
                adapter = model.attach("a", METHODS.get("lora")(**LORA))
                step = bench.stepping(model.train(), adapter, batch)
                _measured(bench, step, of=name, rows=rows, length=length, attention=way)
                del model, adapter, base, step
                clear(bench)


def _measured(bench: Bench, step: Callable[[], Any], **what: Any) -> None:
    """Say what a step takes, or why it cannot be made: one kind that fails must not end the section."""
    try:
        step()
        forget_peak(bench.device)
        bench.say(**what, ms=bench.timed(step), peak=peak_memory(bench.device))
    except Exception as error:
        bench.say(**what, left_out=f"{type(error).__name__}: {error}"[:300])
