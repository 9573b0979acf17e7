"""Layers compiled for the steps of a run (`train.compile`): tried before the first step, or left as they are.

Compiling changes how fast a run is, not what comes of it. So where it cannot be had the run goes on without,
and says why.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from deltatune import quant
from deltatune.core.delta import Dropout
from deltatune.core.devices import own_random_states, to_device
from deltatune.core.fast.kernels import LIGER, TRITON
from deltatune.core.loss import summed_loss
from deltatune.recipe.train_section import TrainSpec
from deltatune.timeline import phase
from deltatune.training.loop.filling import filling_of, micro_batches
from deltatune.training.loop.trainer import Trainer
from deltatune.training.proof.equal_logits import rounding

TASK = "Compiling layers"
LINE = "compiled as plain"
BACKEND = "inductor"
AUTO_STEPS = 500
"""Steps of a run from which on `auto` compiles on a GPU: by estimate, not measured on one."""
SMALL = 1_500_000_000
"""Parameters of a base up to which a step waits for launches rather than for arithmetic
(docs/measured/gpu-arithmetic.md), so that CUDA graphs are taken as well."""


@contextlib.contextmanager
def compiled(trainer: Trainer) -> Iterator[None]:
    """Within the block the run's passes go through compiled layers, if its recipe wants that and it works.

    Args:
        trainer: The run, whose delta acts.
    """
    spec, model, say = trainer.spec, trainer.model, trainer.observer
    if not spec.compile or (spec.compile == "auto" and _unworthy(trainer) is not None):
        yield
        return
    why = _why_not(trainer) or _start(trainer)
    if why is not None:
        say.warn(f"{trainer.out.name}: train.compile is left out: {why}.")
    try:
        yield
    finally:
        model.fast.compiled.stop()
        trainer.filling = None


def _unworthy(trainer: Trainer) -> str | None:
    """Why `auto` does not compile; None if it does."""
    if trainer.model.device.type != "cuda":
        return "on CPUs it takes a minute and more, and spares little"
    return None if trainer.total >= AUTO_STEPS else "the run is short"


def _why_not(trainer: Trainer) -> str | None:
    """What, of all that can be told beforehand, keeps layers from being compiled."""
    if (why := _excluded(trainer.spec)) is not None:
        return why
    if trainer.progress.packs:
        return "packed rows have as many shapes as there are batches (data.packing: false pads them)"
    if trainer.has_trunk:
        return "the outputs of frozen layers are cached (train.cache_trunk), which spares more"
    if trainer.model.device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "on a GPU it needs the package triton"
    return None


def _excluded(spec: TrainSpec) -> str | None:
    """The setting beside which layers are not compiled."""
    if spec.gradient_checkpointing:
        return "layers that train.gradient_checkpointing computes again are not compiled"
    if {TRITON, LIGER} & set(spec.kernels or ()):
        return "train.kernels have computations of their own in the layers"
    if spec.offload:
        return "layers whose weights train.offload moves are not compiled"
    return None


@phase("compiling")
def _start(trainer: Trainer) -> str | None:
    """Compile for each shape that batches will have, and compare; None if all is well."""
    model, encoder, began = trainer.model, trainer.encoder, time.perf_counter()
    parts = micro_batches(trainer.train, trainer.spec, encoder.task, trainer.seed)
    reads_text = "input_ids" in trainer.train.features[0]
    filling = filling_of(trainer.train, parts, encoder.task, encoder.pad_id if reads_text else 0)
    by_size: dict[tuple[tuple[int, ...], ...], dict[str, Tensor]] = {}
    padded = plain = 0
    for rows in sorted(parts, key=lambda rows: -sum(trainer.train.lengths[row] for row in rows)):
        collated = encoder.collate([trainer.train.features[row] for row in rows])
        batch = filling.filled(collated)
        plain += sum(tensor.numel() for tensor in collated.values())
        padded += sum(tensor.numel() for tensor in batch.values())
        by_size[filling.sizes(batch)] = batch  # the one with most padding, so that masks are not left out
    mode = _mode(trainer.spec, trainer)
    if not model.fast.compiled.start(BACKEND, mode):
        return f"{type(model.base).__name__} has no stack of layers that are alike"
    trainer.observer.start(TASK, len(by_size))
    worst = 0.0
    try:
        for batch in by_size.values():
            difference = _difference(trainer, batch, passes=3 if mode else 1)
            worst = max(worst, difference)
            if not difference <= 10 * rounding(model):
                model.fast.compiled.stop()
                return f"its gradients differ by {difference:.3g} of their norm from those of plain layers"
            trainer.observer.advance(TASK)
    except Exception as error:  # torch raises anything, and any code may be in a layer
        model.fast.compiled.stop()
        return f"it does not work on {type(model.base).__name__} here ({_said(error)})"
    finally:
        trainer.observer.finish(TASK)
    trainer.filling = filling
    shapes, more = _many(len(by_size)), padded / plain - 1
    trainer.certificate.check(
        LINE,
        True,
        f"gradients of {shapes} differ by {worst:.3g} of their norm at most",
        "",
        {"shapes": len(by_size), "difference": worst},
    )
    trainer.observer.log(
        f"{trainer.out.name}: layers were compiled for {shapes} in {time.perf_counter() - began:.0f} s; "
        f"padding to them adds {more:.0%} to what batches hold."
    )
    return None


def _mode(spec: TrainSpec, trainer: Trainer) -> str | None:
    """The mode of torch.compile: with CUDA graphs where a step waits for launches and nothing forbids it."""
    model = trainer.model
    small = quant.parameter_count(model.base) <= SMALL
    whole = spec.micro_batch_size in (None, spec.batch_size) and not spec.auto_micro_batch
    draws = any(isinstance(module, Dropout) and module.p > 0 for module in trainer.adapter.modules())
    graphs = model.device.type == "cuda" and small and whole and not draws and not spec.base_dropout
    return "reduce-overhead" if graphs else None


def _difference(trainer: Trainer, batch: dict[str, Tensor], passes: int) -> float:
    """How far the gradients of compiled layers are from those of plain ones, as a share of their norm."""
    wanted = _gradients(trainer, batch)
    with trainer.model.fast.compiled.trying():
        for _ in range(passes):
            given = _gradients(trainer, batch)
    return float((given - wanted).norm() / wanted.norm().clamp_min(1e-30))


def _gradients(trainer: Trainer, batch: dict[str, Tensor]) -> Tensor:
    """All gradients of a batch in a row; nothing of the pass stays behind."""
    model, adapter, task = trainer.model, trainer.adapter, trainer.encoder.task
    tick = adapter.clock.tick
    with own_random_states():
        trainer.train_mode()
        on_device = to_device(batch, model.device)
        summed_loss(model, on_device, task, autocast=trainer.autocasts).backward()
    each = [p.grad.detach().float().flatten() for p in trainer.parameters if p.grad is not None]
    made = torch.cat(each).clone()
    adapter.forget_pass(tick)
    return made


def _many(shapes: int) -> str:
    return "1 shape" if shapes == 1 else f"{shapes} shapes"


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:200]}" if lines else type(error).__name__
