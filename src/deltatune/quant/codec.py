"""The codec of a weight: what deltatune must know of a quantization backend, and nothing more."""

from __future__ import annotations

import sys
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltatune.errors import ModelError
from deltatune.quant.layers import Stored, inner_tensors


class WeightCodec(Protocol):
    """One way of keeping the weight of a linear layer.

    A backend's layers are subclasses of `nn.Linear`, with `in_features` and `out_features`; its packed
    parameters look like nothing in particular.
    """

    def owns(self, module: nn.Module) -> bool:
        """Whether `module` keeps its weight this way."""
        ...

    def describe(self, module: Any) -> str:
        """Name of the format, such as `nf4`."""
        ...

    def read(self, module: Any) -> Tensor:
        """The weight [d_out, d_in] that the layer computes with, dequantized to float32."""
        ...

    def scales(self, module: Any) -> list[Tensor]:
        """The tensors that the layer keeps beside its parameters."""
        ...


class BitsAndBytes4:
    """NF4 and FP4 of bitsandbytes (Dettmers et al. 2023, QLoRA, section 3), with or without double scales."""

    def owns(self, module: nn.Module) -> bool:
        """Whether it is a Linear4bit."""
        return isinstance(module, _modules().Linear4bit)

    def describe(self, module: Any) -> str:
        """`nf4` or `fp4`, and whether the scales are quantized as well."""
        state = _state(module)
        return f"{state.quant_type}{' double' if state.nested else ''}"

    def read(self, module: Any) -> Tensor:
        """Dequantize the packed weight.

        Raises:
            ModelError: bitsandbytes has brought it into a form that only its CPU kernel reads.
        """
        state = _state(module)
        if getattr(state, "packing_format_for_cpu", False):
            raise ModelError(
                "bitsandbytes has packed the 4-bit weights anew when the model was first evaluated.",
                remedy="Make the AdaptedModel before the model is evaluated.",
            )
        functional = sys.modules["bitsandbytes"].functional
        weight: Tensor = functional.dequantize_4bit(module.weight.data, state)
        return weight.float()

    def scales(self, module: Any) -> list[Tensor]:
        """A scale for each block (in 8 bits with scales of their own if doubly quantized), and the codes."""
        state = _state(module)
        found = [state.absmax, state.code]
        if state.nested:
            found += [state.offset, state.state2.absmax, state.state2.code]
        return found


def _state(module: Any) -> Any:
    """Scales and format of a Linear4bit, by its weight, or by itself if its weight stands for parts."""
    state = getattr(module.weight, "quant_state", None)
    return module.quant_state if state is None else state


class BitsAndBytes8:
    """LLM.int8() of bitsandbytes (Dettmers et al. 2022): a scale for each row."""

    def owns(self, module: nn.Module) -> bool:
        """Whether it is a Linear8bitLt."""
        return isinstance(module, _modules().Linear8bitLt)

    def describe(self, module: Any) -> str:
        """Always int8."""
        return "int8"

    def read(self, module: Any) -> Tensor:
        """Multiply the integers by their row's scale; the scale moves to `state` once the layer has run."""
        weight = module.weight
        scales = weight.SCB if weight.SCB is not None else module.state.SCB
        values = weight.data if weight.data is not None else module.state.CB
        return values.float() * scales.float().view(-1, 1) / 127

    def scales(self, module: Any) -> list[Tensor]:
        """A scale for each row; after the first forward pass it belongs to the layer's state."""
        weight, state = module.weight, module.state
        return [tensor for tensor in (getattr(weight, "SCB", None), state.SCB) if tensor is not None]


def _modules() -> Any:
    return sys.modules["bitsandbytes"].nn


_STORED = Stored()
_others: list[WeightCodec] = []


def register(codec: WeightCodec) -> None:
    """Let every method work on the layers of another backend, of models that it has quantized itself."""
    _others.append(codec)


def _codecs() -> tuple[WeightCodec, ...]:
    """The codecs that can be in use: a backend that nobody has imported made no layer."""
    ours = (BitsAndBytes4(), BitsAndBytes8()) if "bitsandbytes" in sys.modules else ()
    return (_STORED, *ours, *_others)


def codec_of(module: nn.Module) -> WeightCodec | None:
    """The codec of a layer, or None if its weight is an ordinary one."""
    return next((codec for codec in _codecs() if codec.owns(module)), None)


def read_weight(module: Any) -> Tensor:
    """The weight of a linear layer as [d_out, d_in], whichever way it is kept.

    Args:
        module: Linear, Conv1D (which keeps the transpose) or a quantized layer.

    Returns:
        A view of the weight where it is an ordinary one, else a dequantized copy in float32.
    """
    codec = codec_of(module)
    if codec is not None:
        return codec.read(module)
    weight: Tensor = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight


def undividable(model: nn.Module) -> str | None:
    """The formats of a model's layers that keep numbers by place beside their weight, or None."""
    codecs = [(module, codec_of(module)) for module in model.modules()]
    found = {c.describe(m) for m, c in codecs if c is not None and not isinstance(c, BitsAndBytes4)}
    return ", ".join(sorted(found)) or None


def describe(model: nn.Module) -> str | None:
    """The formats of a model's quantized layers (`nf4 double`), or None if there are none."""
    found = {codec.describe(m) for m in model.modules() if (codec := codec_of(m)) is not None}
    return ", ".join(sorted(found)) or None


def parameter_shape(model: nn.Module) -> dict[str, torch.Size]:
    """Name -> shape of every parameter; what a quantized layer packs stands as the weight that it is for.

    So a quantized base has the names and shapes of the base that it was made from.
    """
    packed = {path: module for path, module in model.named_modules() if codec_of(module) is not None}
    inside = tuple(f"{path}." for path in packed)
    found = {name: p.shape for name, p in model.named_parameters() if not name.startswith(inside)}
    for path, module in packed.items():
        assert isinstance(module, nn.Linear)
        found[f"{path}.weight"] = torch.Size((module.out_features, module.in_features))
        if isinstance(getattr(module, "bias", None), Tensor):
            found[f"{path}.bias"] = module.bias.shape
    return found


def parameter_count(model: nn.Module) -> int:
    """Number of weights of a model, however many bits each has."""
    return sum(shape.numel() for shape in parameter_shape(model).values())


def held(model: nn.Module) -> list[Tensor]:
    """Every tensor that a model keeps: parameters, buffers, and the scales of quantized layers."""
    tensors = (*model.parameters(), *model.buffers())
    found: list[Tensor] = [plain for tensor in tensors for plain in inner_tensors(tensor)]
    for module in model.modules():
        codec = codec_of(module)
        if codec is not None:
            found += codec.scales(module)
    return found


def settle_(model: nn.Module) -> None:
    """Keep bitsandbytes from rewriting the weights.

    On CPUs with AVX512-BF16 it packs a layer anew at its first evaluation, and rounds the scales: the base's
    bytes and outputs would change in the middle of a run. A 4-bit layer also keeps its scales beside its
    weight: what stands for that later, such as a part of it, has none.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  (unknown to nn.Module)
        if isinstance(codec_of(module), BitsAndBytes4):
            setattr(module, "quant_state", _state(module))  # noqa: B010
