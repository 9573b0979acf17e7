"""The weights of a base: plain, quantized while they are read, or quantized in the checkpoint."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from deltatune.errors import ModelError
from deltatune.models.mapped import all_from_files
from deltatune.models.pooling import take_off_pooler
from deltatune.models.quiet import unheard
from deltatune.models.source import Source
from deltatune.models.tasks import model_class
from deltatune.quant import settle_
from deltatune.quant.inplace import dequantize_, quantize_
from deltatune.quant.loading import loading_options
from deltatune.quant.stored import (
    format_of,
    mark_stored_,
    notices,
    prepare,
    require_gradients,
    require_packages,
    stored_settings,
    wake_,
)
from deltatune.tasks import TASKS

if TYPE_CHECKING:
    from deltatune.recipe.base_sections import QuantizationSpec

# Parts of the backbone that only a head uses; checkpoints of language models lack them.
POOLER = re.compile(r"(^|\.)pooler\.")


def load_weights(  # noqa: PLR0917
    source: Source,
    task: str,
    config: PreTrainedConfig,
    options: dict[str, Any],
    quantization: QuantizationSpec | None,
    device: torch.device,
    *,
    dequantize: bool,
    from_files: bool,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a model in whichever way its weights are to be kept, with what there is to tell of the loading.

    Args:
        source: The checkpoint.
        task: A task by its name.
        config: Of the model.
        options: Further arguments of `from_pretrained`, with the type of plain weights.
        quantization: How the recipe has plain weights quantized.
        device: Where quantized weights go.
        dequantize: Whether weights that are quantized in the checkpoint are unpacked.
        from_files: Whether plain weights stay in their files, as far as they can.

    Raises:
        ModelError: It cannot be loaded, or the checkpoint and the recipe both say how to quantize.
    """
    stored = stored_settings(config)
    if stored is not None and quantization is not None:
        raise ModelError(
            f"'{source.name}' comes quantized ({format_of(stored)}), and is not quantized again.",
            field="quantization",
            remedy="Leave `quantization` out, or name a checkpoint with plain weights.",
        )
    if stored is not None:
        return load_stored(source, task, config, options, stored, device, dequantize=dequantize)
    if quantization is not None:
        model, info = load_quantized(source, task, config, options, quantization, device)
    else:
        load = load_from_files if from_files else load_plain
        model, info = load(source, task, config, options)
    if "gguf_file" in source.options:
        forget_marks(model)
    return model, info


