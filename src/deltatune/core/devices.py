"""The device that a model is on: which one, what it has, its generators, and how batches come to it.

Everything else asks here, so that a GPU of another make is added in one place. Nothing here makes a GPU be
initialised that is not used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from deltatune.errors import RecipeError, TrainingError
from deltatune.launched import place_on_machine, processes

AUTO = "auto"
KINDS = ("cuda", "xpu", "mps")
"""GPUs in the order in which `auto` looks for them: Nvidia's and AMD's, Intel's, Apple's."""
HOST = torch.device("cpu")
KEPT_PRODUCTS = 256
"""Of so many shapes at most a CPU's library keeps the machine code of products that it made for them.

oneDNN makes code for each shape, and torch and oneDNN keep that of 1,024: half a megabyte each. Batches have
many shapes, so a process of many runs, or a server, would grow by a gigabyte. A run needs 120 to 250 of them
(small bases, rows of up to 24 tokens); what is made anew takes half a millisecond.
"""
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # both are read at the first product
    os.environ.setdefault(_name, str(KEPT_PRODUCTS))


def device_of(asked: str = AUTO, *, field: str = "device") -> torch.device:
    """The device by its name in a recipe or a flag: `auto`, `cpu`, `mps`, `cuda`, `cuda:1`, `xpu`, ...

    Args:
        asked: The name. `auto`: the first GPU that there is, else the CPU. Of several processes that were
            launched together each takes a GPU of its own.
        field: Where it was said, for the message.

    Raises:
        RecipeError: There is no such device.
    """
    if asked == AUTO:
        kind = next((kind for kind in KINDS if _count(kind)), HOST.type)
        if kind == HOST.type or processes() == 1:
            return torch.device(kind)
        return device_of(f"{kind}:{place_on_machine()}", field=field)
    device = torch.device(asked)
    if device.type != HOST.type and (device.index or 0) >= _count(device.type):
        there = [kind if n == 1 else f"{kind}:0 to {kind}:{n - 1}" for kind in KINDS if (n := _count(kind))]
        raise RecipeError(
            f"there is no {asked}; this machine has {', '.join(['cpu', *there])}.",
            field=field,
            remedy="Name one of these, or auto.",
        )
    return device


def _count(kind: str) -> int:
    """How many devices of a kind there are."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module: Any = getattr(torch, kind)
    return int(module.device_count()) if module.is_available() else 0


def on_gpu(device: torch.device) -> bool:
    """Whether it works beside the processor, which waits for it only where it asks for numbers."""
    return device.type != HOST.type


def name_of(device: torch.device) -> str:
    """What it is called, for people: `cpu`, or the GPU's name."""
    if device.type in ("cuda", "xpu"):
        return str(_module(device).get_device_name(device))
    return device.type


def computes_bfloat16(device: torch.device) -> bool:
    """Whether it has instructions for products of bfloat16.

    Older GPUs (V100, T4) and processors emulate them, slower than float32; Apple's are not known to gain.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "xpu":
        return bool(torch.xpu.is_bf16_supported())
    if device.type == "mps":
        return False
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.10
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def memory_left(device: torch.device) -> int:
    """Bytes of a GPU that tensors of this process may take in all, those included that they have."""
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    module = _module(device)
    free, _ = module.mem_get_info(device)
    return int(free) + int(module.memory_reserved(device))


def peak_memory(device: torch.device) -> int | None:
    """Most bytes of tensors since `forget_peak`; None where nobody counts them."""
    return int(_module(device).max_memory_allocated(device)) if device.type in ("cuda", "xpu") else None


def forget_peak(device: torch.device) -> None:
    """Begin to count anew."""
    if device.type in ("cuda", "xpu"):
        _module(device).reset_peak_memory_stats(device)


def release_memory(device: torch.device) -> None:
    """Give back what the allocator keeps of tensors that are gone."""
    if on_gpu(device):
        _module(device).empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait until all that was asked of it is done."""
    if on_gpu(device):
        _module(device).synchronize()


def _module(device: torch.device) -> Any:
    return getattr(torch, device.type)


def random_states() -> dict[str, Tensor]:
    """Of torch's global generators: the host's, and that of each kind of GPU's current device."""
    kinds = [kind for kind in KINDS if _count(kind)]
    return {HOST.type: torch.get_rng_state()} | {kind: getattr(torch, kind).get_rng_state() for kind in kinds}


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Take what `random_states` gave, here or on a machine that lacks one of the devices."""
    torch.set_rng_state(states[HOST.type])
    for kind in KINDS:
        if kind in states and _count(kind):
            getattr(torch, kind).set_rng_state(states[kind])


@contextlib.contextmanager
def own_random_states() -> Iterator[None]:
    """Within the block, whatever is drawn or seeded leaves torch's global generators as they were.

    `torch.manual_seed` seeds those of all devices, so all are kept.
    """
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


class OnDevice(dict[str, Tensor]):
    """A batch on a GPU, and what the host knows of it."""

    mask: Tensor | None = None
    """The host's copy of its `attention_mask` [rows, length], or [rows, texts, length]; None without one."""


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A collated batch on `device`, but for its `labels`, which stay on the host.

    What is decided by labels (where logits are looked at, how many targets there are) is decided on the host,
    which would have to wait for a GPU to learn it. The host keeps a copy of the mask, too.
    """
    sent = OnDevice(
        {name: tensor if name == "labels" else send(tensor, device) for name, tensor in batch.items()}
    )
    mask = batch.get("attention_mask")
    if on_gpu(device) and mask is not None and mask.device.type == HOST.type:
        sent.mask = mask
    elif isinstance(batch, OnDevice):
        sent.mask = batch.mask
    return sent


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`; the host does not wait for the copy.

    Only from memory that is pinned can a GPU copy by itself.
    """
    if device.type not in ("cuda", "xpu") or tensor.device.type != HOST.type:
        return tensor.to(device)
    return pinned(tensor).to(device, non_blocking=True)


def pinned(tensor: Tensor) -> Tensor:
    """The same in memory that a GPU copies from by itself."""
    return tensor if tensor.is_pinned() else tensor.pin_memory()


def ran_out(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory is full; Apple's says it in words alone."""
    return isinstance(error, torch.OutOfMemoryError) or str(error).startswith("MPS backend out of memory")


@contextlib.contextmanager
def out_of_memory(doing: str, remedy: str, field: str) -> Iterator[None]:
    """Within the block, running out of a GPU's memory is an error that says what to change.

    Args:
        doing: What does not fit, such as `evaluating 32 rows at once`.
        remedy: What to do.
        field: The setting that it depends on most.

    Raises:
        TrainingError: The memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not ran_out(error):
            raise
        reason = str(error).partition(". ")[0]
        raise TrainingError(
            f"{doing} does not fit into the GPU's memory ({reason}).", field=field, remedy=remedy
        ) from error
