"""Bases whose checkpoints are quantized already, by whatever their configuration names."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from deltatune.errors import ModelError
from deltatune.quant.codec import codec_of
from deltatune.quant.layers import StoredAs, StoredLinear, gradient_fault, inner_tensors

PACKAGES: dict[str, dict[str, str]] = {
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "gptq": {"gptqmodel": "gptqmodel", "optimum": "optimum"},
    "awq": {"gptqmodel": "gptqmodel"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "torchao": {"torchao": "torchao"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum.quanto": "optimum-quanto"},
    "fbgemm_fp8": {"fbgemm_gpu": "fbgemm-gpu-genai"},
    "aqlm": {"aqlm": "aqlm"},
    "vptq": {"vptq": "vptq"},
    "eetq": {"kernels": "kernels"},
    "auto-round": {"auto_round": "auto-round"},
    "quark": {"quark": "amd-quark"},
}
"""Method of quantization -> modules that Transformers needs to load it, and the names they install by."""

SKIPPED = {
    "bitsandbytes": "llm_int8_skip_modules",
    "compressed-tensors": "ignore",
    "hqq": "skip_modules",
    "awq": "modules_to_not_convert",
    "torchao": "modules_to_not_convert",
    "quanto": "modules_to_not_convert",
    "fp8": "modules_to_not_convert",
    "fbgemm_fp8": "modules_to_not_convert",
}
"""Method -> the list in its configuration of modules that stay as they are."""
DEQUANTIZE = "Set model: {name: ..., dequantize: true}: its weights are read, and kept in 16 or 32 bits."


def stored_settings(config: PreTrainedConfig) -> dict[str, Any] | None:
    """What a checkpoint's configuration says of how its weights are quantized; None if they are plain."""
    for held in (config, config.get_text_config(decoder=True)):
        found = getattr(held, "quantization_config", None)
        if found is not None:
            return dict(found if isinstance(found, dict) else found.to_dict())
    return None


def method_of(settings: dict[str, Any]) -> str:
    """Name of the method of quantization, as Transformers has it."""
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    found = settings.get("quant_method")
    return str(getattr(found, "value", found))


def format_of(settings: dict[str, Any]) -> str:
    """Method and bits, for people: `gptq 4 bit`."""
    method = method_of(settings)
    bits = settings.get("bits") or settings.get("w_bit")
    kind = settings.get("format") if method == "compressed-tensors" else settings.get("weights")
    if method == "torchao":
        kind = _type_name(settings.get("quant_type"))
    detail = f" {bits} bit" if bits else f" {kind}" if isinstance(kind, str) else ""
    return f"{method}{detail}"


def _type_name(quant_type: Any) -> str | None:
    """Name of torchao's configuration, which is nested in ones that say where it holds."""
    if isinstance(quant_type, dict):
        found = quant_type.get("_type")
        return found if isinstance(found, str) else _type_name(next(iter(quant_type.values()), None))
    return None if quant_type is None else type(quant_type).__name__


def bits_of(settings: dict[str, Any], device: str) -> float | None:
    """Bits of a weight in memory, with its share of the scales; None where weights are unpacked.

    What is not known here counts as unpacked, so that a prediction is rather too high.
    """
    method = method_of(settings)
    if method == "bitsandbytes":
        if not settings.get("load_in_4bit"):
            return 8.0
        return 4.0 + (8 / 64 + 32 / 64 / 256 if settings.get("bnb_4bit_use_double_quant") else 32 / 64)
    if method in ("gptq", "awq"):
        bits, group = (
            int(settings.get("bits") or settings.get("w_bit") or 4),
            int(settings.get("group_size", 128)),
        )
        return bits + ((16 + bits) / group if group > 0 else 0.0)
    if method == "torchao":
        name = _type_name(settings.get("quant_type")) or ""
        return 4.25 if "4" in name.partition("Weight")[0][-1:] else 8.0
    if method in ("fp8", "fbgemm_fp8"):
        return None if device == "cpu" else 8.0
    return {"int8": 8.0, "float8": 8.0, "int4": 4.25, "int2": 2.25}.get(str(settings.get("weights")))


