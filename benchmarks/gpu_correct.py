"""Sections of gpu.py about what the device computes: the same as a CPU, and without waiting?"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from gpu_bench import TASKS, Bench
from torch import Tensor

from deltatune.core.devices import computes_bfloat16, memory_left, name_of, on_gpu, to_device
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.testing import tiny
from deltatune.training.given.machine import versions


def env(bench: Bench) -> None:
    """What the machine is."""
    device = bench.device
    found: dict[str, Any] = {
        "name": name_of(device),
        "bfloat16": computes_bfloat16(device),
        **versions(device),
    }
    if on_gpu(device):
        found["memory"] = memory_left(device)
    bench.say(**found)


def place(bench: Bench) -> None:
    """Loss and gradients on the device are those of the CPU, in float32, for methods and kinds of models."""
    torch.backends.cuda.matmul.allow_tf32 = False
    wrong = []
    for name, task in TASKS.items():
        for method in METHODS.names() if not bench.dry else ("lora", "prefix"):
            try:
                here, there = (
                    _gradients(name, task, method, device) for device in (torch.device("cpu"), bench.device)
                )
            except Exception as error:
                bench.say(of=name, method=method, left_out=f"{type(error).__name__}: {error}"[:200])
                continue
            apart = max((_apart(there[key], here[key]) for key in here), default=0.0)
            bench.say(of=name, method=method, apart=apart, same=apart < 1e-3)
            wrong += [f"{method} on {name}"] if apart >= 1e-3 else []
    if wrong:
        raise SystemExit(f"not the same as on the CPU: {', '.join(wrong)}. Nothing else is measured.")


def _gradients(name: str, task: str, method: str, device: torch.device) -> dict[str, Tensor]:
    """The loss of a batch and the gradients of the adapter, on the host; what is no identity acts already."""
    model = AdaptedModel(tiny.model(name).to(device), tiny.heads(name), eager_up_to=0)
    adapter = model.attach("a", METHODS.get(method)(), seed=1)
    tiny.perturb(adapter, seed=1)
    loss = summed_loss(model, to_device(tiny.batch(name), device), task)
    if loss.requires_grad:
        loss.backward()
    found = {n: p.grad.cpu() for n, p in adapter.named_parameters() if p.grad is not None}
    return {"loss": loss.detach().cpu(), **found}


def _apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))


def waits(bench: Bench) -> None:
    """Where the host waits in a step, by torch's own count: once, for the loss and the norm."""
    model, adapter = bench.adapted("0.1B")
    step = bench.stepping(model, adapter, bench.rows(8, 256, 64, ragged=True))
    step()
    if bench.device.type != "cuda":
        bench.say(left_out=f"torch does not count them on {bench.device.type}")
        return
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        step()
    torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename.rpartition('site-packages/')[2]}:{w.lineno}" for w in seen]
    bench.say(count=len(places), places=places, as_meant=len(places) <= 1)


def resume(bench: Bench) -> None:
    """An interrupted run goes on; are its numbers those of the run without interruption, to the bit?"""
    from deltatune.recipe import parse_recipe
    from deltatune.testing.folders import save_tiny
    from deltatune.training import run

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = [
            json.dumps({"input": f"{n} of the goals " * (n % 4 + 1), "target": f"{n} goals"})
            for n in range(48)
        ]
        (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
        recipe = parse_recipe({
            "task": "text-to-text", "model": str(save_tiny("t5", folder / "t5")), "device": bench.device.type,
            "data": {"source": str(folder / "rows.jsonl"), "split": {"validation": 0.2, "test": 0.2}},
            "methods": ["lora"], "train": {"max_steps": 6, "evaluate_every": 3, "batch_size": 8},
            "evaluation": {"max_new_tokens": 4},
        })  # fmt: skip
        [entry] = recipe.methods
        run(recipe, entry, 0, folder / "a", pause=lambda progress, total: True)
        again, whole = (run(recipe, entry, 0, folder / name, resume=name == "a") for name in ("a", "b"))
        both = [result.metrics.test["loss"] for result in (again, whole)]  # type: ignore[union-attr]
        bench.say(losses=both, to_the_bit=both[0] == both[1])
