"""How fast this machine trains: a real step of a shallow model with random weights, timed."""

from __future__ import annotations

import time
from typing import Any

import torch

from deltatune import quant
from deltatune.core.devices import on_gpu, own_random_states, synchronize, to_device
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.memory.predict import Setup, predict
from deltatune.memory.scale import depths_of, with_depths
from deltatune.memory.shapes import llama
from deltatune.models.load import DTYPES
from deltatune.models.tasks import model_class, possible_tasks
from deltatune.models.weights import unquantized
from deltatune.quant.inplace import quantize_
from deltatune.quant.loading import compute_dtype
from deltatune.tasks import TASKS
from deltatune.tasks.shapes import BatchShape
from deltatune.training.given.machine import fast_cpu

MOST_PARAMETERS = 250_000_000
MOST_FLOPS = 1e11
"""Of a timed step on a CPU: a second or some."""
ENOUGH_SECONDS = 6.0


class MachineSpeed:
    """Floating-point operations a second in training, measured once for each kind of base."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], float] = {}

    def of(self, setup: Setup) -> float:
        """The rate for a setup: of two of its own layers, or of a Llama's where those are too large.

        A quantized base is timed as one, with the work of dequantizing; full fine-tuning by itself, since the
        update of all weights is slow. Small operations beyond those of the timed step are left out.
        """
        bits = setup.quantization.model_dump_json() if setup.quantization else setup.dtype
        key = (bits, type(setup.config).__name__, "all" if setup.method.name == "full" else "few")
        if key not in self._found:
            self._found[key] = _timed(_small(setup))
        return self._found[key]


def _small(setup: Setup) -> Setup:
    shallow = setup.changed(
        config=with_depths(setup.config, dict.fromkeys(depths_of(setup.config), 2)),
        micro_batches=1,
        checkpointing=False,
    )
    found = predict(shallow)
    if found.total_parameters > MOST_PARAMETERS:
        stand_in = llama(1024, 2816, 2, 16, vocab_size=8000)
        shape = BatchShape(4, 128, 0, 64)
        return shallow.changed(config=stand_in, task=possible_tasks(stand_in)[0], shape=shape, heads=None)
    rows = setup.shape.rows
    if not on_gpu(torch.device(setup.device)):
        rows = max(1, min(rows, int(rows * MOST_FLOPS / max(found.flops, 1))))
    return shallow.changed(shape=setup.shape.with_rows(rows))


def _timed(setup: Setup) -> float:
    flops = predict(setup).flops
    device = torch.device(setup.device)
    with fast_cpu(device), own_random_states():
        base = _random_base(setup).to(device)
        model = AdaptedModel(
            base,
            processor=setup.processor,
            original=lambda path: quant.read_weight(base.get_submodule(path)),
            eager_up_to=setup.eager_up_to,
        ).train()
        adapter = model.attach("timed", setup.method)
        optimizer = torch.optim.AdamW([p for _, p in adapter.trainable()], fused=True)
        seconds = 0.0
        for _ in range(2):
            batch = to_device(TASKS.get(setup.task).blank(setup.shape), device)
            started = time.perf_counter()
            summed_loss(model, batch, setup.task).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            synchronize(device)
            seconds = time.perf_counter() - started  # the first one warms up
            if seconds > ENOUGH_SECONDS:
                break
    return flops / seconds


def _random_base(setup: Setup) -> Any:
    """The base of a setup with random weights, quantized where the setup's is."""
    spec = setup.quantization
    dtype = DTYPES[setup.dtype] if spec is None else compute_dtype(spec)
    base = model_class(setup.task).from_config(setup.config, dtype=dtype)
    if spec is not None:
        quantize_(base, unquantized(base, setup.task), spec, setup.device)
    return base
