"""Where the host waits for the GPU in a training step, an evaluation's batch and a generated token.

python -m tests.gpu_shaped.step_waits    prints the table of docs/how-to/gpu.md
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deltatune.core.devices import to_device
from deltatune.core.fast.padding import padding_told
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.evaluation.interfaces import evaluating
from deltatune.methods import METHODS
from deltatune.testing import tiny
from deltatune.training.loop.clip import clipped
from tests.gpu_shaped import pretended

TASKS = {
    "t5": "text-to-text",
    "llama": "causal-lm",
    "bert": "text-classification",
    "vit": "image-classification",
}
METHOD_NAMES = ("lora", "dora", "adalora", "prefix", "prompt", "ia3", "adapter", "diff_pruning")
Waits = collections.Counter[tuple[str, str]]


def made(architecture: str, method: str, device: torch.device) -> tuple[AdaptedModel, Any]:
    """A tiny model on the device, with an adapter."""
    model = AdaptedModel(tiny.model(architecture).to(device), tiny.heads(architecture))
    adapter = model.attach("a", METHODS.get(method)())
    adapter.start(100)
    return model, adapter


def of_step(gpu: pretended.Gpu, architecture: str, method: str, *, full: bool = False) -> Waits:
    """What the third step of a run waits for; `full`: no row is padded."""
    model, adapter = made(architecture, method, gpu.device)
    host = tiny.batch(architecture)
    if full:
        host = {name: tensor[::3] for name, tensor in host.items()}
    optimizer = torch.optim.AdamW([p for _, p in adapter.trainable()], fused=True)
    parameters = [p for _, p in adapter.trainable()]
    waits: Waits = collections.Counter()
    for step in range(1, 4):
        before = gpu.waits.copy()
        model.train()
        loss = summed_loss(model, to_device(pinned(host), gpu.device), TASKS[architecture])
        penalty = adapter.penalty()
        (loss if penalty is None else loss + penalty).backward()
        clipped([loss.detach()], parameters, 1.0, step=step, lr=1e-3)
        optimizer.step()
        adapter.after_step(step)
        optimizer.zero_grad(set_to_none=True)
        waits = gpu.waits - before
    return waits


def of_token(gpu: pretended.Gpu, architecture: str, method: str, *, more: int = 8) -> Waits:
    """What a generated token waits for: of `more` tokens beyond the first few, the mean."""
    model, _ = made(architecture, method, gpu.device)
    prompts = to_device(pinned(tiny.prompts(architecture)), gpu.device)
    totals = []
    for tokens in (4, 4 + more):
        before = gpu.waits.copy()
        with evaluating(model), padding_told(prompts):
            model.generate(**prompts, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        totals.append(gpu.waits - before)
    return collections.Counter({key: n // more for key, n in (totals[1] - totals[0]).items() if n >= more})


def pinned(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch as threads hand it over."""
    return {name: tensor.pin_memory() for name, tensor in batch.items()}


def table(gpu: pretended.Gpu) -> Iterator[str]:
    """The rows of the table, as Markdown."""
    yield (
        "| method | "
        + " | ".join(f"{name}, per step" for name in TASKS)
        + " | t5, per token | llama, per token |"
    )
    yield "|---" * 7 + "|"
    for method in METHOD_NAMES:
        steps = [sum(of_step(gpu, name, method).values()) for name in TASKS]
        tokens = [sum(of_token(gpu, name, method).values()) for name in ("t5", "llama")]
        yield f"| {method} | " + " | ".join(map(str, [*steps, *tokens])) + " |"


if __name__ == "__main__":
    with pretended.gpu() as found:
        print("\n".join(table(found)))
