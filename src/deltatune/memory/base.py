"""A base of fake tensors: the modules and sizes of the real one, without a byte of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedConfig, PreTrainedModel

from deltatune.models.load import DTYPES
from deltatune.models.pooling import take_off_pooler
from deltatune.models.quiet import quiet
from deltatune.models.resolution import interpolate_positions
from deltatune.models.tasks import model_class
from deltatune.models.weights import unquantized
from deltatune.quant.inplace import layers_to_quantize
from deltatune.quant.layers import StoredAs, StoredLinear
from deltatune.quant.loading import compute_dtype
from deltatune.quant.stored import SKIPPED, bits_of, format_of, method_of, plain_config, stored_settings
from deltatune.tasks import TASKS

if TYPE_CHECKING:
    from deltatune.recipe.base_sections import QuantizationSpec


def fake_mode() -> FakeTensorMode:
    """A mode whose tensors can be modules' parameters, change their type there, and be copied with them.

    `Module.to` swaps fake parameters, which torch refuses while anything refers to them weakly, as the mode's
    memory of converted tensors does. Nothing is converted here, so that it need not remember. A copy of a
    tensor would come with a copy of the mode, and tensors of two modes do not mix.
    """
    mode: Any = FakeTensorMode()
    mode.fake_tensor_converter.set_tensor_memo = lambda t, v: None
    mode.__deepcopy__ = lambda memo: mode
    found: FakeTensorMode = mode
    return found


def fake_base(
    config: PreTrainedConfig,
    task: str,
    *,
    dtype: str = "float32",
    quantization: QuantizationSpec | None = None,
    attention: str | None = None,
    image_size: int | None = None,
    untied: bool = False,
    trust_remote_code: bool = False,
    device: str = "cpu",
) -> PreTrainedModel:
    """Build the base that `load_base` would load, on fake tensors of the CPU; `fake_mode` is in force.

    Args:
        config: Of the model, for as many classes as the task has.
        task: The recipe's task.
        dtype: Of the weights; of a quantized base, what its `compute` says counts.
        quantization: How linear layers are kept.
        attention: Transformers' attention implementation; None for its own choice.
        image_size: Edge of the images, if it is not the model's own.
        untied: The checkpoint has output embeddings of its own, whatever the configuration says.
        trust_remote_code: Whether Python code that comes with the model may run.
        device: The kind of device, since some backends unpack a stored base on CPUs.
    """
    wanted = DTYPES[dtype] if quantization is None else compute_dtype(quantization)
    options: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    options["trust_remote_code"] = trust_remote_code
    # Out of the mode: what a constructor makes with torch.tensor would be on meta, and not fake.
    with quiet(), unset_fake_temporarily(), torch.device("meta"):
        model: PreTrainedModel = model_class(task).from_config(plain_config(config), dtype=wanted, **options)
    if TASKS.get(task).embeds:
        take_off_pooler(model)
    _to_fake(model)
    if image_size is not None:
        interpolate_positions(model, image_size, type(model).__name__)
    head: Any = model.get_output_embeddings()
    if untied and head is not None:
        head.weight = nn.Parameter(torch.empty_like(head.weight))
    _keep_float32(model)
    if quantization is not None:
        _quantize(model, task, quantization)
    settings = stored_settings(config)
    if settings is not None:
        _pack(model, task, settings, device)
    _to_fake(model)
    return model.eval().requires_grad_(False)


class Unread(TorchDispatchMode):
    """Answers for tensors without data while a delta is built: what is compared is close, nothing is set.

    So that a module which looks like a norm is taken for one, and numbers that are read are ones.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, unless it would read."""
        if func is torch.ops.aten.allclose.default:
            return True
        if func is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 1
        return func(*args, **(kwargs or {}))


def new_heads(model: PreTrainedModel, task: str) -> list[str]:
    """Modules that a checkpoint without a head for the task would lack; without it nobody knows more."""
    if not TASKS.get(task).new_head:
        return []
    return [
        path
        for path, module in model.named_modules()
        if path.split(".")[0] not in ("", model.base_model_prefix)
        and next(module.parameters(recurse=False), None) is not None
    ]


def _keep_float32(model: PreTrainedModel) -> None:
    """Some parts stay in float32 whatever the base is loaded in (Transformers' own list)."""
    kept = set(model._keep_in_fp32_modules_strict or ())
    for path, parameter in model.named_parameters():
        if kept.intersection(path.split(".")):
            parameter.data = parameter.data.float()


def is_untied(model: PreTrainedModel) -> bool:
    """Whether a loaded model has output embeddings of its own, though its configuration ties them."""
    head: Any = model.get_output_embeddings()
    words: Any = model.get_input_embeddings()
    return head is not None and head.weight is not words.weight


def stores_head(folder: Path) -> bool:
    """Whether a local checkpoint has a matrix of output embeddings; only the files' headers are read."""
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            if any(key.endswith(("lm_head.weight", "embed_out.weight")) for key in file.keys()):  # noqa: SIM118
                return True
    return False


def _quantize(model: PreTrainedModel, task: str, spec: QuantizationSpec) -> None:
    from deltatune.quant.planned import blank_layer, fill_

    for path, module in layers_to_quantize(model, unquantized(model, task)).items():
        parent, _, leaf = path.rpartition(".")
        with unset_fake_temporarily(), torch.device("meta"):
            layer = blank_layer(module, spec)
        fill_(layer, module.bias, spec)
        setattr(model.get_submodule(parent), leaf, layer)


def _pack(model: PreTrainedModel, task: str, settings: dict[str, Any], device: str) -> None:
    """Let layers take the memory that they take in a checkpoint that is quantized."""
    from deltatune.quant.planned import PackedLayer

    bits = bits_of(settings, device)
    if bits is None:
        return
    kept = [*unquantized(model, task), *(settings.get(SKIPPED.get(method_of(settings), "")) or ())]
    dtype = next(model.parameters()).dtype
    for path, module in layers_to_quantize(model, kept).items():
        layer = StoredLinear(PackedLayer(module, bits))
        setattr(layer, "stored_as", StoredAs(format_of(settings), dtype))  # noqa: B010  (unknown to nn.Module)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)


def _to_fake(model: nn.Module) -> None:
    """Turn all tensors into fake ones of the CPU, which the mode in force makes; tied ones stay tied.

    Most are meta tensors, but old constructors (torch.FloatTensor) know no device.
    """
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            cpu = torch.empty(tensor.shape, dtype=tensor.dtype)
            made[id(tensor)] = nn.Parameter(cpu) if isinstance(tensor, nn.Parameter) else cpu
        return made[id(tensor)]

    for module in model.modules():
        places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, module.__dict__)
        for held in places:
            for name, tensor in list(held.items()):
                if isinstance(tensor, Tensor) and not isinstance(tensor, FakeTensor):
                    held[name] = fake(tensor)
