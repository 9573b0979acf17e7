"""When a GPU's memory runs out: in the first seconds, with smaller micro-batches, or with advice."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from deltatune.core.adapter import Adapter
from deltatune.core.devices import out_of_memory, own_random_states, ran_out, release_memory, to_device
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.errors import DeltatuneError, TargetError
from deltatune.observer import Observer
from deltatune.recipe.train_section import TrainSpec

T = TypeVar("T")
PACKAGE = Path(__file__).parents[2]


def try_batch(
    model: AdaptedModel, adapter: Adapter, batch: dict[str, Tensor], task: str, *, autocast: bool
) -> None:
    """Run forward and backward on a batch and undo every trace of it: gradients, clock, random state.

    What is trained afterwards is bit for bit what it would have been. Only memory that the allocator keeps
    stays behind, which the run is going to need.
    """
    tick = adapter.clock.tick
    with own_random_states():
        model.train()
        summed_loss(model, to_device(batch, model.device), task, autocast=autocast).backward()
    adapter.forget_pass(tick)


@contextlib.contextmanager
def code_explained(model: AdaptedModel, method: str | None) -> Iterator[None]:
    """Within the block, before the first step, an error of the base's code says what does not go together.

    Args:
        model: The model.
        method: Whose delta acts; None if the base is alone.

    Raises:
        TargetError: The code failed. What is an error of deltatune's, or of memory and disk, stays as it is.
    """
    try:
        yield
    except (DeltatuneError, MemoryError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # an architecture's code may raise anything
        if _is_slip_of_ours(error):
            raise
        base, lines = type(model.base).__name__, str(error).splitlines()
        reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
        tried = f"{base} with {method}" if method else base
        raise TargetError(
            f"{tried} does not work on these rows: before the first step its code failed ({reason}).",
            field="model",
            remedy=f"Take {'another method or model' if method else 'another model'}. "
            "DELTATUNE_DEBUG=1 shows where it happened.",
        ) from error


def _is_slip_of_ours(error: Exception) -> bool:
    """Whether our own code raised it, and not for numbers that do not fit together, which torch says."""
    raised_by = traceback.extract_tb(error.__traceback__)[-1].filename
    return not isinstance(error, RuntimeError) and Path(raised_by).is_relative_to(PACKAGE)


class MicroBatches:
    """How many rows go through the model at once: as the recipe says, or less where it lets memory decide.

    Args:
        spec: The run's training settings.
        adapter: What is trained; a step that is repeated leaves no trace in it.
        observer: Is told of every halving.
        device: Where the model is.
        size: Rows at once, if an interrupted run had come down to them already.
    """

    def __init__(
        self,
        spec: TrainSpec,
        adapter: Adapter,
        observer: Observer,
        device: torch.device,
        size: int = 0,
    ) -> None:
        self.size = size or spec.micro_batch_size or spec.batch_size
        self._automatic, self._adapter, self._observer = spec.auto_micro_batch, adapter, observer
        self._device = device

    def fitting(self, attempt: Callable[[int], T]) -> T:
        """Call `attempt` with a number of rows at once that the memory holds, and return what it returns.

        Raises:
            torch.OutOfMemoryError: The recipe does not let the size change, or a single row is too much.
        """
        tick = self._adapter.clock.tick
        while True:
            try:
                return attempt(self.size)
            except RuntimeError as error:
                if not ran_out(error) or not self._automatic or self.size == 1:
                    raise
            # Outside of `except`, whose traceback holds on to the tensors of the attempt.
            self._adapter.forget_pass(tick)
            release_memory(self._device)
            self.size = (self.size + 1) // 2
            self._observer.warn(f"The GPU's memory ran out; from now on it gets {self.size} rows at once.")


def out_of_memory_explained(spec: TrainSpec, *, quantized: bool) -> contextlib.AbstractContextManager[None]:
    """Within the block, running out of a GPU's memory is an error that says what to change.

    Raises:
        TrainingError: The memory ran out.
    """
    rows = 1 if spec.auto_micro_batch else spec.micro_batch_size or spec.batch_size
    ways = []
    if rows > 1:
        ways += [f"train.micro_batch_size={rows // 2} (the same result)", "train.auto_micro_batch=true"]
    if not spec.gradient_checkpointing:
        ways.append("train.gradient_checkpointing=true (the same result, a third slower)")
    if not quantized:
        ways.append("quantization=nf4")
    ways.append("a smaller data.max_input_tokens")
    remedy = f"Set {', or '.join(ways)}. `deltatune plan` says what each comes to."
    return out_of_memory(f"a training step with {rows} rows at once", remedy, "train.micro_batch_size")
