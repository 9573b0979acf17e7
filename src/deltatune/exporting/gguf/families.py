"""Which models llama.cpp computes, and how it wants their weights: what they are called, and in which order.

What they are called comes from the `gguf` package's own table. What differs besides: llama.cpp turns
neighbours of a head by one angle where Transformers' Llama turns an element and the one half a head further,
so that the rows of query and key change places; GPT-2 keeps its matrices transposed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltatune.errors import ModelError
from deltatune.exporting.gguf.package import package

MERGE = "Merge the run into a Transformers folder instead (--as merged)."
Sizes = dict[str, int | float | str | bool | list[str]]
"""Metadata of an architecture, by keys without its name."""


@dataclass(frozen=True)
class Stored:
    """How a parameter lies in a file."""

    name: str
    """In the file."""
    rows: Tensor | None = None
    """Which row of the parameter each row of the file is; None: they lie as they do."""
    transposed: bool = False

    def to_file(self, weight: Tensor) -> Tensor:
        """The parameter as it lies in the file."""
        turned = weight.T if self.transposed else weight
        return turned if self.rows is None else turned[self.rows]

    def from_file(self, weight: Tensor) -> Tensor:
        """The parameter of what lies in the file."""
        rows = weight if self.rows is None else weight[torch.argsort(self.rows)]
        return rows.T if self.transposed else rows


@dataclass(frozen=True)
class Family:
    """One kind of model."""

    architecture: str
    """What llama.cpp calls it."""
    classes: tuple[str, ...]
    """Classes of Transformers."""
    sizes: Callable[[Any], Sizes]
    """The metadata of a configuration. Raises ModelError for one that llama.cpp computes otherwise."""
    name: Callable[[str], str] = lambda name: name
    """A parameter's name as the table of `gguf` knows it."""
    turned: bool = False
    """Whether rows of query and key change places."""
    transposes: tuple[str, ...] = ()
    """Ends of the names of matrices that Transformers keeps transposed."""
    reads: Callable[[Any], bool] = lambda config: False
    """Whether Transformers' own reader makes this model of its file."""
    tokenizers: tuple[str, ...] = ("gpt2", "llama")
    """Kinds of tokenizers that llama.cpp runs it with."""


def _only(config: Any, field: str, allowed: tuple[Any, ...]) -> None:
    value = getattr(config, field, allowed[0])
    if value not in allowed:
        raise ModelError(
            f"the model has {field} {value!r}, and llama.cpp computes {config.model_type} with "
            f"{' or '.join(repr(each) for each in allowed)}.",
            field="--as",
            remedy=MERGE,
        )


def _decoder(config: Any) -> Sizes:
    _only(config, "hidden_act", ("silu",))
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = dict(config.rope_parameters)
    sizes: Sizes = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.dimension_count": width,
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        sizes |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    elif kind not in ("default", "llama3"):
        raise ModelError(
            f"the model scales its positions by {kind!r}; written are default, linear and llama3.",
            field="--as",
            remedy=MERGE,
        )
    return sizes


def _mistral(config: Any) -> Sizes:
    """Mistral; llama.cpp has no window here, so that a context is at most one."""
    sizes = _decoder(config)
    longest, window = config.max_position_embeddings, config.sliding_window
    return sizes | {"context_length": min(longest, window or longest)}


def _qwen(config: Any) -> Sizes:
    _only(config, "use_sliding_window", (False,))
    return _decoder(config)


def _gpt2(config: Any) -> Sizes:
    _only(config, "activation_function", ("gelu_new", "gelu_pytorch_tanh"))
    _only(config, "scale_attn_by_inverse_layer_idx", (False,))
    _only(config, "scale_attn_weights", (True,))
    return {
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.n_inner or 4 * config.n_embd,
        "attention.head_count": config.n_head,
        "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
        "vocab_size": config.vocab_size,
    }


def _bert(config: Any) -> Sizes:
    _only(config, "hidden_act", ("gelu", "gelu_new", "gelu_pytorch_tanh"))
    _only(config, "is_decoder", (False,))
    return {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.layer_norm_epsilon": float(config.layer_norm_eps),
        "attention.causal": False,
        "vocab_size": config.vocab_size,
    }


def _plain_rope(config: Any) -> bool:
    """Whether Transformers' reader needs no rope factors, no biases and no width of Qwen 3's heads."""
    width = type(config)().head_dim if config.model_type == "qwen3" else config.head_dim
    plain = dict(config.rope_parameters).get("rope_type", "default") == "default"
    biased = getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    return plain and config.head_dim == width and not (biased and config.model_type != "qwen2")


