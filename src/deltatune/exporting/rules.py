"""What vLLM and SGLang ask of a LoRA's folder, as one table, and a check of a folder by it.

The rules are theirs, as documented and as their code reads a folder; `SOURCES` says where and of when.
Neither program is asked: they need an accelerator or a build of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from deltatune.checkpoint.saved import CONFIG, TENSORS, read_adapter_json

SOURCES = {
    "vLLM": "docs.vllm.ai, LoRA Adapters and Supported Models; vllm/config/lora.py, lora/peft_helper.py, "
    "lora/utils.py and lora/lora_model.py of 2026 (0.22 and after)",
    "SGLang": "docs.sglang.io, LoRA Serving; srt/lora/lora_config.py, lora_manager.py and utils.py of 2026",
}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's `--max-lora-rank`; its default is 16."""
WITH_LORA = _names(
    """
    AfmoeForCausalLM ApertusForCausalLM ArceeForCausalLM BailingMoeForCausalLM CohereForCausalLM
    Cohere2ForCausalLM CwmForCausalLM DeepseekV2ForCausalLM DeepseekV3ForCausalLM Ernie4_5ForCausalLM
    Ernie4_5_MoeForCausalLM Exaone4ForCausalLM FalconH1ForCausalLM GemmaForCausalLM Gemma2ForCausalLM
    Gemma3ForCausalLM Gemma4ForCausalLM GlmForCausalLM Glm4ForCausalLM Glm4MoeForCausalLM
    GptOssForCausalLM GPTBigCodeForCausalLM GraniteForCausalLM GraniteMoeForCausalLM
    GraniteMoeHybridForCausalLM GraniteMoeSharedForCausalLM HunYuanDenseV1ForCausalLM
    HunYuanMoEV1ForCausalLM JambaForCausalLM Lfm2ForCausalLM Lfm2MoeForCausalLM LlamaForCausalLM
    LongcatFlashForCausalLM MiniMaxM2ForCausalLM MistralForCausalLM MixtralForCausalLM
    NemotronForCausalLM NemotronHForCausalLM Olmo3ForCausalLM OlmoForCausalLM Olmo2ForCausalLM
    OPTForCausalLM PhiForCausalLM Phi3ForCausalLM PhiMoEForCausalLM Qwen2ForCausalLM Qwen2MoeForCausalLM
    Qwen3ForCausalLM Qwen3MoeForCausalLM Qwen3NextForCausalLM SeedOssForCausalLM SmolLM3ForCausalLM
    SolarForCausalLM Starcoder2ForCausalLM VaultGemmaForCausalLM
    """
)
"""Classes of Transformers that vLLM's table of supported models marks for LoRA."""
WITHOUT_LORA = _names(
    """
    BloomForCausalLM DbrxForCausalLM FalconForCausalLM FalconMambaForCausalLM FlexOlmoForCausalLM
    Gemma3nForCausalLM GPT2LMHeadModel GPTJForCausalLM GPTNeoXForCausalLM MambaForCausalLM
    Mamba2ForCausalLM MptForCausalLM OlmoeForCausalLM StableLmForCausalLM Zamba2ForCausalLM
    """
)
"""Those that the table has without that mark."""
EMBEDDINGS = ("embed_tokens", "lm_head")
"""Layers besides linear ones that both act on."""
OF_SGLANG = _names(
    """
    q_proj k_proj v_proj o_proj out_proj qkv_proj gate_proj up_proj gate_up_proj down_proj in_proj
    embed_tokens lm_head q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj
    """
)
"""Ends of paths that SGLang has LoRA layers for."""
_KEY = re.compile(
    r"base_model\.model\.(?P<path>.+)\.(?:lora_(?P<part>[AB])\.weight|lora_embedding_(?P<table>[AB]))"
)


@dataclass(frozen=True)
class Folder:
    """A LoRA's folder, as the two read it."""

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    """Of the tensors, by key."""


