"""Accounting of tensor storages: how many bytes are alive at each moment of a step, and what for.

One dispatch mode serves prediction (fake tensors, which have sizes and no bytes) and measurement (real ones),
so that both count the same. It sees every tensor that an operation returns to Python or autograd; buffers
that live within one kernel are not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

PARTS = ("weights", "delta", "gradients", "optimizer", "activations", "logits", "temporary")
"""What a byte is for. `weights`: the frozen base, in whichever form it is kept; `delta`: what is trained;
`activations`: what the forward pass leaves for the backward pass; `logits`: tensors over the vocabulary, and
their gradients; `temporary`: all that only a moment needs (gradients of activations, recomputed or
dequantized tensors)."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part at the moment when most are in use."""

    parts: dict[str, int]
    flops: int = 0
    """Of matrix products, convolutions and attention in the step."""
    segments: dict[Hashable, dict[str, int]] = field(default_factory=dict)
    """The parts at the highest point of each stretch between two marks, by the mark at its start."""

    @property
    def total(self) -> int:
        """All of them: the peak."""
        return sum(self.parts.values())

    def less(self, part: str, size: int) -> Memory:
        """The same with `size` bytes less of a part, which are never there."""
        segments = {label: {**parts, part: parts[part] - size} for label, parts in self.segments.items()}
        return Memory({**self.parts, part: self.parts[part] - size}, self.flops, segments)

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return {**self.parts, "total": self.total}


class _Storage:
    """A storage that has been seen: its size, and what it is for once that is known."""

    __slots__ = ("alive", "bytes", "part", "ref")

    def __init__(self, n: int, part: str) -> None:
        self.bytes, self.part, self.alive = n, part, True
        self.ref: Any = None


class Accountant(TorchDispatchMode):
    """Within the block, notes when each storage comes into being and when it goes.

    What a storage is for is decided whenever it becomes known: `hold` says so of tensors that stay,
    `forward_done` of all that the forward pass left. `memory` plays the notes back.

    Args:
        vocabulary: Last dimension of the tensors that count as logits; 0 for none.
        resized: Whether storages may be emptied and filled again, as those of gathered layers are.
    """

    def __init__(self, vocabulary: int = 0, *, resized: bool = False) -> None:
        super().__init__()
        self._vocabulary, self._resized = vocabulary, resized
        self._known: dict[int, _Storage] = {}
        self._events: list[tuple[int, _Storage]] = []
        self._marks: list[tuple[int, tuple[Hashable, int]]] = []
        self._handles: list[Any] = []
        self.flops = 0

    def hold(self, tensors: Iterable[Tensor | None], part: str) -> None:
        """Count the storages of `tensors` to `part`, whether they have been seen before or not."""
        for tensor in tensors:
            if tensor is not None:
                self._note(tensor, part).part = part

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Count nothing for the storages of `tensors`, unless they are held."""
        for tensor in tensors:
            self._note(tensor, "weights", counted=False)

    def watch(self, parameters: Iterable[nn.Parameter]) -> None:
        """Count what is accumulated in `.grad` to the gradients; `close` ends it."""
        for parameter in parameters:
            handle = parameter.register_post_accumulate_grad_hook(lambda p: self.hold([p.grad], "gradients"))
            self._handles.append(handle)

    def close(self) -> None:
        """Take the hooks of `watch` off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def forward_done(self) -> None:
        """All that is alive and not held was left by the forward pass for the backward pass."""
        for storage in list(self._known.values()):  # some may go meanwhile
            if storage.part == "temporary" and storage.bytes:
                storage.part = "activations"

    def mark(self, label: Hashable) -> None:
        """A new stretch begins; of a label that comes again, each time counts as another."""
        again = sum(1 for _, (known, _) in self._marks if known == label)
        self._marks.append((len(self._events), (label, again)))

    def memory(self) -> Memory:
        """The parts at the peak so far."""
        now, total = dict.fromkeys(PARTS, 0), 0
        segments: dict[Hashable, dict[str, int]] = {}
        starts = [0, *(place for place, _ in self._marks)]
        ends = [*starts[1:], len(self._events)]
        for label, start, end in zip(["start", *(m for _, m in self._marks)], starts, ends, strict=True):
            highest, best = total, dict(now)
            for change, storage in self._events[start:end]:
                now[storage.part] += change
                total += change
                if total > highest:
                    highest, best = total, dict(now)
            segments[label] = best
        peak = max(segments.values(), key=lambda parts: sum(parts.values()))
        return Memory(peak, self.flops, segments)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and look at what it returns."""
        kwargs = kwargs or {}
        if self._resized:
            self._weigh_again()
        out = self.call(func, args, kwargs)
        if func is torch.ops.prim.device.default:  # asked of fake tensors all the time
            return out
        self.flops += _flops(func._overloadpacket, args, kwargs, out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                logits = leaf.dim() > 1 and leaf.shape[-1] == self._vocabulary
                self._note(leaf, "logits" if logits else "temporary")
        return out

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute the operation; what prediction overrides for results that depend on data."""
        return func(*args, **kwargs)

    def _weigh_again(self) -> None:
        """Note which storages have another size by now: no operation tells."""
        for storage in list(self._known.values()):
            if (ref := storage.ref) is None:  # it went meanwhile, and that is noted
                continue
            now = 0 if (there := ref()) is None else there.nbytes()
            if now != storage.bytes:
                self._events.append((now - storage.bytes, storage))
                storage.bytes = now

    def _note(self, tensor: Tensor, part: str, *, counted: bool = True) -> _Storage:
        storage = tensor.untyped_storage()
        key = storage._cdata
        known = self._known.get(key)
        if known is None:
            known = _Storage(storage.nbytes() if counted else 0, part)
            known.ref = weakref.ref(storage, lambda _: self._forget(key))
            self._known[key] = known
            self._events.append((known.bytes, known))
        return known

    def _forget(self, key: int) -> None:
        gone = self._known.pop(key)
        self._events.append((-gone.bytes, gone))
        gone.ref, gone.bytes = None, 0


_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _flops(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Floating-point operations of one call; torch's table lacks the CPU's attention."""
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out))
    if str(packet) == "bitsandbytes.gemm_4bit":
        return 2 * int(args[0].numel()) * int(args[2][0])
    if str(packet) == "bitsandbytes.int8_scaled_mm":
        return 2 * int(args[0].numel()) * int(args[1].shape[0])
    if packet is _CPU_ATTENTION:
        return int(sdpa_flop_count(args[0].shape, args[1].shape, args[2].shape))
    if packet is _CPU_ATTENTION_BACKWARD:
        return int(sdpa_backward_flop_count(args[0].shape, args[1].shape, args[2].shape, args[3].shape))
    return 0
