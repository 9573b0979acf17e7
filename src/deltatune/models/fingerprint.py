"""A hash that tells whether two models have the same weights."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from deltatune.core.offload import offload_of
from deltatune.core.whole import as_whole, held
from deltatune.quant.layers import inner_tensors

_CHUNK = 1 << 22  # elements hashed at a time, so that a copy to the CPU never holds a whole large tensor


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all parameters and buffers.

    Names are sorted. Tensors that share their storage (tied weights) are hashed once, under the first
    of their names; the others contribute that name. Buffers that are not saved are included too: they
    belong to what the model computes. Of a base that processes hold parts of it is the hash of the whole,
    which all of them have to ask for.
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


COLUMNS = 4093
"""A prime, so that rows of a matrix that change places come to other columns."""


def checksum(model: nn.Module) -> str:
    """Sums over all bytes of a model, computed where they are: whether something has written into it.

    The bytes of a tensor are read as rows of `COLUMNS` 64-bit words, and each column is summed modulo 2^64.
    So a change of any single word is found for certain, and of several unless their changes cancel in each
    column to the bit. It takes an eighth of the time of `fingerprint`, and a GPU milliseconds. It identifies
    nothing: that is for `fingerprint`.
    """
    kept: list[Tensor] = []
    forget = _forgetting(model)
    for _, tensor in _tensors(model):
        raw = as_whole(tensor).contiguous().reshape(-1).view(torch.uint8)
        whole = len(raw) // (8 * COLUMNS) * 8 * COLUMNS
        if whole:
            words = raw[:whole] if raw.storage_offset() % 8 == 0 else raw[:whole].clone()
            kept.append(words.view(torch.int64).view(-1, COLUMNS).sum(0).view(torch.uint8))
        kept.append(raw[whole:].clone())
        forget([tensor])
    together = torch.cat([part.to(kept[-1].device) for part in kept]) if kept else torch.empty(0)
    return hashlib.sha256(together.cpu().numpy().data).hexdigest()


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """All parameters and buffers, tied ones under each of their names, in the order of the names."""
    tensors = itertools.chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    # Detached, since `Module.to` gives a parameter itself other contents. Some backends of quantization have
    # tensors of their own class, which consist of plain ones.
    named = [
        (f"{name} {part}" if part else name, plain)
        for name, tensor in tensors
        for part, plain in enumerate(inner_tensors(tensor.detach()))
    ]
    return sorted(named, key=lambda item: item[0])


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
        # Neither has one that stands for parts: each process knows its own part's.
        part = held(tensor)
        identity = (part.data_ptr(), part.storage_offset(), tensor.shape, tensor.stride())
        twin = first_name.setdefault(identity, name) if part.numel() else name
        if twin != name:
            digest.update(f"= {twin}\0".encode())
            continue
        _update(digest, as_whole(tensor))
        forget([tensor])
    return digest.hexdigest()


def _update(digest: hashlib._Hash, tensor: Tensor) -> None:
    for chunk in tensor.reshape(-1).split(_CHUNK):
        # Bytes, because NumPy knows neither bfloat16 nor the 8-bit floats.
        digest.update(chunk.cpu().contiguous().view(torch.uint8).numpy())