@dataclass(frozen=True)
class Rule:
    """One thing that is asked."""

    who: str
    """`vLLM`, `SGLang` or both."""
    asks: str
    """What, as a sentence."""
    breaks: Callable[[Folder], Iterator[str]]
    """What a folder has that breaks it."""


def _setting(name: str, allowed: tuple[Any, ...]) -> Callable[[Folder], Iterator[str]]:
    def breaks(folder: Folder) -> Iterator[str]:
        value = folder.config.get(name)
        if value not in allowed:
            yield f"{name} is {value!r}"

    return breaks


def _ranks(folder: Folder) -> Iterator[str]:
    r = folder.config["r"]
    if r not in MAX_LORA_RANKS:
        yield f"r is {r}"
    for key, shape in folder.shapes.items():
        found = _KEY.fullmatch(key)
        part = found and (found["part"] or found["table"])
        if part and shape["AB".index(part)] != r:
            yield f"{key} has the shape {list(shape)}, and r is {r}"


def _keys(folder: Folder) -> Iterator[str]:
    yield from (key for key in folder.shapes if not _KEY.fullmatch(key))


def _pairs(folder: Folder) -> Iterator[str]:
    held: dict[str, set[str]] = {}
    for key in folder.shapes:
        if found := _KEY.fullmatch(key):
            held.setdefault(found["path"], set()).add(found["part"] or found["table"])
    yield from (path for path, parts in held.items() if len(parts) < 2)


def _tables(folder: Folder) -> Iterator[str]:
    for key in folder.shapes:
        found = _KEY.fullmatch(key)
        if found and found["table"] and found["path"].rpartition(".")[2] not in EMBEDDINGS:
            yield found["path"]


def _targets(folder: Folder) -> Iterator[str]:
    if not isinstance(folder.config.get("target_modules"), list):
        yield f"target_modules is {folder.config.get('target_modules')!r}"


def _of_sglang(folder: Folder) -> Iterator[str]:
    paths = dict.fromkeys(found["path"] for key in folder.shapes if (found := _KEY.fullmatch(key)))
    yield from (path for path in paths if path.rpartition(".")[2] not in OF_SGLANG)


NONE: tuple[Any, ...] = (None, {})
RULES = (
    Rule("both", "The type is plain LoRA.", _setting("peft_type", ("LORA",))),
    Rule("both", "Magnitudes as of DoRA are not computed.", _setting("use_dora", (None, False))),
    Rule("vLLM", "No module is saved whole (modules_to_save).", _setting("modules_to_save", (None, []))),
    Rule("vLLM", "No bias is trained.", _setting("bias", (None, "none"))),
    Rule("both", "All layers have one rank: rank_pattern is not read.", _setting("rank_pattern", (None, {}))),
    Rule(
        "both", "All layers have one scale: alpha_pattern is not read.", _setting("alpha_pattern", (None, {}))
    ),
    Rule("SGLang", "The scale is lora_alpha / r.", _setting("use_rslora", (None, False))),
    Rule("vLLM", "The rank is one of its max_lora_rank, and that of every tensor.", _ranks),
    Rule("both", "Keys are base_model.model.<path>.lora_A.weight and lora_B.weight.", _keys),
    Rule("both", "Every layer has both factors.", _pairs),
    Rule("both", "Of embeddings only embed_tokens and lm_head have updates.", _tables),
    Rule("SGLang", "target_modules is a list of names.", _targets),
    Rule("SGLang", "Layers are those that it has LoRA for.", _of_sglang),
)


def broken_rules(folder: Path) -> list[tuple[Rule, str]]:
    """The rules that a LoRA's folder breaks, each with what it has first that does so."""
    with safe_open(folder / TENSORS, "pt") as tensors:
        shapes = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    read = Folder(read_adapter_json(folder / CONFIG), shapes)
    found = ((rule, next(rule.breaks(read), None)) for rule in RULES)
    return [(rule, what) for rule, what in found if what is not None]


def serving_rank(rank: int) -> int | None:
    """The least rank that vLLM can be started for and that holds this one; None if none does."""
    return next((each for each in MAX_LORA_RANKS if each >= rank), None)
