"""Quantizing a base that is loaded already, for files that Transformers reads as plain weights (GGUF)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.quantizers_utils import should_convert_module

from deltatune.quant.codec import codec_of, read_weight
from deltatune.quant.planned import blank_layer

if TYPE_CHECKING:
    from deltatune.recipe.base_sections import QuantizationSpec


def layers_to_quantize(model: PreTrainedModel, kept: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers, by path, that Transformers would quantize in a model, all but those at `kept`.

    It leaves those alone as well that it would keep in float32 beside float16 (T5's `wo`).
    """
    skipped = [*kept, *(model._keep_in_fp32_modules or ())]
    return {
        path: module
        for path, module in model.named_modules()
        if type(module) is nn.Linear and should_convert_module(path, skipped)
    }


def quantize_(
    model: PreTrainedModel, kept: Sequence[str], spec: QuantizationSpec, device: torch.device | str = "cpu"
) -> None:
    """Put quantized layers in the places of a model's linear ones, on a device.

    Args:
        model: Loaded in the type that `spec.compute` says, so that the weights are rounded as in any base.
        kept: Paths of the modules that stay as they are.
        spec: The format.
        device: Where to; the rest of the model goes there as well.
    """
    from bitsandbytes import nn as formats

    for path, module in layers_to_quantize(model, kept).items():
        layer: Any = blank_layer(module, spec)
        weight = module.weight.data
        if spec.format == "int8":
            layer.weight = formats.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        else:
            layer.weight = formats.Params4bit(
                weight,
                requires_grad=False,
                quant_type=spec.format,
                compress_statistics=spec.double,
                module=layer,
            )
        layer.bias = module.bias
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.to(device))  # moving is what quantizes
    nn.Module.to(model, device)


def dequantize_(model: nn.Module, dtype: torch.dtype) -> None:
    """Put plain linear layers, with the weights that they compute with, in the places of quantized ones."""
    for path, module in list(model.named_modules()):
        if codec_of(module) is None:
            _hold_itself_(module)
            continue
        assert isinstance(module, nn.Linear)
        weight, bias = read_weight(module).to(dtype), getattr(module, "bias", None)
        plain = nn.Linear(module.in_features, module.out_features, bias=bias is not None, device="meta")
        plain.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        if bias is not None:
            plain.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, plain)


def _hold_itself_(module: Any) -> None:
    """Let a module hold its tensors in dictionaries, as torch's modules do, and compute by its class.

    compressed-tensors gives all modules containers of its own, which bring tensors to a device when they are
    asked for, and forward functions that bring the inputs.
    """
    if isinstance(module._parameters, dict):
        return
    module._parameters, module._buffers = dict(module._parameters), dict(module._buffers)
    vars(module).pop("forward", None)
