"""Shapes of published models, so that one can ask about a model without having it.

Of a closed model the widths are those that its paper prints, in an open architecture that computes the like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from deltatune import units
from deltatune.errors import ModelError, nearest
from deltatune.models.tasks import possible_tasks


@dataclass(frozen=True)
class Shape:
    """A published model, and the configuration that has its sizes."""

    settings: dict[str, Any]
    """Of the configuration in Transformers, with its `model_type`."""
    source: str
    """Where the widths are printed."""
    published: str
    """Its parameters, as printed there."""
    stands_for: str = ""
    """What the configuration is of, and how it differs, where the model's own is not in Transformers."""
    lacks: int = 0
    """Parameters that the model has and the configuration does not."""
    embeddings_counted: bool = True
    """Whether the published number contains the token embeddings."""

    def said(self, name: str) -> str:
        """Where its widths are from, and what is planned in its place, in a sentence or three."""
        text = f"{name} has {self.published} parameters by its paper ({self.source})."
        if self.stands_for:
            text += f" Its own code is not in Transformers. The plan is of {self.stands_for}."
        if self.lacks:
            text += f" It lacks {units.amount(self.lacks)} parameters of the model's own positions."
        return text


def llama(hidden: int, inner: int, layers: int, heads: int, **other: Any) -> PreTrainedConfig:
    """A Llama of this width and depth, for measuring."""
    return AutoConfig.for_model(**_llama(hidden, inner, layers, heads, **other))


def _llama(hidden: int, inner: int, layers: int, heads: int, **other: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "tie_word_embeddings": False,
    } | other


def _opt(width: int, layers: int, heads: int, vocabulary: int, **other: Any) -> dict[str, Any]:
    """OPT, whose feed-forward part is four times as wide: GPT-3 with open weights."""
    return {
        "model_type": "opt",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 2048,
    } | other


def _gopher(width: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "gpt_neox",
        "vocab_size": 32000,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 80,
        "num_attention_heads": heads,
        "tie_word_embeddings": True,
    }


def _t5(width: int, inner: int, layers: int, heads: int, head_width: int) -> dict[str, Any]:
    return {
        "model_type": "t5",
        "d_model": width,
        "d_ff": inner,
        "num_layers": layers,
        "num_heads": heads,
        "d_kv": head_width,
        "decoder_start_token_id": 0,
    }


_LLAMA = "Touvron et al. 2023, LLaMA, table 2; inner widths of the released checkpoints"
_LLAMA_3 = "Grattafiori et al. 2024, The Llama 3 herd of models, table 3"
_T5 = "Raffel et al. 2020, T5, section 3.7"
_GPT_3_LIKE = "an OPT of its widths, with GELU"
_RELATIVE = "a GPT-NeoX of its widths, whose rotary positions stand for those of Transformer-XL"

