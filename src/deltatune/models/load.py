"""Loading the frozen base model and its tokenizer or image processor."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from deltatune.core.devices import HOST, own_random_states
from deltatune.core.offload import FIELD, Offload, offload_of
from deltatune.core.ranks import ranks
from deltatune.core.sharding import shard_
from deltatune.errors import ModelError
from deltatune.models.fingerprint import fingerprint
from deltatune.models.labels import base_labels, in_base_order, named, set_outputs
from deltatune.models.mapped import MappedWeights
from deltatune.models.pooling import pooling_of
from deltatune.models.processor import ModelFacts, model_facts
from deltatune.models.quiet import quiet
from deltatune.models.resolution import interpolate_positions
from deltatune.models.source import Source, explained, locate, processor_of
from deltatune.models.tasks import check_task
from deltatune.models.token_ids import check_vocabulary, plain_generation, set_padding
from deltatune.models.weights import POOLER, computes_in_its_dtype, load_weights
from deltatune.quant.loading import check_widths
from deltatune.quant.stored import stored_settings
from deltatune.tasks import TASKS

if TYPE_CHECKING:
    from deltatune.recipe.base_sections import ModelSpec, QuantizationSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Weights that a checkpoint may lack without loss: zero by definition, or used in pre-training only.
_HARMLESS = re.compile(r"(^|\.)(final_logits_bias|mask_token|position_ids)$")


@dataclass
class LoadedBase:
    """A frozen base model, ready to attach deltas to."""

    model: PreTrainedModel
    """In evaluation mode, no parameter requires a gradient."""
    processor: Any
    """The tokenizer, or for images the image processor."""
    name: str
    """As the recipe names it."""
    new_modules: list[str]
    """Paths of modules that the checkpoint did not have (a classification head): they must be trained."""
    labels: list[str] | None
    """Names of the classes in the order of the model's outputs: the base's own, if it knows these classes."""
    facts: ModelFacts
    """What the model's files say of what it reads."""
    warnings: list[str]
    """What a person should know of how it was loaded."""
    pooling: str = "mean"
    """How vectors of texts are made of it (`deltatune.core.pooling`), where a task asks for them."""

    def settle(self, device: torch.device, *, shard: bool = False) -> str:
        """Hash the weights, where they are read fastest, and bring the model to `device`; give the hash."""
        digest = fingerprint(self.model)
        self.place(device, shard=shard)
        return digest

    def place(self, device: torch.device, *, shard: bool = False) -> None:
        """Move the model to `device`, but for layers that rest elsewhere: offloaded, or in parts with others.

        With `shard`, all processes that have joined come by.
        """
        offload = offload_of(self.model)
        if shard:
            shard_(self.model, ranks(), device)
        elif offload is not None:
            offload.place(device)
        else:  # Transformers' own signature of `to` hides its argument from type checkers
            nn.Module.to(self.model, device)


def load_base(
    spec: ModelSpec,
    task: str,
    labels: list[str] | None,
    *,
    dtype: str = "float32",
    quantization: QuantizationSpec | None = None,
    seed: int = 0,
    as_spelled: bool = False,
    device: torch.device = HOST,
    offload: Literal["cpu", "disk"] | None = None,
) -> LoadedBase:
    """Load a base model for `task` from the hub, a local folder, a GGUF file or a bundled package.

    Args:
        spec: Which model; code of the checkpoint's own runs only with `trust_remote_code`.
        task: A task by its name in `deltatune.tasks`.
        labels: The class names; `None` for the generating tasks. If the base is a classifier of these very
            classes, its head and its order are kept.
        dtype: "float32" or "bfloat16"; of a quantized base, what its `compute` says counts. What
            Transformers cannot compute in bfloat16 (the first DeBERTa) is loaded in float32 all the same.
        quantization: How linear layers are kept in few bits; the heads of classifiers never are.
        seed: Fixes the weights of a new classification head. The global random state is left as it was.
        as_spelled: Whether the base's head counts as one of these classes only if it has their spelling and
            their order, which runs of before ask for: their deltas hold a head of their own otherwise.
        device: Where a quantized base is quantized and stays. Any other is loaded on the host.
        offload: Where its layers rest once it is placed, as of a recipe's `train.offload`.

    Raises:
        ModelError: The model cannot be found, read or used for the task.
        RecipeError: There is no such task.
    """
    reads = TASKS.get(task, field="task").reads
    if TASKS.get(task).has_classes and not labels:
        raise ModelError(f"the task {task} needs the names of the classes.", field="task")
    source = locate(spec)
    config = _config_of(source)
    check_task(config, task, source.name)
    stored = stored_settings(config) is not None
    if stored and not spec.dequantize:
        _require_movable(source.name, offload)
    warnings: list[str] = []
    known = base_labels(config)
    labels, same_labels = _in_order(config, labels, known, as_spelled=as_spelled)
    set_outputs(config, task, labels)
    with quiet(), own_random_states():
        torch.manual_seed(seed)
        with explained(source):
            processor = processor_of(source, task, spec.image_size)
            options: dict[str, Any] = {"dtype": DTYPES[dtype]}
            if spec.attention:
                options["attn_implementation"] = spec.attention
            model, info = load_weights(
                source, task, config, options, quantization, HOST if offload else device,
                dequantize=bool(spec.dequantize), from_files=offload == "disk",
            )  # fmt: skip
        warnings += info.get("notices", [])
        _require_no_delta(model, source.name)
        missing = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
        new_modules = _new_modules(model, missing, task, source.name)
        if labels and (info["mismatched_keys"] or (not new_modules and not same_labels)):
            warnings.append(_other_head(source.name, known, labels))
        if labels and not new_modules and not same_labels:
            new_modules = _fresh_head(model)
    check_widths(model, source.name)
    if spec.image_size is not None:
        interpolate_positions(model, spec.image_size, source.name)
    model.eval().requires_grad_(False)
    if dtype == "bfloat16" and quantization is None and not computes_in_its_dtype(model):
        return load_base(spec, task, labels, seed=seed, as_spelled=as_spelled, offload=offload)
    _let_rest(model, offload, model.dtype if stored else DTYPES[dtype])
    if model.can_generate():
        plain_generation(model)
    facts = model_facts(source, config, task)
    if reads == "text":
        check_vocabulary(model, processor, source.name)
        warnings += set_padding(model, processor, source.name)
        embeddings: Any = model.get_input_embeddings()
        facts = replace(facts, vocabulary=embeddings.weight.shape[0])
    warnings += _kept_output(task, new_modules, source.name, labels)
    pooling, said = pooling_of(source, spec.pooling, task)
    warnings += said
    return LoadedBase(model, processor, source.name, new_modules, labels, facts, warnings, pooling)


