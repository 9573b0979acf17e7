"""Trained parameters by the formulas of the papers, counted over the names of the models' own parameters.

Nothing of the program is used: modules are found by regular expressions of this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from deltatune.testing import tiny
from deltatune.testing.tiny import FF, LAYERS, SEQ2SEQ, D

_NORM = re.compile(r"norm\w*\.(weight|bias)$|\bln_\w+\.(weight|bias)$", re.IGNORECASE)
_KEY_OR_VALUE = re.compile(r"(\.[kv]|[kv]_proj|\.(key|value)(_proj)?|c_attn|query_key_value)\.weight$")
_KEY_ALONE = re.compile(r"(\.k|k_proj|\.key(_proj)?)\.\w+$")
_ROTARY = ("llama", "qwen2", "mistral", "glm", "gpt_neox", "mixtral", "deberta-v2")

WITHOUT_BIAS = frozenset(("t5", "mt5", "llama", "mistral", "mixtral"))


def _shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    heads = tiny.heads(architecture)
    return {
        name: tuple(p.shape)
        for name, p in tiny.model(architecture).named_parameters()
        if not any(name.startswith(f"{head}.") for head in heads)
    }


def _blocks(architecture: str) -> tuple[int, int]:
    """(attentions, feed-forwards)."""
    return (3 * LAYERS, 2 * LAYERS) if architecture in SEQ2SEQ else (LAYERS, LAYERS)


def adapters(b: int, kind: str) -> Callable[[str], int]:
    """2 d b + b + d for each: after all sub-layers (houlsby), or at the feed-forwards."""

    def count(architecture: str) -> int:
        attentions, feed_forwards = _blocks(architecture)
        sites = feed_forwards + (attentions if kind == "houlsby" else 0)
        return sites * (2 * D * b + b + D)

    return count


def norms(architecture: str) -> int:
    """All weights and biases of norms."""
    return sum(shape[0] for name, shape in _shapes(architecture).items() if _NORM.search(name))


def biases(architecture: str) -> int:
    """All biases but idle ones of keys; one for each output of a linear layer where there are none."""
    shapes = _shapes(architecture)
    sizes = {name: shape[0] for name, shape in shapes.items() if name.endswith(".bias")}
    if not sizes:
        sizes = {
            name: shape[0]
            for name, shape in shapes.items()
            if len(shape) == 2 and not re.search(r"embed|shared|relative|lm_head|mlp\.gate\.", name)
        }
    rotary = architecture in _ROTARY
    return sum(n for name, n in sizes.items() if rotary or not _KEY_ALONE.search(name))


def rescaled(architecture: str) -> int:
    """The widths of keys and values, and the inner width of each feed-forward."""
    shapes = {name: shape for name, shape in _shapes(architecture).items() if _KEY_OR_VALUE.search(name)}
    outputs = sum(shape[1 if "c_attn" in name else 0] for name, shape in shapes.items())
    return outputs + _blocks(architecture)[1] * (4 * D if architecture in ("gpt2", "bloom") else FF)


def rotations(b: int, matrices: Mapping[str, tuple[tuple[int, int], ...]]) -> Callable[[str], int]:
    """Blocks of b on the input of each of the `matrices` (d_in, d_out): d_in (b - 1) / 2."""
    return lambda architecture: sum(d_in * (b - 1) // 2 for d_in, _ in matrices[architecture])
