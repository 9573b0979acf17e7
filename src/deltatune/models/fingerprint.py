"""A hash that tells whether two models have the same weights."""

from __future__ import annotations

import hashlib
import itertools

import torch
from torch import Tensor, nn

_CHUNK = 1 << 22  # elements hashed at a time, so that a copy to the CPU never holds a whole large tensor


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all parameters and buffers.

    Names are sorted. Tensors that share their storage (tied weights) are hashed once, under the first
    of their names; the others contribute that name. Buffers that are not saved are included too: they
    belong to what the model computes.
    """
    digest = hashlib.sha256()
    first_name: dict[tuple[object, ...], str] = {}
    tensors = itertools.chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        # An empty tensor has no address of its own, so that only tensors with elements can be tied.
        identity = (tensor.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        twin = first_name.setdefault(identity, name) if tensor.numel() else name
        if twin != name:
            digest.update(f"= {twin}\0".encode())
            continue
        _update(digest, tensor.detach())
    return digest.hexdigest()


def _update(digest: hashlib._Hash, tensor: Tensor) -> None:
    for chunk in tensor.reshape(-1).split(_CHUNK):
        # Bytes, because NumPy knows neither bfloat16 nor the 8-bit floats.
        digest.update(chunk.cpu().contiguous().view(torch.uint8).numpy())
