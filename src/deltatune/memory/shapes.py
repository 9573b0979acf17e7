"""Configurations of published models, so that one can ask about a model without having it."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from deltatune.errors import ModelError, nearest


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


SHAPES: dict[str, dict[str, Any]] = {
    # Touvron et al. 2023, LLaMA, table 2; the inner widths are those of the released checkpoints
    "llama-7b": _llama(4096, 11008, 32, 32),
    "llama-13b": _llama(5120, 13824, 40, 40),
    "llama-33b": _llama(6656, 17920, 60, 52),
    "llama-65b": _llama(8192, 22016, 80, 64),
    # Grattafiori et al. 2024, The Llama 3 herd of models, table 3
    "llama3-8b": _llama(4096, 14336, 32, 32, num_key_value_heads=8, vocab_size=128256),
    "llama3-70b": _llama(8192, 28672, 80, 64, num_key_value_heads=8, vocab_size=128256),
    # Le Scao et al. 2022, BLOOM, table 3
    "bloom-176b": {
        "model_type": "bloom",
        "vocab_size": 250880,
        "hidden_size": 14336,
        "n_layer": 70,
        "n_head": 112,
    },
    # Raffel et al. 2020, T5, section 3.7
    "t5-large": _t5(1024, 4096, 24, 16, 64),
    "t5-3b": _t5(1024, 16384, 24, 32, 128),
    "t5-11b": _t5(1024, 65536, 24, 128, 128),
}
"""Settings of the configuration by name."""


def shape_named(name: str) -> PreTrainedConfig:
    """The configuration of a published model.

    Raises:
        ModelError: It is not in the table.
    """
    if name not in SHAPES:
        raise ModelError(f"{name!r} is not a known shape.", field="--shape", remedy=nearest(name, SHAPES))
    return AutoConfig.for_model(**SHAPES[name])
