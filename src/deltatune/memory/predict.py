"""What one training step will take, found by running it on fake tensors: nothing is loaded or computed."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from deltatune import quant
from deltatune.core.adapter import Adapter
from deltatune.core.fast.trunk import trunk_of
from deltatune.core.loss import standing_for
from deltatune.core.method import MethodConfig
from deltatune.core.model import AdaptedModel
from deltatune.core.offload import at_rest
from deltatune.core.sites import stacks
from deltatune.memory.account import Memory
from deltatune.memory.base import Unread, fake_base, fake_mode, new_heads
from deltatune.memory.step import FakeAccountant, account_step, warm_up
from deltatune.models.positions import Room, room_of
from deltatune.models.quiet import quiet
from deltatune.quant.stored import format_of, stored_settings

if TYPE_CHECKING:
    from deltatune.recipe.base_sections import QuantizationSpec
from deltatune.tasks.shapes import BatchShape

HEADER_BYTES_A_TENSOR = 110
"""About what a safetensors file says of each tensor, with a long name."""

MOST_EXACT = 4
"""With more micro-batches to a step, two as large as the largest stand for all."""


@dataclass(frozen=True)
class Setup:
    """All that the memory of a step depends on."""

    config: PreTrainedConfig
    """Of the base, for the task's classes."""
    task: str
    method: MethodConfig
    shape: BatchShape
    """The largest micro-batch."""
    micro_batches: int = 1
    """To an optimizer step."""
    exact: tuple[BatchShape, ...] = ()
    """All of them, where they are known; else they are taken to be as large as the largest."""
    dtype: str = "float32"
    quantization: QuantizationSpec | None = None
    offload: bool = False
    """Whether its layers rest elsewhere, all but the one that works."""
    checkpointing: bool = False
    base_dropout: bool = False
    optimizer: str = "adamw"
    """Of the recipe; forms for Nvidia's GPUs count as such only there."""
    max_grad_norm: float | None = 1.0
    attention: str | None = None
    eager_up_to: int = 0
    """As of `AdaptedModel`, on the device that is predicted for."""
    untied: bool = False
    """Whether the checkpoint has output embeddings of its own, whatever the configuration says."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may run."""
    image_size: int | None = None
    """Edge of the images, if it is not the base's own."""
    heads: tuple[str, ...] | None = None
    """Newly initialised modules, if they are known."""
    processor: Any = None
    """Tokenizer, for methods that start from a text."""
    processes: int = 1
    """How many hold the base's layers together; the memory is that of each."""
    device: str = "cpu"
    """The kind of device that is predicted for: `cpu`, `cuda`, `xpu` or `mps`."""

    @property
    def precision(self) -> str:
        """In how many bits the base is kept, by the recipe or as its checkpoint has it."""
        stored = stored_settings(self.config)
        if self.quantization is not None:
            return self.quantization.format
        return self.dtype if stored is None else format_of(stored)

    def changed(self, **fields: Any) -> Setup:
        """The same with other fields."""
        return dataclasses.replace(self, **fields)


@dataclass(frozen=True)
class Prediction:
    """What a step takes, and what is trained."""

    memory: Memory
    trained_parameters: int
    stored_parameters: int
    total_parameters: int
    file_bytes: int
    """Of the saved delta, about."""
    state_bytes: int
    """Of the tensors from which an interrupted run goes on: the delta now and at its best, and moments."""
    has_trunk: bool
    """Whether there are layers below the delta, whose outputs can be kept."""
    flops: int
    """Of an optimizer step."""
    sites: int
    """Parts of the delta."""
    room: Room
    """The positions for its rows."""


def predict(setup: Setup) -> Prediction:
    """Build base and delta without their data, and run the trainer's second step on them.

    The optimizer's state exists from the second step on, so that its peak is that of every later one. Two
    micro-batches of the largest size show what any number needs at most, since gradients stay between them.

    Raises:
        TargetError: The method cannot act on this base.
    """
    with quiet(), warnings.catch_warnings(), fake_mode(), standing_for(setup.device):
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        model = planned_model(setup)
        base = model.base
        with Unread():
            adapter = model.attach("plan", setup.method)
        optimizer = _optimizer(adapter, setup.optimizer if setup.device == "cuda" else "adamw")
        if optimizer is not None:
            adapter.start(1_000_000)
            warm_up(adapter, optimizer)
        if setup.checkpointing and optimizer is not None:
            model.gradient_checkpointing(True)
        shapes = setup.exact if 0 < len(setup.exact) <= MOST_EXACT else ()
        shapes = shapes or (setup.shape,) * min(setup.micro_batches, 2)
        accounts = FakeAccountant(vocabulary(base), shapes[0])
        mark_layers(base, accounts)
        with accounts:
            memory = account_step(
                model,
                adapter,
                optimizer,
                shapes=shapes,
                task=setup.task,
                accounts=accounts,
                max_grad_norm=setup.max_grad_norm,
                autocast=bool(adapter.own) and setup.dtype != "float32",
            )
        if setup.offload:
            memory = memory.less("weights", at_rest(base))
        memory = memory_of_each(memory, base, setup.processes)
        extent, tensors = adapter.extent(), len(adapter.stored())
        return Prediction(
            memory=memory,
            trained_parameters=sum(p.numel() for _, p in adapter.trainable()),
            stored_parameters=extent.numbers,
            total_parameters=quant.parameter_count(base),
            file_bytes=extent.bytes + tensors * HEADER_BYTES_A_TENSOR,
            state_bytes=_state_bytes(adapter, optimizer),
            has_trunk=optimizer is not None and trunk_of(model, "plan") is not None,
            flops=memory.flops * setup.micro_batches // len(shapes),
            sites=len(list(adapter.parts())) or len(adapter.own),
            room=room_of(base, adapter),
        )