def _bert_name(name: str) -> str:
    return name.removeprefix("bert.")


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", ("LlamaForCausalLM",), _decoder, turned=True, reads=_plain_rope),
    "mistral": Family("llama", ("MistralForCausalLM",), _mistral, turned=True, reads=_plain_rope),
    "qwen2": Family("qwen2", ("Qwen2ForCausalLM",), _qwen, reads=lambda config: True),
    "qwen3": Family("qwen3", ("Qwen3ForCausalLM",), _qwen, reads=_plain_rope),
    "gpt2": Family(
        "gpt2",
        ("GPT2LMHeadModel",),
        _gpt2,
        transposes=("c_attn.weight", "c_proj.weight", "c_fc.weight"),
        reads=lambda config: config.n_positions == type(config)().n_positions,  # it takes the default
        tokenizers=("gpt2",),
    ),
    "bert": Family(
        "bert",
        ("BertModel", "BertForSequenceClassification"),
        _bert,
        _bert_name,
        tokenizers=("bert", "gpt2"),
    ),
}
"""By the model type of Transformers."""
_HEADS = {"pooler.dense": "cls", "classifier": "cls.output"}
"""Of a BERT that tells classes: what llama.cpp calls the layers behind the first token."""


def family_of(model_type: str, class_name: str) -> Family:
    """The family of a model.

    Raises:
        ModelError: There is none, or none for this head.
    """
    family = FAMILIES.get(model_type)
    if family is None:
        raise ModelError(
            f"the base is a {model_type}; written as GGUF are {', '.join(sorted(FAMILIES))}.",
            field="--as",
            remedy="Merge the run into a Transformers folder, and convert that by llama.cpp's own script.",
        )
    if class_name not in family.classes:
        raise ModelError(
            f"{class_name} has a head that llama.cpp does not compute; of a {model_type} it computes "
            f"{' and '.join(family.classes)}.",
            field="--as",
            remedy="Merge the run into a Transformers folder, or an encoder into ONNX.",
        )
    return family


def sizes_of(family: Family, config: Any) -> Sizes:
    """The metadata of a configuration, by whole keys.

    Raises:
        ModelError: llama.cpp computes such a model otherwise.
    """
    return {f"{family.architecture}.{key}": value for key, value in family.sizes(config).items()}


def places(family: Family, model: PreTrainedModel) -> dict[str, Stored]:
    """How each parameter of a model lies in a file, by its name; tied ones are there once.

    Raises:
        ModelError: llama.cpp has no place for one of them.
    """
    found: dict[str, Stored] = {}
    table = _table(family, model.config.num_hidden_layers)
    seen: set[int] = set()
    for name, parameter in model.named_parameters():  # tied ones once
        if parameter.data_ptr() in seen and parameter.numel():
            continue
        seen.add(parameter.data_ptr())
        found[name] = place(family, model.config, name, table)
    return found


def _table(family: Family, layers: int) -> Any:
    gguf = package()
    architectures = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(architectures[family.architecture], layers)


def place(family: Family, config: Any, name: str, table: Any = None) -> Stored:
    """How the parameter `name` lies in a file; `table` is given by who asks often.

    Raises:
        ModelError: llama.cpp has no place for it.
    """
    table = table or _table(family, config.num_hidden_layers)
    plain = family.name(name)
    path, _, leaf = plain.rpartition(".")
    known = f"{_HEADS[path]}.{leaf}" if family.architecture == "bert" and path in _HEADS else None
    known = known or table.get_name(plain, try_suffixes=(".weight", ".bias"))
    if known is None:
        raise ModelError(
            f"llama.cpp has no place for {name} in a {family.architecture}.",
            field="--as",
            remedy=MERGE,
        )
    rows = None
    if family.turned and known.split(".")[2:3] in (["attn_q"], ["attn_k"]):
        heads = config.num_attention_heads if ".attn_q." in known else config.num_key_value_heads
        rows = turned_rows(heads, family.sizes(config)["rope.dimension_count"])
    return Stored(known, rows, plain.endswith(family.transposes) if family.transposes else False)


def turned_rows(heads: int, width: Any) -> Tensor:
    """Rows of query or key in llama.cpp's order: an element beside the one half a head further."""
    return torch.arange(heads * width).view(heads, 2, width // 2).transpose(1, 2).reshape(-1)