SHAPES: dict[str, Shape] = {
    "gpt-3-175b": Shape(
        _opt(12288, 96, 96, 50257, activation_function="gelu"),
        "Brown et al. 2020, GPT-3, table 2.1; the count is that of table D.1",
        "174.6B",
        f"{_GPT_3_LIKE}; every second layer of GPT-3 attends to fewer tokens",
    ),
    "pangu-alpha-207b": Shape(
        _opt(16384, 64, 128, 40000, activation_function="gelu", max_position_embeddings=1024),
        "Zeng et al. 2021, PanGu-alpha, its table of sizes",
        "207B",
        f"{_GPT_3_LIKE}; PanGu's last layer asks by position",
    ),
    "opt-175b": Shape(_opt(12288, 96, 96, 50272), "Zhang et al. 2022, OPT, table 1", "175B"),
    "palm-540b": Shape(
        _llama(
            18432,
            73728,
            118,
            48,
            num_key_value_heads=1,
            head_dim=256,
            vocab_size=256000,
            tie_word_embeddings=True,
        ),
        "Chowdhery et al. 2022, PaLM, table 1 and section 2",
        "540.35B",
        "a Llama of its widths, with one key and value for all heads; PaLM's two parts of a layer work "
        "side by side behind one norm",
    ),
    "bloom-176b": Shape(
        {"model_type": "bloom", "vocab_size": 250880, "hidden_size": 14336, "n_layer": 70, "n_head": 112},
        "Le Scao et al. 2022, BLOOM, table 3",
        "176.247B",
    ),
    "mt-nlg-530b": Shape(
        _opt(20480, 105, 128, 50257, activation_function="gelu"),
        "Smith et al. 2022, Megatron-Turing NLG 530B",
        "530B",
        _GPT_3_LIKE,
    ),
    "gopher-280b": Shape(
        _gopher(16384, 128), "Rae et al. 2021, Gopher, table 1", "280B", _RELATIVE, lacks=80 * 16384**2
    ),
    "chinchilla-70b": Shape(
        _gopher(8192, 64), "Hoffmann et al. 2022, Chinchilla, table 4", "70B", _RELATIVE, lacks=80 * 8192**2
    ),
    "galactica-120b": Shape(
        _opt(10240, 96, 80, 50000, activation_function="gelu", enable_bias=False),
        "Taylor et al. 2022, Galactica, its table of sizes",
        "120B",
    ),
    "lamda-137b": Shape(
        _llama(8192, 65536, 64, 128, head_dim=128, hidden_act="gelu", tie_word_embeddings=True),
        "Thoppilan et al. 2022, LaMDA, section 3",
        "137B",
        "a Llama of its widths, with GELU; LaMDA's relative positions are T5's",
        embeddings_counted=False,
    ),
    "jurassic-1-178b": Shape(
        _opt(13824, 76, 96, 256000, activation_function="gelu"),
        "Lieber et al. 2021, Jurassic-1, table 1",
        "178B",
        _GPT_3_LIKE,
    ),
    "llama-7b": Shape(_llama(4096, 11008, 32, 32), _LLAMA, "6.7B"),
    "llama-13b": Shape(_llama(5120, 13824, 40, 40), _LLAMA, "13.0B"),
    "llama-33b": Shape(_llama(6656, 17920, 60, 52), _LLAMA, "32.5B"),
    "llama-65b": Shape(_llama(8192, 22016, 80, 64), _LLAMA, "65.2B"),
    "llama3-8b": Shape(_llama(4096, 14336, 32, 32, num_key_value_heads=8, vocab_size=128256), _LLAMA_3, "8B"),
    "llama3-70b": Shape(
        _llama(8192, 28672, 80, 64, num_key_value_heads=8, vocab_size=128256), _LLAMA_3, "70B"
    ),
    "glm-130b": Shape(
        {
            "model_type": "glm",
            "vocab_size": 150528,
            "hidden_size": 12288,
            "intermediate_size": 32768,
            "num_hidden_layers": 70,
            "num_attention_heads": 96,
            "num_key_value_heads": 96,
            "head_dim": 128,
            "hidden_act": "gelu",
            "attention_bias": True,
            "pad_token_id": None,
            "tie_word_embeddings": True,
        },
        "Zeng et al. 2022, GLM-130B; widths of the released configuration",
        "130B",
        "a GLM-4 of its widths, with GELU; the norms of GLM-130B stand behind the parts of a layer",
    ),
    "t5-large": Shape(
        _t5(1024, 4096, 24, 16, 64), f"{_T5}, prints 770M; the released checkpoint has so many", "738M"
    ),
    "t5-3b": Shape(_t5(1024, 16384, 24, 32, 128), _T5, "2.8B"),
    "t5-11b": Shape(_t5(1024, 65536, 24, 128, 128), _T5, "11B"),
}
"""By name."""


def shape_named(name: str) -> PreTrainedConfig:
    """The configuration of a published model.

    Raises:
        ModelError: It is not in the table.
    """
    if name not in SHAPES:
        raise ModelError(f"{name!r} is not a known shape.", field="--shape", remedy=nearest(name, SHAPES))
    return AutoConfig.for_model(**SHAPES[name].settings)


def shape_recipe(name: str) -> Mapping[str, Any]:
    """A recipe for a published shape: full fine-tuning, LoRA and QLoRA, a row of 512 tokens at a time.

    Raises:
        ModelError: There is no such shape.
    """
    task = possible_tasks(shape_named(name))[0]
    lora = {"lora": {"r": 16, "targets": ["all-linear"]}}
    return {
        "task": task,
        "model": name,
        "data": {
            "train": "unread.jsonl", "columns": {"input": "input", "target": "target"},
            "split": {"validation": 0.1, "test": 0.1}, "max_input_tokens": 448, "max_target_tokens": 64,
        },
        "methods": [
            "full",
            lora,
            lora | {"name": "qlora", "quantization": "nf4", "train": {"precision": "auto"}},
        ],
        "train": {"batch_size": 1, "precision": "bf16", "gradient_checkpointing": True},
    }  # fmt: skip