def planned_room(setup: Setup) -> Room:
    """The positions for the rows of a setup, whose step is not run.

    Raises:
        TargetError: The method cannot act on this base.
    """
    with quiet(), fake_mode():
        model = planned_model(setup)
        with Unread():
            adapter = model.attach("plan", setup.method)
        return room_of(model.base, adapter)


def planned_model(setup: Setup) -> AdaptedModel:
    """The base of a setup without a delta, on fake tensors; `fake_mode` is in force."""
    base = fake_base(
        setup.config,
        setup.task,
        dtype=setup.dtype,
        quantization=setup.quantization,
        attention=setup.attention,
        image_size=setup.image_size,
        untied=setup.untied,
        trust_remote_code=setup.trust_remote_code,
        device=setup.device,
    )
    heads = new_heads(base, setup.task) if setup.heads is None else setup.heads
    return AdaptedModel(
        base,
        heads,
        processor=setup.processor,
        original=None if setup.quantization is None else lambda path: torch.empty(_shape(base, path)),
        base_dropout=setup.base_dropout,
        eager_up_to=setup.eager_up_to,
    )


Layer = tuple[str, int]


def memory_of_each(memory: Memory, base: Any, processes: int) -> Memory:
    """The memory of each of several processes that hold a base's layers together.

    Where a layer computes it is there as a whole, and twice for a moment: as the message that brought it, and
    in its place. Everything else is as it is for one.
    """
    sizes = [sum(p.nbytes for p in layer.parameters()) for s in stacks(base).values() for layer in s]
    if processes == 1 or not sizes:
        return memory
    away, near = sum(size - -(-size // processes) for size in sizes), 2 * max(sizes)
    segments = {}
    for mark, parts in memory.segments.items():
        computes = isinstance(mark, tuple) and isinstance(mark[0], tuple)  # a layer's, as `mark_layers` names
        gathered = near if computes else 0
        segments[mark] = parts | {
            "weights": parts["weights"] - away, "temporary": parts["temporary"] + gathered,
        }  # fmt: skip
    peak = max(segments.values(), key=lambda parts: sum(parts.values()))
    return Memory(peak, memory.flops, segments)


def mark_layers(base: Any, accounts: FakeAccountant) -> None:
    """Let a new stretch begin wherever a layer begins its forward or its backward pass.

    Layers are named by their stack, and by their number from the stack's nearer end.
    """
    for path, stack in stacks(base).items():
        for index, layer in enumerate(stack):
            name: Layer = (path, index if index < len(stack) / 2 else index - len(stack))
            layer.register_forward_pre_hook(lambda module, args, name=name: accounts.mark(("forward", name)))
            layer.register_forward_hook(lambda module, args, out, name=name: _mark_back(out, accounts, name))


def _mark_back(out: Any, accounts: FakeAccountant, name: Layer) -> None:
    first = out if isinstance(out, Tensor) else out[0]
    if first.requires_grad:
        first.register_hook(lambda grad: accounts.mark(("backward", name)))


def _shape(base: Any, path: str) -> Sequence[int]:
    module = base.get_submodule(path)
    return (module.out_features, module.in_features)


def vocabulary(base: Any) -> int:
    """Width of the logits of a language model; 0 for classifiers."""
    head = base.get_output_embeddings()
    return 0 if head is None else int(head.weight.shape[0])


def _state_bytes(adapter: Adapter, optimizer: torch.optim.Optimizer | None) -> int:
    if optimizer is None:
        return 0
    delta = [*(parameter for _, parameter in adapter.named_parameters()), *_tensors(adapter.resume_state())]
    moments = list(_tensors(list(optimizer.state.values())))
    headers = HEADER_BYTES_A_TENSOR * (2 * len(delta) + len(moments))
    return 2 * sum(t.nbytes for t in delta) + sum(t.nbytes for t in moments) + headers


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _tensors(value)


def _optimizer(adapter: Adapter, name: str) -> torch.optim.Optimizer | None:
    """The trainer's optimizer as far as memory is concerned; None if nothing is trained."""
    parameters = [p for _, p in adapter.trainable()]
    if not parameters:
        return None
    if name == "adamw-8bit":
        return _EightBitState(parameters, {})
    return torch.optim.AdamW(parameters, fused=True)


class _EightBitState(torch.optim.Optimizer):
    """The state that bitsandbytes' AdamW8bit keeps: 8 bits for both moments, a scale for 256 of them.

    Tensors of fewer than 4096 elements keep float32 moments (Dettmers et al. 2022, section 2).
    """

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make the state if it is not there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter not in self.state:
                    self.state[parameter] = {"moments": _moments(parameter)}


def _moments(parameter: Tensor) -> list[Tensor]:
    if parameter.numel() < 4096:
        return [torch.zeros_like(parameter, dtype=torch.float32) for _ in range(2)]
    scales = -(-parameter.numel() // 256)
    return [torch.zeros_like(parameter, dtype=torch.uint8) for _ in range(2)] + [
        torch.zeros(scales) for _ in range(2)
    ]
