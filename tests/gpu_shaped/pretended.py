"""A GPU that is not there, in force for `torch.cuda` and for what Python code asks of tensors.

- `placement.py` has the tensors: which are on the device, what is refused, what makes the host wait.
- `_tensor_methods` and `_cuda_functions` are what Python code asks a tensor and `torch.cuda`.
- `gpu` puts all of it in force.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.gpu_shaped.placement import DEVICE, HOST, MOVING, REAL, Gpu, MixedDevices, Placement, is_plain

__all__ = ["Gpu", "MixedDevices", "gpu"]


def _tensor_methods(gpu: Gpu) -> dict[str, Any]:
    """What a tensor says of its device, and how it moves."""

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not is_plain(self):
            return REAL.to(self, *args, **kwargs)  # type: ignore[no-any-return]
        copy = kwargs.pop("copy", False)
        other = kwargs.pop("other", args[0] if args and isinstance(args[0], Tensor) else None)
        if other is not None:
            args = (other.device, other.dtype)
        device, dtype, without, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        options = {} if memory_format is None else {"memory_format": memory_format}
        if device is not None and device.type not in (HOST.type, DEVICE.type):
            return REAL.to(self, device, dtype or self.dtype, copy=copy, **options)  # type: ignore[no-any-return]
        before = self in gpu.storages
        after = before if device is None else device.type == DEVICE.type
        if before != after and not (without and (before or self in gpu.pinned)):
            gpu.note_wait("copy to the device" if after else "copy to the host")
        MOVING.now = True
        try:
            result = REAL.to(self, HOST, dtype or self.dtype, copy=copy or before != after, **options)
        finally:
            MOVING.now = False
        if result.untyped_storage()._cdata == self.untyped_storage()._cdata:
            return result
        return gpu.storages.add(result) if after else gpu.storages.discard(result)

    def numpy(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if gpu.holds(self) and "/tests/" not in sys._getframe(1).f_code.co_filename:
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to "
                "host memory first."
            )
        return REAL.numpy(self, *args, **kwargs)

    def tolist(self: Tensor) -> Any:
        if gpu.holds(self):
            gpu.note_wait("tolist")
        return REAL.tolist(self)

    def new_tensor(self: Tensor, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        made: Tensor = REAL.new_tensor(self, *args, **kwargs)
        return made.to(self.device if device is None else device)

    def pin_memory(self: Tensor, *_: Any) -> Tensor:
        if gpu.holds(self):
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        return self if self in gpu.pinned else gpu.pinned.add(self.clone())

    return {
        "device": property(lambda self: DEVICE if gpu.holds(self) else REAL.device.__get__(self)),
        "is_cuda": property(gpu.holds),
        "get_device": lambda self: 0 if gpu.holds(self) else -1,
        "is_pinned": lambda self, *_: is_plain(self) and self in gpu.pinned,
        "pin_memory": pin_memory,
        "to": to,
        "cpu": lambda self, *_, **__: self.to(HOST),
        "cuda": lambda self, *_, **__: self.to(DEVICE),
        "numpy": numpy,
        "tolist": tolist,
        "new_tensor": new_tensor,
    }


def _cuda_functions(gpu: Gpu) -> dict[str, Callable[..., Any]]:
    """What `torch.cuda` says and does."""
    about = SimpleNamespace(
        name="Pretended", major=9, minor=0, total_memory=gpu.total, multi_processor_count=132, gcnArchName=""
    )

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def forget_peak(*_: Any) -> None:
        gpu.storages.peak = gpu.storages.bytes

    def has_bf16(including_emulation: bool = True) -> bool:
        return including_emulation or not gpu.emulates_bf16

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": nothing,
        "device": lambda *_: contextlib.nullcontext(),
        "synchronize": lambda *_: gpu.note_wait("synchronize"),
        "_lazy_init": nothing,
        "empty_cache": nothing,
        "get_device_name": lambda *_: about.name,
        "get_device_properties": lambda *_: about,
        "get_device_capability": lambda *_: (9, 0),
        "is_bf16_supported": has_bf16,
        "mem_get_info": lambda *_: (gpu.total - gpu.taken - gpu.storages.bytes, gpu.total),
        "memory_allocated": lambda *_: gpu.storages.bytes,
        "memory_reserved": lambda *_: gpu.storages.bytes,
        "max_memory_allocated": lambda *_: gpu.storages.peak,
        "reset_peak_memory_stats": forget_peak,
        "get_rng_state": lambda *_: gpu.generator.get_state(),
        "set_rng_state": lambda state, *_: gpu.generator.set_state(state),
        "manual_seed": gpu.generator.manual_seed,
        "manual_seed_all": gpu.generator.manual_seed,
    }


def _maker(gpu: Gpu, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor` or `torch.as_tensor`, which no dispatch mode sees."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        result = make(data, *args, **kwargs)
        return result if device is None else result.to(device)

    return made


def _grouped(tensors: Any, with_indices: bool = False) -> Any:
    """What C++ groups by the device that it sees, by the device that is meant."""
    found = REAL.grouped(tensors, with_indices)
    meant = {}
    for (_, dtype), group in found.items():
        first = next(tensor for tensor in group[0][0] if tensor is not None)
        meant[first.device, dtype] = group
    return meant


class _Generator(REAL.generator):  # type: ignore[misc]
    """One of the device, whose numbers are the host's."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return REAL.generator.__new__(REAL.generator, "cpu")


class _Autocast(REAL.autocast):  # type: ignore[misc]
    """Of the device is of the host, where its kernels run."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == DEVICE.type else device_type, *args, **kwargs)


def _is_autocast_enabled(device_type: str | None = None) -> bool:
    on = ("cpu" if device_type == DEVICE.type else device_type,) if device_type else ()
    return bool(REAL.is_autocast_enabled(*on))


def _placed(gpu: Gpu, work: Callable[..., None]) -> Callable[..., None]:
    """What a thread does, with the tensors of a GPU: a dispatch mode holds for one thread."""

    def run(self: threading.Thread) -> None:
        with Placement(gpu):
            work(self)

    return run


@contextlib.contextmanager
def gpu(*, total: int = 80 << 30, taken: int = 0, emulates_bf16: bool = False) -> Iterator[Gpu]:
    """Within the block `torch.cuda` says that there is a GPU, and tensors may be put on it."""
    made = Gpu(total, taken, emulates_bf16)
    with contextlib.ExitStack() as stack:
        for name, function in _cuda_functions(made).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        for name, value in _tensor_methods(made).items():
            stack.callback(_put, name, Tensor.__dict__.get(name))
            setattr(Tensor, name, value)
        for name in ("tensor", "as_tensor"):
            stack.enter_context(mock.patch.object(torch, name, _maker(made, getattr(torch, name))))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(torch, "autocast", _Autocast))
        stack.enter_context(mock.patch.object(torch, "is_autocast_enabled", _is_autocast_enabled))
        stack.enter_context(mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", _grouped))
        stack.enter_context(mock.patch.object(threading.Thread, "run", _placed(made, threading.Thread.run)))
        stack.enter_context(Placement(made))
        yield made


def _put(name: str, value: Any) -> None:
    """Give tensors their attribute back; None: it was inherited."""
    if value is None:
        delattr(Tensor, name)
    else:
        setattr(Tensor, name, value)
