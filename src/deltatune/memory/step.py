"""One training step on fake tensors, with the accounts of every storage that it touches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from transformers.utils import import_utils

from deltatune import quant
from deltatune.core.adapter import Adapter
from deltatune.core.loss import gradients_at, logits_for, loss_of
from deltatune.core.model import AdaptedModel
from deltatune.core.offload import counted, offload_of
from deltatune.core.whole import held
from deltatune.memory.account import Accountant, Memory
from deltatune.tasks import TASKS
from deltatune.tasks.shapes import BatchShape


class FakeAccountant(Accountant):
    """Accounts on fake tensors: results that depend on data are what the shape of the batch says.

    Transformers leaves a mask out if all of it is ones, which it asks of real tensors only; here it asks of
    fake ones too.

    Args:
        vocabulary: As of `Accountant`.
        shape: The micro-batch.
    """

    def __init__(self, vocabulary: int, shape: BatchShape) -> None:
        super().__init__(vocabulary)
        self._shape = shape

    def about(self, shape: BatchShape) -> None:
        """From now on, the answers are about this micro-batch."""
        self._shape = shape

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: PLR0911
        """Choose positions, find the places of labels, and read a number, without the data."""
        if func is torch.ops.aten.index.Tensor and args[1] and args[1][0].dtype == torch.bool:
            mask = args[1][0]
            return args[0].new_empty((self._shape.labelled, *args[0].shape[mask.dim() :]))
        if func is torch.ops.aten.nonzero.default:
            return args[0].new_empty((self._shape.labelled, args[0].dim()), dtype=torch.long)
        if func is torch.ops.aten.masked_select.default and self._shape.tokens is not None:
            # Places of packed rows (core/fast/packing.py), and of a prompt before each of them.
            before = args[0].numel() - self._shape.rows * self._shape.length
            return args[0].new_empty((self._shape.tokens + before,))
        if str(func) == "bitsandbytes.int8_vectorwise_quant.default":
            return _without_outliers(args[0])
        if str(func) == "bitsandbytes.int8_mixed_scaled_mm.default":
            mixed, quantized, weight = args[:3]
            return mixed.new_empty((*quantized.shape[:-1], weight.shape[0])), mixed.new_empty((0,))
        if func is torch.ops.aten._local_scalar_dense.default:
            return not self._shape.padded if args[0].dtype == torch.bool else self._shape.of_a_row
        return func(*args, **kwargs)

    def __enter__(self) -> Self:
        """Let Transformers take fake tensors for real ones."""
        self._is_fake = import_utils.is_fake_tensor
        setattr(import_utils, "is_fake_tensor", lambda tensor: False)  # noqa: B010  (typed by its name)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Undo that."""
        super().__exit__(*error)
        setattr(import_utils, "is_fake_tensor", self._is_fake)  # noqa: B010


def _without_outliers(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What int8 quantization of activations [rows, width] gives if no column has large values."""
    scales = x.new_empty((x.numel() // x.shape[-1],), dtype=torch.float32)
    return torch.empty_like(x, dtype=torch.int8), scales, x.new_empty((0,), dtype=torch.long)


def account_step(
    model: AdaptedModel,
    adapter: Adapter,
    optimizer: torch.optim.Optimizer | None,
    *,
    shapes: Sequence[BatchShape],
    task: str,
    accounts: FakeAccountant,
    max_grad_norm: float | None = 1.0,
    autocast: bool = False,
) -> Memory:
    """Run the trainer's step (micro-batches, clipping, update) and account for it; `accounts` is in force."""
    parameters = [p for _, p in adapter.trainable()]
    with accounted(accounts, model, adapter, optimizer):
        model.train()
        batches = [TASKS.get(task).blank(shape) for shape in shapes]  # as in the trainer, from the start
        at_outputs: list[Tensor] = []
        if TASKS.get(task).spans_rows and len(batches) > 1:
            at_outputs = _gradients_of_whole(model, shapes, batches, task, accounts, autocast=autocast)
        for index, (shape, batch) in enumerate(zip(shapes, batches, strict=True)):
            accounts.about(shape)
            with model.fast.packing.use(shape.tokens is not None):
                logits, targets = logits_for(model, batch, task, autocast=autocast)
            accounts.mark("loss")
            loss = (logits * at_outputs[index]).sum() if at_outputs else loss_of(task, logits, targets)
            del logits, targets
            penalty = adapter.penalty() if index == 0 else None
            total = loss if penalty is None else loss + penalty
            accounts.forward_done()
            if parameters:
                total.backward()
            del loss, penalty, total
        if optimizer is not None:
            accounts.mark("update")
            limit = math.inf if max_grad_norm is None else max_grad_norm
            torch.nn.utils.clip_grad_norm_(parameters, limit)
            optimizer.step()
            with contextlib.suppress(DataDependentOutputException):
                adapter.after_step(2)
            optimizer.zero_grad(set_to_none=True)
    return accounts.memory()


def _gradients_of_whole(
    model: AdaptedModel,
    shapes: Sequence[BatchShape],
    batches: Sequence[dict[str, Tensor]],
    task: str,
    accounts: FakeAccountant,
    *,
    autocast: bool,
) -> list[Tensor]:
    """The first pass of a loss that spans micro-batches, without a graph."""
    outputs, targets = [], []
    for shape, batch in zip(shapes, batches, strict=True):
        accounts.about(shape)
        with torch.no_grad():
            output, target = logits_for(model, batch, task, autocast=autocast)
        outputs.append(output)
        targets.append(target)
    return gradients_at(task, outputs, targets)[1]


@contextlib.contextmanager
def accounted(
    accounts: Accountant, model: AdaptedModel, adapter: Adapter, optimizer: torch.optim.Optimizer | None
) -> Iterator[None]:
    """Within the block, what stays between steps is held, and gradients are told apart.

    `accounts` need not be in force yet: whatever is made before it is, is counted by what is held here.
    """
    parameters = [p for _, p in adapter.trainable()]
    accounts.hold(adapter.parameters(), "delta")
    accounts.hold(adapter.buffers(), "delta")
    with model.using():  # what full fine-tuning has put into their place is not the base
        weights, offload = list(map(held, quant.held(model.base))), offload_of(model.base)
        accounts.hold(weights if offload is None else offload.in_memory(weights), "weights")
        accounts.leave_out(weights)  # what rests elsewhere
    if optimizer is not None:
        accounts.hold(_tensors(list(optimizer.state.values())), "optimizer")
    accounts.hold(_tensors(adapter.resume_state()), "optimizer")
    accounts.hold((p.grad for p in parameters), "gradients")
    accounts.watch(parameters)
    with counted(model.base, lambda weights: accounts.hold(weights, "weights")):
        try:
            yield
        finally:
            accounts.close()


def warm_up(adapter: Adapter, optimizer: torch.optim.Optimizer) -> None:
    """Bring the optimizer's and the method's own state into being, as the first step does."""
    for _, parameter in adapter.trainable():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with contextlib.suppress(DataDependentOutputException):
        adapter.after_step(1)
    optimizer.zero_grad(set_to_none=True)


def _tensors(value: Any) -> list[Tensor]:
    """All tensors of a tree of dicts and lists."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for item in items for tensor in _tensors(item)]
