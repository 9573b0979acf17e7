"""Roles: what a module does, independent of what an architecture calls it.

`query` is `q` in T5, `q_proj` in Llama, `attention.self.query` in BERT and a third of `c_attn` in GPT-2. Each
family lists its patterns (regular expressions on the end of a module path). A model type without an entry
gets the union of all of them, which finds the right modules in most layouts, and for a role that they do not
find the names that projections have in any attention or feed-forward part (`general`).
"""

from __future__ import annotations

import re

Table = dict[str, tuple[str, ...]]

_T5: Table = {
    "query": (r"Attention\.q",),
    "key": (r"Attention\.k",),
    "value": (r"Attention\.v",),
    "output": (r"Attention\.o",),
    "mlp_in": (r"\.wi", r"\.wi_0", r"\.wi_1"),
    "mlp_out": (r"\.wo",),
}
_PROJ: Table = {
    "query": (r"\.q_proj",),
    "key": (r"\.k_proj",),
    "value": (r"\.v_proj",),
    "output": (r"attn\.out_proj", r"attention\.o_proj", r"attn\.o_proj", r"attn\.dense"),
    "mlp_in": (r"\.fc1", r"\.gate_proj", r"\.up_proj", r"\.gate_up_proj"),
    "mlp_out": (r"\.fc2", r"\.down_proj"),
}
_BERT: Table = {
    "query": (r"attention\.self\.query", r"attention\.self\.query_proj"),
    "key": (r"attention\.self\.key", r"attention\.self\.key_proj"),
    "value": (r"attention\.self\.value", r"attention\.self\.value_proj"),
    "output": (r"attention\.output\.dense",),
    "mlp_in": (r"\.intermediate\.dense",),
    "mlp_out": (r"\.\d+\.output\.dense",),
}
_VIT: Table = {
    "query": (r"attention\.attention\.query", r"attention\.q_proj"),
    "key": (r"attention\.attention\.key", r"attention\.k_proj"),
    "value": (r"attention\.attention\.value", r"attention\.v_proj"),
    "output": (r"attention\.output\.dense", r"attention\.o_proj"),
    "mlp_in": (r"\.intermediate\.dense", r"mlp\.fc1"),
    "mlp_out": (r"\.\d+\.output\.dense", r"mlp\.fc2"),
}
_GPT2: Table = {
    "query": (r"attn\.c_attn", r"crossattention\.q_attn"),
    "key": (r"attn\.c_attn",),
    "value": (r"attn\.c_attn",),
    "output": (r"attn\.c_proj",),
    "mlp_in": (r"mlp\.c_fc",),
    "mlp_out": (r"mlp\.c_proj",),
}
_FUSED: Table = {
    "query": (r"\.query_key_value",),
    "key": (r"\.query_key_value",),
    "value": (r"\.query_key_value",),
    "output": (r"attention\.dense",),
    "mlp_in": (r"\.dense_h_to_4h",),
    "mlp_out": (r"\.dense_4h_to_h",),
}

_IN_ATTENTION = r"att\w*(?:\.\w+){0,2}\."
_IN_MLP = r"(?:mlp|ffn|ff|feed_?forward)\w*(?:\.\w+){0,2}\."
_FUSED_NAMES = "qkv|qkv_proj|Wqkv|query_key_value|c_attn|in_proj"


def _projections(letter: str, word: str, compressed: str) -> tuple[str, ...]:
    """Names of the projection to `word`, alone or fused with others; `compressed`: behind a bottleneck."""
    names = (
        rf"{letter}|{letter}_(?:proj|lin|head|linear)|w{letter}|W{letter}|project_{letter}"
        rf"|{word}|{word}_proj|projection_{word}|to_{word}|{compressed}|{_FUSED_NAMES}"
    )
    return (rf"{_IN_ATTENTION}(?:{names})(?:\.linear)?",)  # some wrap their projections


_GENERAL: Table = {
    "query": _projections("q", "query", "q_b_proj"),
    "key": _projections("k", "key", "kv_b_proj|kv_proj"),
    "value": _projections("v", "value", "kv_b_proj|kv_proj"),
    "output": (
        rf"{_IN_ATTENTION}(?:o|o_proj|out_proj|out_lin|post_proj|output\.dense|attention_out|dense|Wo|proj|c_proj)"
        r"(?:\.linear)?",
    ),
    "mlp_in": (
        rf"{_IN_MLP}(?:fc1|fc_in|lin1|linear_1|layer_1|dense1|w1|w3|Wi|c_fc|gate_proj|up_proj|input_linear"
        r"|intermediate|w_in\.w_\d|dense\.dense|0)",
        r"albert_layers\.\d+\.ffn",
    ),
    "mlp_out": (
        rf"{_IN_MLP}(?:fc2|fc_out|lin2|linear_2|layer_2|dense2|w2|Wo|c_proj|down_proj|output_linear|output"
        r"|w_out|output\.dense|2)",
        r"albert_layers\.\d+\.ffn_output",
    ),
}

TABLES: dict[str, Table] = {
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
    **dict.fromkeys(("bart", "mbart", "marian", "opt", "clip", "clip_vision_model"), _PROJ),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "glm", "glm4", "gemma", "gemma2", "phi"), _PROJ),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "deberta-v2", "electra"), _BERT),
    **dict.fromkeys(("vit", "dinov2", "deit"), _VIT),
    **dict.fromkeys(("gpt2",), _GPT2),
    **dict.fromkeys(("bloom", "gpt_neox", "falcon"), _FUSED),
}
_ALL_TABLES = (_T5, _PROJ, _BERT, _VIT, _GPT2, _FUSED)

GROUPS: dict[str, tuple[str, ...]] = {
    "attention": ("query", "key", "value", "output"),
    "mlp": ("mlp_in", "mlp_out"),
}
"""Names for several roles at once."""

ROLES: tuple[str, ...] = tuple(_T5)
SCOPES: tuple[str, ...] = ("encoder", "decoder", "cross")


def patterns(model_type: str, role: str) -> re.Pattern[str]:
    """Regular expression that a module path must end with to play `role` in this architecture."""
    return _end((TABLES[model_type],) if model_type in TABLES else _ALL_TABLES, role)


def general(role: str) -> re.Pattern[str]:
    """The same by the names that are usual anywhere, for architectures that no table knows."""
    return _end((_GENERAL,), role)


def _end(tables: tuple[Table, ...], role: str) -> re.Pattern[str]:
    ends = sorted({end for table in tables for end in table[role]})
    return re.compile(f"(?:{'|'.join(ends)})$")


def scope_of(path: str, *, is_decoder_only: bool) -> str:
    """Say where in the model `path` lies: `encoder`, `decoder` (its self-attention and MLP) or `cross`."""
    if re.search(r"EncDecAttention|encoder_attn|crossattention", path):
        return "cross"
    if is_decoder_only or re.search(r"(^|\.)decoder\.", path):
        return "decoder"
    return "encoder"