def plain_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration without what it says of how weights are quantized."""
    found = copy.deepcopy(config)
    for held in (found, found.get_text_config(decoder=True)):
        if hasattr(held, "quantization_config"):
            del held.quantization_config
    return found


def require_packages(settings: dict[str, Any], name: str) -> None:
    """Name what is missing, before any weight is read or downloaded.

    Raises:
        ModelError: A package is not installed.
    """
    method = method_of(settings)
    missing = [pip for module, pip in PACKAGES.get(method, {}).items() if not _is_there(module)]
    if missing:
        raise ModelError(
            f"the weights of '{name}' are quantized ({format_of(settings)}), and packages that Transformers "
            f"needs for them are not installed: {', '.join(missing)}.",
            field="model",
            remedy=f"Install them: pip install {' '.join(missing)}",
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in is missing
        return False


def prepare(config: PreTrainedConfig, kept: list[str]) -> None:
    """Say in a checkpoint's configuration what training on it needs; it is read when weights are loaded.

    Kernels shall have gradients. The modules at `kept`, which a checkpoint for another task lacks, shall stay
    as they are.
    """
    for held in (config, config.get_text_config(decoder=True)):
        settings = getattr(held, "quantization_config", None)
        if not isinstance(settings, dict):
            continue
        method = method_of(settings)
        if method in ("gptq", "awq"):
            settings["backend"] = "auto_trainable"
        if (key := SKIPPED.get(method)) is not None:
            settings[key] = sorted({*(settings.get(key) or ()), *kept})


def wake_(model: nn.Module, compute: torch.dtype) -> None:
    """Let quantized layers compute in one type, with the kernels that they train with."""
    for module in model.modules():
        if codec_of(module) is not None and hasattr(module, "compute_dtype"):
            setattr(module, "compute_dtype", compute)  # noqa: B010  (unknown to nn.Module)
        if codec_of(module) is None and _is_foreign(module):
            module.train()


def mark_stored_(model: nn.Module, kept: list[str], format: str, compute: torch.dtype) -> None:
    """Mark quantized layers that no codec knows, but those at `kept`; what is no `nn.Linear` looks like one.

    A layer is a plain one if it is torch's own, with a weight of numbers and nothing put in the way of it.
    """
    for path, module in list(model.named_modules()):
        if codec_of(module) is not None or path in kept or not _is_foreign(module):
            continue
        layer = module if isinstance(module, nn.Linear) else StoredLinear(module)
        setattr(layer, "stored_as", StoredAs(format, compute))  # noqa: B010  (unknown to nn.Module)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)


def _is_foreign(module: Any) -> bool:
    if not (hasattr(module, "in_features") and hasattr(module, "out_features")):
        return False
    weight: Any = getattr(module, "weight", None)
    plain = isinstance(weight, torch.Tensor) and weight.dtype.is_floating_point and weight.element_size() > 1
    others = {name for name, _ in module.named_parameters()} - {"weight", "bias"}
    as_made = type(module) is nn.Linear and "forward" not in vars(module)
    return not (as_made and plain and not others and len(inner_tensors(weight)) == 1)


def require_gradients(model: nn.Module, name: str, compute: torch.dtype) -> None:
    """Refuse a base whose layers give no gradients for their inputs, or wrong ones.

    One layer of each class and size is tried.

    Raises:
        ModelError: There is one.
    """
    tried: set[tuple[object, ...]] = set()
    for path, layer in model.named_modules():
        codec = codec_of(layer)
        if codec is None:
            continue
        assert isinstance(layer, nn.Linear)
        key = (type(getattr(layer, "inner", layer)), layer.in_features, layer.out_features)
        if key in tried:
            continue
        tried.add(key)
        fault = gradient_fault(layer, compute)
        if fault is not None:
            raise ModelError(
                f"{path!r} of '{name}' is quantized ({codec.describe(layer)}) and {fault}. What is trained "
                "below it would learn nothing, or the wrong thing.",
                field="model",
                remedy=DEQUANTIZE,
            )


def notices(model: nn.Module, name: str, settings: dict[str, Any], kept: list[str]) -> list[str]:
    """What a person should know of a base that came quantized: what of it is not, or not any more."""
    format, layers, plain = format_of(settings), list[tuple[str, nn.Linear]](), list[str]()
    for path, module in model.named_modules():
        if codec_of(module) is not None:
            assert isinstance(module, nn.Linear)
            layers.append((path, module))
        elif type(module) is nn.Linear and path not in kept:
            plain.append(path)
    if not layers:
        return [
            f"'{name}' is stored quantized ({format}), and Transformers dequantizes it on this machine: it "
            "takes the memory of plain weights."
        ]
    found = []
    if plain:
        found.append(
            f"{len(plain)} of {len(plain) + len(layers)} linear layers of '{name}' are not quantized "
            f"({format}): {', '.join(plain[:3])}{', ...' if len(plain) > 3 else ''}."
        )
    expanded = [path for path, layer in layers if _bytes(layer) >= 2 * layer.in_features * layer.out_features]
    if expanded:
        found.append(
            f"{len(expanded)} layers of '{name}' ({format}) are unpacked when it is loaded: they take 16 "
            "bits or more per weight in memory."
        )
    return found


def _bytes(layer: nn.Module) -> int:
    tensors = [*layer.parameters(), *layer.buffers()]
    return sum(plain.nbytes for tensor in tensors for plain in inner_tensors(tensor))
