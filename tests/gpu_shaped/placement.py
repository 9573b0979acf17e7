"""Where the tensors of a pretended GPU are: values lie in CPU memory, every storage bears a logical device.

What a GPU refuses is refused: an operation on tensors of two devices, a NumPy array of a tensor on the GPU.
What makes the host wait for a GPU is counted, with the line of deltatune that asked for it. Kernels are the
CPU's, so nothing is said of speed, of rounding, or of which kernel of several a GPU takes.

- `Storages` tells which storages are on the device, and how many bytes these are now and were at most.
- `Placement` is a dispatch mode: it gives results their device, and refuses what mixes devices.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo  # it makes a table of torch.cuda's functions when it is first imported
import torch.utils._device
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE, HOST = torch.device("cuda", 0), torch.device("cpu")
torch.utils._device._device_constructors()  # it remembers torch.tensor, which is replaced below

_MOVES = frozenset({
    "aten::copy_", "aten::_to_copy", "aten::_copy_from", "aten::_foreach_copy_",
    "aten::_has_compatible_shallow_copy_type",  # asked when a parameter gets data on another device
})  # fmt: skip
_INDEXING = frozenset({
    "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
    "aten::_unsafe_index", "aten::_unsafe_index_put",
})  # fmt: skip
"""Operations whose indices may lie on the host, which a mask makes the host wait for."""
_WAITING = frozenset({
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero",
    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::_linalg_check_errors",
})  # fmt: skip
"""Operations whose results, or their shapes, the host has to know."""
_TAKE_SCALARS = ("aten::where", "aten::fill", "aten::masked_fill", "aten::clamp", "aten::lerp", "aten::pow")
"""Beginnings of the names of operations, beside pointwise ones, that take a number from the host."""

REAL = SimpleNamespace(
    device=Tensor.device,
    to=Tensor.to,
    numpy=Tensor.numpy,
    tolist=Tensor.tolist,
    new_tensor=Tensor.new_tensor,
    generator=torch.Generator,
    autocast=torch.autocast,
    is_autocast_enabled=torch.is_autocast_enabled,
    grouped=torch._C._group_tensors_by_device_and_dtype,
)
MOVING = threading.local()
"""Whether this thread is in `Tensor.to`, which says itself where its result lies."""


class MixedDevices(RuntimeError):
    """An operation on tensors of two devices."""


class Storages:
    """Storages that have a mark, by identity; they lose it when they die."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, int]] = {}
        self.bytes = 0
        self.peak = 0

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._known

    def add(self, tensor: Tensor) -> Tensor:
        """Mark the storage of a tensor."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = (weakref.ref(storage, lambda _: self._forget(key)), size)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        return tensor

    def discard(self, tensor: Tensor) -> Tensor:
        """Take the mark off the storage of a tensor."""
        self._forget(tensor.untyped_storage()._cdata)
        return tensor

    def _forget(self, key: int) -> None:
        _, size = self._known.pop(key, (None, 0))
        self.bytes -= size


@dataclass
class Gpu:
    """The device, and what is known of it."""

    total: int
    """Bytes that it has."""
    taken: int
    """Bytes of them that others have."""
    emulates_bf16: bool
    """Whether it computes in bfloat16 without having instructions for it, as Turing does."""
    device: torch.device = DEVICE
    storages: Storages = field(default_factory=Storages)
    pinned: Storages = field(default_factory=Storages)
    """Storages in memory of the host that the device copies by itself."""
    waits: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    """(what, file and line) -> how often the host waited for the device there."""
    generator: Any = field(default_factory=lambda: torch.Generator().manual_seed(1234))
    """The device's own, of all that draws without a generator."""

    @property
    def waited(self) -> int:
        """How often the host waited."""
        return sum(self.waits.values())

    def holds(self, tensor: Any) -> bool:
        """Whether a tensor is on the device."""
        return is_plain(tensor) and tensor in self.storages

    def note_wait(self, kind: str) -> None:
        """The host waits here."""
        self.waits[kind, _place()] += 1


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor with numbers: neither a fake one, nor on the meta device, nor sparse."""
    return (
        isinstance(value, Tensor)
        and REAL.device.__get__(value).type == "cpu"
        and not hasattr(value, "fake_mode")
        and value.layout == torch.strided
    )


def _place() -> str:
    """The nearest line of deltatune on the stack, and behind it that of a library which it called."""
    frame: Any = sys._getframe(2)
    within = ""
    while frame is not None:
        path = frame.f_code.co_filename
        if "/deltatune/" in path:
            return f"{path.rpartition('/deltatune/')[2]}:{frame.f_lineno}{within}"
        if not within and any(
            f"/{library}/" in path for library in ("transformers", "torch/optim", "nn/utils")
        ):
            within = f" ({'/'.join(path.split('/')[-2:])}:{frame.f_lineno})"
        frame = frame.f_back
    return within or "?"


def _is_asked_by_autograd() -> bool:
    """Whether no Python code stands between the engine of autograd and the operation."""
    frame: Any = sys._getframe(2)
    between = ("torch/_compile.py", "_dynamo/eval_frame.py", "torch/_ops.py", "memory/account.py")
    while frame is not None and frame.f_code.co_filename.endswith((*between, "memory/step.py")):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.endswith("torch/autograd/graph.py")


class Placement(TorchDispatchMode):
    """Gives results their device, refuses operations on tensors of two, and counts waits."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name, gpu = dict(kwargs or {}), func._schema.name, self.gpu
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not all(is_plain(tensor) for tensor in tensors):
            return func(*args, **kwargs)
        held = [tensor for tensor in tensors if tensor in gpu.storages]
        if held and name not in _MOVES:
            self._refuse_others(func, name, args, tensors)
        self._count_waits(name, args, kwargs, bool(held))
        on_device = bool(held)
        if name in _MOVES:
            on_device = args[0] in gpu.storages
        if kwargs.get("device") is not None and name != "aten::new_empty_strided":  # C++ asks, as it sees it
            asked = torch.device(kwargs["device"])
            if asked.type == "meta":
                return func(*args, **kwargs)
            # The engine asks for the host, where it sees all tensors: it means where its inputs are.
            meant = bool(held) or not tensors
            on_device = asked.type == DEVICE.type or (_is_asked_by_autograd() and meant)
        if "device" in kwargs and kwargs["device"] is not None:
            kwargs["device"] = HOST
        asked_pinned = bool(kwargs.get("pin_memory"))
        if asked_pinned:
            kwargs["pin_memory"] = False
        draws = on_device and torch.Tag.nondeterministic_seeded in func.tags
        with self._own_generator() if draws else contextlib.nullcontext():
            result = func(*args, **kwargs)
        if asked_pinned:
            gpu.pinned.add(result)
        known = {tensor.untyped_storage()._cdata for tensor in tensors}
        for leaf in tree_leaves(result):
            if on_device and is_plain(leaf) and leaf.untyped_storage()._cdata not in known:
                gpu.storages.add(leaf)
        return result

    def _refuse_others(self, func: Any, name: str, args: Any, tensors: list[Tensor]) -> None:
        others = [tensor for tensor in tensors if tensor not in self.gpu.storages]
        if name in _INDEXING:
            wrong = [tensor for tensor in others if tensor is args[0]]
        elif torch.Tag.pointwise in func.tags or name.startswith((*_TAKE_SCALARS, "aten::_foreach_")):
            wrong = [tensor for tensor in others if tensor.dim() > 0]
        else:
            wrong = others
        if wrong:
            raise MixedDevices(
                f"{name}: Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! shapes {[tuple(tensor.shape) for tensor in wrong]} on the cpu"
            )

    def _count_waits(self, name: str, args: Any, kwargs: Any, held: bool) -> None:
        gpu = self.gpu
        if name == "aten::copy_" and not getattr(MOVING, "now", False):
            into, source = (tensor in gpu.storages for tensor in args[:2])
            without = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
            if into != source and not (without and (args[0] in gpu.pinned or args[1] in gpu.pinned)):
                gpu.note_wait("copy to the device" if into else "copy to the host")
        if not held:
            return
        if name in _WAITING:
            gpu.note_wait(name.removeprefix("aten::").strip("_"))
        if name in _INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1]):
            gpu.note_wait("index by a mask")
        if name in _INDEXING and any(i is not None and i not in gpu.storages for i in args[1]):
            gpu.note_wait("index from the host")
        if name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
            gpu.note_wait("repeat_interleave")

    @contextlib.contextmanager
    def _own_generator(self) -> Iterator[None]:
        """Within the block torch draws from the device's generator."""
        host = torch.get_rng_state()
        torch.set_rng_state(self.gpu.generator.get_state())
        try:
            yield
        finally:
            self.gpu.generator.set_state(torch.get_rng_state())
            torch.set_rng_state(host)