def load_plain(
    source: Source, task: str, config: PreTrainedConfig, options: dict[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a model with what Transformers tells of the loading."""
    if "gguf_file" not in source.options:
        options = options | {"use_safetensors": True}
    loaded: tuple[PreTrainedModel, dict[str, Any]] = model_class(task).from_pretrained(
        source.path,
        config=config,
        ignore_mismatched_sizes=True,  # `_new_modules` tells a head for other classes from a wrong size
        output_loading_info=True,
        **options,
        **source.options,
    )
    if TASKS.get(task).embeds:
        take_off_pooler(loaded[0])
        loaded[1]["missing_keys"] = {key for key in loaded[1]["missing_keys"] if not POOLER.search(key)}
    return loaded


def load_from_files(
    source: Source, task: str, config: PreTrainedConfig, options: dict[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """As `load_plain`, but weights of files in bfloat16 stay in the files until `MappedWeights` widens them.

    Not where something is made at loading, a new head or a buffer: its numbers depend on the type.
    """
    dtype, state = options["dtype"], torch.get_rng_state()
    if dtype != torch.float32 or "gguf_file" in source.options:
        return load_plain(source, task, config, options)
    model, info = load_plain(source, task, config, options | {"dtype": "auto"})
    if {p.dtype for p in model.parameters()} == {dtype}:
        return model, info
    narrow = any(b.is_floating_point() and b.dtype != dtype for b in model.buffers())
    if narrow or info["missing_keys"] or info["mismatched_keys"] or not all_from_files(model):
        torch.set_rng_state(state)
        return load_plain(source, task, config, options)
    for part in (model.config, model.config.get_text_config()):
        part.dtype = dtype
    return model, info


def load_quantized(  # noqa: PLR0917
    source: Source,
    task: str,
    config: PreTrainedConfig,
    options: dict[str, Any],
    spec: QuantizationSpec,
    device: torch.device,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a model in few bits, all but its output embeddings and heads."""
    kept = _kept(config, task)
    found = loading_options(spec, kept, device)
    if "gguf_file" not in source.options:
        return load_plain(source, task, config, options | found)
    model, info = load_plain(source, task, config, options | {"dtype": found["dtype"]})
    quantize_(model, kept, spec, device)
    return model, info


def load_stored(  # noqa: PLR0917
    source: Source,
    task: str,
    config: PreTrainedConfig,
    options: dict[str, Any],
    settings: dict[str, Any],
    device: torch.device,
    *,
    dequantize: bool,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a model whose checkpoint is quantized, as Transformers does it, for deltas to be trained on it.

    It answers once, since some backends bring their weights into another form then. Then layers are tried.

    Args:
        source: The checkpoint.
        task: A task by its name.
        config: Of the model; heads that the checkpoint lacks are noted in it as not quantized.
        options: Further arguments of `from_pretrained`. What does not compute in float32 is in bfloat16.
        settings: What the configuration says of the quantization.
        device: Where the model shall be, since some backends choose their kernels while they load.
        dequantize: Whether its layers shall be plain ones, with the weights that they compute with.

    Returns:
        The model, frozen; and what Transformers tells of the loading, with `notices` for people.

    Raises:
        ModelError: A package is missing, Transformers cannot load the format here, or layers give no right
            gradients.
    """
    format = format_of(settings)
    require_packages(settings, source.name)
    prepare(config, _kept(config, task))
    plain_config = copy.deepcopy(config)
    where = {} if device.type == "cpu" else {"device_map": {"": device}}
    try:
        with unheard():
            model, info = load_plain(source, task, config, options | where)
            model.eval().requires_grad_(False)
            settle_(model)
            wake_(model, model.dtype)
            _answer_once(model)
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        if options["dtype"] == torch.float32 and not isinstance(error, ImportError):
            again = options | {"dtype": torch.bfloat16}
            return load_stored(source, task, plain_config, again, settings, device, dequantize=dequantize)
        first = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise ModelError(
            f"'{source.name}' is quantized ({format}), and Transformers cannot load or use that here: "
            f"{first}.",
            field="model",
            remedy="Take a checkpoint of the same model with plain weights, or in another format.",
        ) from error
    kept = unquantized(model, task)
    mark_stored_(model, kept, format, model.dtype)
    if dequantize:
        dequantize_(model, model.dtype)
        forget_marks(model)
        return model, info
    require_gradients(model, source.name, model.dtype)
    return model, info | {"notices": notices(model, source.name, settings, kept)}


def _answer_once(model: PreTrainedModel) -> None:
    if model.main_input_name == "input_ids":
        with torch.no_grad():
            model(**{key: value.to(model.device) for key, value in model.dummy_inputs.items()})


def forget_marks(model: PreTrainedModel) -> None:
    """Take off the marks of weights that are plain ones now, which forbid to save the model."""
    of_model = (
        "hf_quantizer",
        "quantization_method",
        "_weight_conversions",
        "is_loaded_in_4bit",
        "is_loaded_in_8bit",
    )
    of_config = ("quantization_config", "_pre_quantization_dtype")
    for held, names in ((model, of_model), (model.config, of_config)):
        for name in names:
            if name in vars(held):
                delattr(held, name)
    setattr(model, "is_quantized", False)  # noqa: B010  (unknown to nn.Module)


def _kept(config: PreTrainedConfig, task: str) -> list[str]:
    """As `unquantized`, of a model that is not there yet."""
    with torch.device("meta"):
        return unquantized(model_class(task).from_config(config), task)


def unquantized(model: PreTrainedModel, task: str) -> list[str]:
    """Paths of the modules that a quantized base keeps as they are: its output embeddings and heads."""
    output, backbone = model.get_output_embeddings(), model.base_model_prefix
    return [
        path
        for path, module in model.named_modules()
        if module is output
        or (TASKS.get(task).new_head and path.split(".")[0] not in ("", backbone))
        or POOLER.search(f"{path}.")
    ]


def computes_in_its_dtype(model: PreTrainedModel) -> bool:
    """Whether the code of the architecture keeps to the precision of its weights, on a few tokens."""
    if model.main_input_name != "input_ids":
        return True
    try:
        with torch.inference_mode():
            model(**model.dummy_inputs)
    except RuntimeError as error:
        return re.search(r"dtype|scalar type|BFloat16", str(error)) is None
    except Exception:  # these few tokens are not what it reads; its own first batch will tell
        return True
    return True