def _in_order(
    config: PreTrainedConfig, labels: list[str] | None, known: Any, *, as_spelled: bool
) -> tuple[list[str] | None, bool]:
    """The classes in the order of the outputs, and whether the base's head knows these very ones."""
    if not labels:
        return labels, False
    ordered = in_base_order(config, labels)
    same = known == labels if as_spelled else ordered is not None
    return ordered if same and ordered else labels, same


def _let_rest(model: PreTrainedModel, offload: Literal["cpu", "disk"] | None, dtype: torch.dtype) -> None:
    """Put the weights where the layers rest, as `load_base` was told."""
    if offload == "cpu":
        Offload(model)
    elif offload == "disk":
        Offload(model, MappedWeights(model, dtype).forget)


def _require_movable(name: str, offload: str | None) -> None:
    """Refuse to offload a base that stays quantized as it came."""
    if offload is not None:
        raise ModelError(
            f"'{name}' is quantized, and the scales of quantized layers are not moved with their weights.",
            field=FIELD,
            remedy="Leave it out, or set model: {name: ..., dequantize: true}, which unpacks the weights.",
        )


def _other_head(name: str, known: Any, labels: list[str]) -> str:
    return (
        f"the head of '{name}' tells other classes apart ({named(known)}); a new one "
        f"is trained for {named(labels)}. To keep it, give the data its classes, or name them in "
        "id2label of its config.json."
    )


def _require_no_delta(model: PreTrainedModel, name: str) -> None:
    """Refuse what Transformers makes of a Hub id of peft's: another model, with the delta attached."""
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(
            f"'{name}' is a saved delta, not a base model.",
            field="model",
            remedy="Name the base model here; deltas are given to evaluate, predict and merge, or as `from`.",
        )


def _kept_output(task: str, new_modules: list[str], name: str, labels: list[str] | None) -> list[str]:
    """Say that a head of as many outputs, of whatever they tell, is the base's own."""
    outputs = f"{len(labels)} outputs" if labels else "one output"
    if not TASKS.get(task).has_values or new_modules:
        return []
    return [
        f"the head of '{name}' has {outputs} already and is kept: what it gives is taken for standard "
        "deviations from the mean of the training rows' targets."
    ]


def read_config(spec: ModelSpec) -> PreTrainedConfig:
    """The configuration of a base, without its weights.

    Raises:
        ModelError: It cannot be found or read.
    """
    return _config_of(locate(spec))


def _config_of(source: Source) -> PreTrainedConfig:
    with quiet(), explained(source):
        config: PreTrainedConfig = AutoConfig.from_pretrained(source.path, **source.options)
    return config


def _new_modules(model: PreTrainedModel, missing: set[str], task: str, name: str) -> list[str]:
    """Module paths of the weights the checkpoint lacked, if they belong to a head; else it is incomplete."""
    keys = sorted(key for key in missing if not _HARMLESS.search(key))
    backbone = f"{model.base_model_prefix}."
    heads = [key for key in keys if not key.startswith(backbone) or POOLER.search(key)]
    lost = keys if not TASKS.get(task).new_head else [key for key in keys if key not in heads]
    if lost:
        raise ModelError(
            f"the checkpoint of '{name}' lacks {len(lost)} weights of {type(model).__name__} or has them in "
            f"another shape (the first: {lost[0]}); they would be random.",
            field="model",
            remedy="Check that the folder is complete and that config.json belongs to it.",
        )
    return sorted({key.rpartition(".")[0] for key in heads})


def _fresh_head(model: PreTrainedModel) -> list[str]:
    """Initialise a stored head anew, because it was trained for other classes; return its module paths."""
    paths = [
        path
        for path, module in model.named_modules()
        if path.split(".")[0] != model.base_model_prefix
        and next(module.parameters(recurse=False), None) is not None
    ]
    with torch.no_grad():
        for path in paths:
            module = model.get_submodule(path)
            _forget_initialised(module)
            model._init_weights(module)
    return sorted(paths)


def _forget_initialised(module: nn.Module) -> None:
    """Take off the marks by which Transformers spares loaded weights from initialisation."""
    for item in (module, *module.parameters(recurse=False)):
        if hasattr(item, "_is_hf_initialized"):
            del item._is_hf_initialized
