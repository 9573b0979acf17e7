"""Options with which Transformers loads a base quantized, and what must be put right afterwards."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deltatune.errors import ModelError, RecipeError
from deltatune.quant.codec import BitsAndBytes4, codec_of

if TYPE_CHECKING:
    from deltatune.recipe.base_sections import QuantizationSpec


def loading_options(
    spec: QuantizationSpec, skip: list[str] | None = None, device: torch.device | None = None
) -> dict[str, Any]:
    """Arguments of `from_pretrained`; each layer is quantized as its weight is read.

    With a GPU as `device` this happens there, by default on the CPU. Embeddings, norms and the output head
    keep the compute type, as in QLoRA (Dettmers et al. 2023).

    Raises:
        RecipeError: The backend is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            "quantized bases need the package bitsandbytes, which is not installed.",
            field="quantization",
            remedy='Install it: pip install "deltatune[quant]".',
        )
    from transformers import BitsAndBytesConfig

    # It says for every layer and call that int8 products cast their input; the recipe asked for them.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    compute = compute_dtype(spec)
    if spec.format == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=spec.format,
            bnb_4bit_use_double_quant=spec.double,
            bnb_4bit_compute_dtype=compute,
            llm_int8_skip_modules=skip,
        )
    options: dict[str, Any] = {"quantization_config": config, "dtype": compute}
    if device is not None and device.type != "cpu":
        options["device_map"] = {"": device}
    return options


def compute_dtype(spec: QuantizationSpec) -> torch.dtype:
    """The type of activations, and of the weights that are not quantized."""
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[spec.compute]


def check_widths(model: nn.Module, name: str) -> None:
    """Refuse 4-bit layers that bitsandbytes computes wrongly.

    Its CPU kernel (0.50) takes blocks of 64 weights to end with their row; in other widths it multiplies with
    the scale of another block, without a word.

    Raises:
        ModelError: Such a layer is on a CPU.
    """
    for path, module in model.named_modules():
        if not isinstance(codec_of(module), BitsAndBytes4):
            continue
        assert isinstance(module, nn.Linear)
        if module.in_features % 64 and module.weight.device.type == "cpu":
            raise ModelError(
                f"{path!r} of '{name}' is {module.in_features} wide; on a CPU, 4 bits need a multiple of 64.",
                field="quantization.format",
                remedy="Use int8, no quantization, or a GPU.",
            )
