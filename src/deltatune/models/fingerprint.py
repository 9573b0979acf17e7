"""A hash that tells whether two models have the same weights."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from deltatune.core.offload import offload_of

_CHUNK = 1 << 22  # elements hashed at a time, so that a copy to the CPU never holds a whole large tensor


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all parameters and buffers.

    Names are sorted. Tensors that share their storage (tied weights) are hashed once, under the first
    of their names; the others contribute that name. Buffers that are not saved are included too: they
    belong to what the model computes.
    """
    return _digest(_tensors(model), _forgetting(model))


def fingerprint_beside(model: nn.Module) -> Future[str]:
    """Like `fingerprint`, in a thread: hashing leaves the interpreter to others.

    What is hashed is what the model holds now. Its tensors may be moved or replaced meanwhile, but their
    numbers must not be altered in place.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="fingerprint")
    found = pool.submit(_digest, _tensors(model), _forgetting(model))
    pool.shutdown(wait=False)
    return found


def checksum(model: nn.Module) -> str:
    """A sum over all numbers of a model, by their bits and places, computed where they are.

    It tells whether something has written into the weights, and it takes a GPU milliseconds, where copying a
    base of 7 billion parameters and hashing it takes many seconds. It identifies nothing: that is for
    `fingerprint`.
    """
    sums = []
    for _, tensor in _tensors(model):
        flat = tensor.reshape(-1)
        bits = flat.view(_BITS[flat.element_size()]) if flat.is_floating_point() else flat
        for at, chunk in enumerate(bits.split(_CHUNK)):
            # Odd factors, so that no change of a single number is lost modulo 2^64.
            factors = torch.arange(len(chunk), device=chunk.device) * 2 + 2 * at + 1
            sums.append((chunk.to(torch.int64) * factors).sum())
    digest = hashlib.sha256()
    for total in torch.stack(sums).tolist() if sums else []:
        digest.update(total.to_bytes(8, "big", signed=True))
    return digest.hexdigest()


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """All parameters and buffers, tied ones under each of their names, in the order of the names."""
    tensors = itertools.chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    # Detached, since `Module.to` gives a parameter itself other contents.
    return sorted(((name, tensor.detach()) for name, tensor in tensors), key=lambda item: item[0])


def _forgetting(model: nn.Module) -> Callable[[Sequence[Tensor]], None]:
    """What is done with weights that have been read, so that those in files are not all in memory."""
    offload = offload_of(model)
    return offload.forget if offload is not None else lambda tensors: None


def _digest(tensors: list[tuple[str, Tensor]], forget: Callable[[Sequence[Tensor]], None]) -> str:
    digest = hashlib.sha256()
    first_name: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors:
        digest.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        # An empty tensor has no address of its own, so that only tensors with elements can be tied.
        identity = (tensor.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        twin = first_name.setdefault(identity, name) if tensor.numel() else name
        if twin != name:
            digest.update(f"= {twin}\0".encode())
            continue
        _update(digest, tensor)
        forget([tensor])
    return digest.hexdigest()


def _update(digest: hashlib._Hash, tensor: Tensor) -> None:
    for chunk in tensor.reshape(-1).split(_CHUNK):
        # Bytes, because NumPy knows neither bfloat16 nor the 8-bit floats.
        digest.update(chunk.cpu().contiguous().view(torch.uint8).numpy())
