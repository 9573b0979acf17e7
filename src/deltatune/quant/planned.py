"""Quantized layers of the right size without weights, for predicting memory before anything is loaded.

bitsandbytes quantizes weights as they are read. Here its layers get packed tensors of the sizes that this
comes to; under fake tensors its own forward and backward passes then run on them.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deltatune.quant.loading import compute_dtype

if TYPE_CHECKING:
    from deltatune.recipe.base_sections import QuantizationSpec

BLOCK, NESTED_BLOCK, CODES, NESTED_CODES = 64, 256, 16, 256
"""Weights to a scale, scales to a scale of their own, and entries of the tables of both (bitsandbytes)."""


def quantized_bytes(d_in: int, d_out: int, spec: QuantizationSpec) -> int:
    """Bytes of a quantized weight with its scales.

    4 bits: half a byte a weight and for each 64 of them a scale, of 4 bytes or, doubly quantized, of 1 byte
    and 4 more for each 256 scales (Dettmers et al. 2023, section 3). int8: a byte a weight, 4 a row.
    """
    if spec.format == "int8":
        return d_in * d_out + 4 * d_out
    packed, scales = math.ceil(d_in * d_out / 2), math.ceil(d_in * d_out / BLOCK)
    if not spec.double:
        return packed + 4 * scales + 4 * CODES
    nested = 4 * math.ceil(scales / NESTED_BLOCK) + 4 * NESTED_CODES + 4
    return packed + scales + nested + 4 * CODES


class _Unpacking(torch.autograd.Function):
    """A product with a weight that is unpacked for it, and once more for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, d_out: int) -> Tensor:
        """X [..., d_in] -> [..., d_out]."""
        ctx.d_in = x.shape[-1]
        return x @ x.new_empty(d_out, x.shape[-1]).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Nothing is kept for it."""
        [grad] = grads
        return grad @ grad.new_empty(grad.shape[-1], ctx.d_in), None


class PackedLayer(nn.Module):
    """A layer of any backend, as far as memory goes: so many bits of a weight, unpacked when it is used."""

    def __init__(self, plain: nn.Linear, bits: float) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        size = math.ceil(plain.in_features * plain.out_features * bits / 8)
        self.packed = nn.Parameter(torch.empty(size, dtype=torch.uint8), requires_grad=False)
        self.bias = plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """X [..., d_in] -> [..., d_out], without numbers."""
        y: Tensor = _Unpacking.apply(x, self.out_features)
        return y if self.bias is None else y + self.bias


def blank_layer(module: nn.Linear, spec: QuantizationSpec) -> Any:
    """The quantized layer that takes the place of `module`, on the meta device; `fill_` gives it tensors."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # its advice on kernels is of no use here
    from bitsandbytes import nn as layers

    sizes = (module.in_features, module.out_features, module.bias is not None)
    if spec.format == "int8":
        # 6.0 is Transformers' default: columns of activations with larger values are multiplied apart
        return layers.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0, device="meta")
    return layers.Linear4bit(
        *sizes,
        compute_dtype=compute_dtype(spec),
        compress_statistics=spec.double,
        quant_type=spec.format,
        device="meta",
    )


def fill_(layer: Any, bias: nn.Parameter | None, spec: QuantizationSpec) -> None:
    """Give a blank layer tensors of the sizes that quantization comes to, made by the mode in force."""
    d_in, d_out = layer.in_features, layer.out_features
    layer.bias = bias
    if spec.format == "int8":
        layer.weight = nn.Parameter(torch.empty(d_out, d_in, dtype=torch.int8), requires_grad=False)
        layer.weight.CB = layer.weight.SCB = None  # where they are before the first forward pass
        layer.state.CB, layer.state.SCB = layer.weight.data, torch.empty(d_out)
        return
    packed = torch.empty(math.ceil(d_in * d_out / 2), 1, dtype=torch.uint8)
    layer.weight = nn.Parameter(packed, requires_grad=False)
    layer.weight.quant_state = _state(d_in, d_out, spec)


def _state(d_in: int, d_out: int, spec: QuantizationSpec) -> Any:
    from bitsandbytes.functional import QuantState

    blocks = math.ceil(d_in * d_out / BLOCK)
    state = QuantState(
        absmax=torch.empty(blocks),
        shape=torch.Size((d_out, d_in)),
        code=torch.empty(CODES),
        blocksize=BLOCK,
        quant_type=spec.format,
        dtype=compute_dtype(spec),
    )
    if spec.double:
        state.absmax = torch.empty(blocks, dtype=torch.uint8)
        state.offset = torch.empty(())
        state.state2 = QuantState(
            absmax=torch.empty(math.ceil(blocks / NESTED_BLOCK)),
            code=torch.empty(NESTED_CODES),
            blocksize=NESTED_BLOCK,
            dtype=torch.float32,
        )
        state.nested = True
    return state
