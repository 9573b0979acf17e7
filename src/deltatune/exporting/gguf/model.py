"""A merged model as one GGUF file, and back.

Weights are written one after another, so that no second copy of a model is in memory.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltatune.errors import ModelError
from deltatune.exporting.gguf.families import MERGE, Family, Stored, family_of, places, sizes_of
from deltatune.exporting.gguf.package import package
from deltatune.exporting.gguf.tokenizer import Vocabulary, vocabulary_of
from deltatune.files import atomic_path

Kind = Literal["f32", "f16", "bf16", "q8_0"]
KINDS: tuple[str, ...] = get_args(Kind)
"""Types of matrices: vectors stay in float32, and what q8_0 cannot hold, rows whose length is no multiple of
32, is in float16."""
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
"""llama.cpp's numbers of them."""
_EXACT = ("position_embd", "token_types", "rope_freqs")
"""What llama.cpp reads in float32 alone."""
_POOLINGS = {"mean": 1, "cls": 2, "last": 3}
_RANK = 4
"""The pooling that stands for a head behind the first token."""


@dataclass(frozen=True)
class About:
    """What a file says of itself."""

    name: str
    base: str | None = None
    pooling: str | None = None
    """How vectors of texts are made, where the model gives these."""
    labels: Sequence[str] = ()
    """Of a model that tells classes."""


@dataclass(frozen=True)
class Plan:
    """A model that can be written: everything but its weights."""

    family: Family
    sizes: Mapping[str, Any]
    vocabulary: Vocabulary
    about: About

    @property
    def warnings(self) -> list[str]:
        """What a person should know."""
        return self.vocabulary.warnings


def plan(config: Any, class_name: str, tokenizer: Any, about: About, end_ids: Sequence[int] = ()) -> Plan:
    """See whether a model can be written, without its weights.

    Args:
        config: Its configuration.
        class_name: Its class in Transformers.
        tokenizer: Its tokenizer.
        about: What the file says of itself.
        end_ids: Tokens that end what it writes.

    Raises:
        ModelError: llama.cpp has no such model, head or tokenizer.
    """
    package()
    family = family_of(config.model_type, class_name)
    vocabulary = vocabulary_of(tokenizer, config.vocab_size, end_ids)
    if vocabulary.kind not in family.tokenizers:
        raise ModelError(
            f"llama.cpp runs a {family.architecture} with a tokenizer of the kind "
            f"{' or '.join(family.tokenizers)}, and this one is {vocabulary.kind}.",
            field="--as",
            remedy=MERGE,
        )
    sizes = sizes_of(family, config)
    if about.pooling is not None:
        sizes[f"{family.architecture}.pooling_type"] = _POOLINGS[about.pooling]
    if about.labels or class_name.endswith("ForSequenceClassification"):
        sizes[f"{family.architecture}.pooling_type"] = _RANK
        sizes[f"{family.architecture}.classifier.output_labels"] = list(about.labels) or ["value"]
    if family.architecture == "bert":
        sizes["tokenizer.ggml.token_type_count"] = config.type_vocab_size
    return Plan(family, sizes, vocabulary, about)


def write_model(model: PreTrainedModel, planned: Plan, path: Path, kind: Kind) -> None:
    """Write a model's file.

    Args:
        model: With its delta folded in.
        planned: What `plan` made of it.
        path: The file; one that is there is replaced when the new one is whole.
        kind: Type of the matrices.

    Raises:
        ModelError: llama.cpp has no place for a weight, or a weight is too large for `kind`.
        StorageError: The file cannot be written.
    """
    gguf = package()
    writer = gguf.GGUFWriter(None, planned.family.architecture)
    _describe(writer, planned, kind)
    where = places(planned.family, model)
    weights = dict(model.named_parameters())
    factors = _rope_factors(model)
    types: dict[str, Any] = {}
    for name, stored in where.items():
        shape = tuple(weights[name].shape)[:: -1 if stored.transposed else 1]
        types[name] = _type(gguf, stored, shape, kind)
        _announce(gguf, writer, stored.name, shape, types[name])
    if factors is not None:
        _announce(gguf, writer, "rope_freqs.weight", tuple(factors.shape), gguf.GGMLQuantizationType.F32)
    with atomic_path(path) as temporary:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, stored in where.items():
            data = stored.to_file(weights[name].detach().float().cpu()).contiguous().numpy()
            writer.write_tensor_data(_packed(gguf, data, types[name], name))
        if factors is not None:
            writer.write_tensor_data(factors.numpy())
        writer.close()


