"""Trying the largest micro-batch before the first step, and what to say when a GPU's memory runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from deltatune.core.adapter import Adapter
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.errors import TrainingError
from deltatune.recipe.sections import TrainSpec


def try_batch(
    model: AdaptedModel, adapter: Adapter, batch: dict[str, Tensor], task: str, *, autocast: bool
) -> None:
    """Run forward and backward on a batch and undo every trace of it: gradients, clock, random state.

    What is trained afterwards is bit for bit what it would have been. Only memory that the allocator keeps
    stays behind, which the run is going to need.
    """
    tick = adapter.clock.tick
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        model.train()
        batch = {name: value.to(model.device) for name, value in batch.items()}
        summed_loss(model, batch, task, autocast=autocast).backward()
    for _, parameter in adapter.trainable():
        parameter.grad = None
    adapter.clock.tick = tick


@contextlib.contextmanager
def out_of_memory_explained(spec: TrainSpec, *, quantized: bool) -> Iterator[None]:
    """Within the block, running out of a GPU's memory is an error that says what to change.

    Raises:
        TrainingError: The memory ran out.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        rows = spec.micro_batch_size or spec.batch_size
        ways = [f"train.micro_batch_size={rows // 2} (the same result)"] if rows > 1 else []
        if not spec.gradient_checkpointing:
            ways.append("train.gradient_checkpointing=true (the same result, a third slower)")
        if not quantized:
            ways.append("quantization=nf4")
        ways.append("a smaller data.max_input_tokens")
        raise TrainingError(
            f"a training step does not fit into the GPU's memory, with {rows} rows at once "
            f"({str(error).partition('. ')[0]}).",
            field="train.micro_batch_size",
            remedy=f"Set {', or '.join(ways)}. `deltatune plan` says what each comes to.",
        ) from error