def _describe(writer: Any, planned: Plan, kind: Kind) -> None:
    writer.add_type("model")
    writer.add_name(planned.about.name)
    if planned.about.base is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, planned.about.base)
    writer.add_file_type(_FILE_TYPES[kind])
    if kind == "q8_0":
        writer.add_quantization_version(2)
    for key, value in planned.sizes.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    planned.vocabulary.write(writer)


def _type(gguf: Any, stored: Stored, shape: Sequence[int], kind: Kind) -> Any:
    types = gguf.GGMLQuantizationType
    if len(shape) == 1 or stored.name.startswith(_EXACT) or kind == "f32":
        return types.F32
    if kind == "q8_0" and shape[-1] % gguf.GGML_QUANT_SIZES[types.Q8_0][0]:
        return types.F16
    return {"f16": types.F16, "bf16": types.BF16, "q8_0": types.Q8_0}[kind]


def _announce(gguf: Any, writer: Any, name: str, shape: Sequence[int], kind: Any) -> None:
    """Tell the writer of a tensor whose values come later."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    size *= int(np.prod(shape)) // block
    writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kind)


def _packed(gguf: Any, data: Any, kind: Any, name: str) -> Any:
    """Values in their type.

    Raises:
        ModelError: One becomes infinite in it.
    """
    types = gguf.GGMLQuantizationType
    largest = float(np.abs(data).max()) if data.size else 0.0
    # the scale of a block of q8_0 is a float16, of its largest value by 127
    limit = {types.F16: 65504.0, types.Q8_0: 65504.0 * 127, types.F32: np.inf, types.BF16: 3.38e38}[kind]
    if not largest <= limit:
        raise ModelError(
            f"{name} holds {largest:.3g}, and {kind.name} ends at {limit:.3g}.",
            field="--dtype",
            remedy="Write f32 or bf16.",
        )
    with np.errstate(over="ignore"):
        return gguf.quants.quantize(data, kind)


def _rope_factors(model: PreTrainedModel) -> Tensor | None:
    """What llama.cpp divides each position's angles by; None if by nothing. Llama 3 has such factors."""
    rope = getattr(model.config, "rope_parameters", None)
    if not rope or rope.get("rope_type", "default") != "llama3":
        return None
    [turning] = [part for name, part in model.named_modules() if name.endswith("rotary_emb")][:1]
    found = turning.inv_freq.detach().float().cpu()
    plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, 2 * len(found), 2).float() / (2 * len(found)))
    return plain / found


def read_model(path: Path, model: PreTrainedModel, family: Family) -> PreTrainedModel:
    """A copy of `model` with the weights of a file that was written of it, rounded as they are there.

    Raises:
        ModelError: The file lacks one.
    """
    gguf = package()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    again = copy.deepcopy(model)
    parameters = dict(again.named_parameters())
    with torch.no_grad():
        for name, stored in places(family, again).items():
            if stored.name not in tensors:
                raise ModelError(f"'{path}' lacks {stored.name}.", remedy="Export it again.")
            tensor = tensors[stored.name]
            values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
            shape = tuple(int(size) for size in reversed(tensor.shape))
            parameters[name].copy_(stored.from_file(torch.from_numpy(values).view(shape)))
    return again


def reader() -> str:
    """Transformers, whose own reader of GGUF it is, with its version."""
    import transformers

    return f"transformers {transformers.__version__}"


def read_by_transformers(path: Path) -> PreTrainedModel:
    """The model that Transformers' own reader makes of a file."""
    from transformers import AutoModelForCausalLM

    found: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return found.eval()
