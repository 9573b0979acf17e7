"""Adapters as peft saves them: every type, every setting that changes what a file holds, on five models.

`docs/how-to/from-peft.md` shows the outcome; `test_peft_adapters.py` holds it to it.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from tests.oracle import bridge
from torch import Tensor

from deltatune.testing import tiny

LINEAR = {"t5": ["q", "v"], "llama": ["q_proj", "v_proj"], "bert": ["query", "value"],
          "vit": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}  # fmt: skip
EMBEDDING = {"t5": "embed_tokens", "llama": "embed_tokens", "bert": "word_embeddings", "gpt2": "wte"}
EVERYWHERE = ("t5", "llama", "bert", "vit", "gpt2")
TEXT = ("t5", "llama", "bert", "gpt2")


@dataclass(frozen=True)
class Saved:
    """One way to save an adapter.

    Args:
        kind: peft's type.
        settings: Of its configuration, beside the targets and what every one is given.
        on: The architectures.
        refused: Words of the error that we give in place of loading it.
        tied: Whether input and output embeddings are one table.
        read_as: The method that it becomes here. Default: that of the type, or `peft`.
    """

    kind: str
    settings: dict[str, Any]
    on: tuple[str, ...] = EVERYWHERE
    refused: str | None = None
    tied: bool = False
    read_as: str = ""

    @property
    def method(self) -> str:
        """The method that it becomes here."""
        return self.read_as or _OWN.get(self.kind, "peft")

    @property
    def label(self) -> str:
        """The type and the settings that matter."""
        shown = ", ".join(f"{key}={value!r}" for key, value in self.settings.items() if key not in _SMALL)
        return f"{self.kind}({shown}){' tied' if self.tied else ''}"


_OWN = {"LORA": "lora", "ADALORA": "adalora", "IA3": "ia3", "LN_TUNING": "ln_tuning", "OFT": "oft",
        "VERA": "vera", "MISS": "miss", "SHIRA": "shira", "PREFIX_TUNING": "prefix",
        "PROMPT_TUNING": "prompt", "P_TUNING": "p_tuning"}  # fmt: skip
_SMALL = {"r", "init_r", "total_step", "num_virtual_tokens", "encoder_hidden_size", "oft_block_size",
          "n_frequency", "vector_length", "num_vectors", "projection_prng_key", "block_size", "d_initial",
          "eps", "theta_d_length", "boft_block_size", "num_layers", "token_dim"}  # fmt: skip
"""Settings that only make an adapter small."""
CONVERTED = "path_initial_model_for_weight_conversion"
_R = {"r": 2}
_VIRTUAL = {"num_virtual_tokens": 3}
_ADALORA = {"init_r": 3, "target_r": 2, "total_step": 10}
_LLAMA = ("llama",)
_LINEAR = ("t5", "llama", "bert", "vit")
"""Types that peft has for `nn.Linear` alone, and not for GPT-2's Conv1D."""
_BRIDGE = {"read_as": "peft"}

CASES: tuple[Saved, ...] = (
    Saved("LORA", _R),
    Saved("LORA", {"r": 4, "lora_alpha": 3, "use_rslora": True}),
    Saved("LORA", {**_R, "use_dora": True}, read_as="dora"),
    Saved("LORA", {**_R, "bias": "all"}),
    Saved("LORA", {**_R, "bias": "lora_only"}),
    Saved("LORA", {**_R, "lora_bias": True}, **_BRIDGE),
    Saved("LORA", {"r": 4, "rank_pattern": {".*0.*": 2}}),
    Saved("LORA", {**_R, "alpha_pattern": {".*0.*": 3}}),
    Saved("LORA", {**_R, "layers_to_transform": [1]}),
    Saved("LORA", {**_R, "layers_to_transform": [0], "layers_pattern": "layers"}, _LLAMA),
    Saved("LORA", {**_R, "exclude_modules": r".*\.0\..*"}),
    Saved("LORA", {**_R, "target_modules": "all-linear"}),
    Saved("LORA", {**_R, "target_modules": r".*\.1\..*(q|v|q_proj|v_proj|query|value|c_attn)"}),
    Saved("LORA", {**_R, "target_modules": "EMBEDDING"}, TEXT),
    Saved("LORA", {**_R, "target_modules": "EMBEDDING"}, ("llama", "t5"), tied=True),
    Saved("LORA", {**_R, "target_modules": ["lm_head"]}, ("llama", "gpt2", "t5")),
    Saved("LORA", {**_R, "target_modules": ["lm_head"]}, _LLAMA, tied=True),
    Saved("LORA", {**_R, "target_modules": ["projection"]}, ("vit",), **_BRIDGE),
    Saved("LORA", {**_R, "target_modules": ["projection"], "use_dora": True}, ("vit",), **_BRIDGE),
    Saved("LORA", {**_R, "modules_to_save": ["EMBEDDING"]}, TEXT),
    Saved("LORA", {**_R, "modules_to_save": ["EMBEDDING"]}, ("llama", "t5"), tied=True),
    Saved("LORA", {**_R, "modules_to_save": ["lm_head"]}, _LLAMA, tied=True),
    Saved("LORA", {**_R, "modules_to_save": ["EMBEDDING", "lm_head"]}, _LLAMA, tied=True),
    Saved("LORA", {**_R, "modules_to_save": ["EMBEDDING"], "ensure_weight_tying": True}, _LLAMA, tied=True),
    Saved("LORA", {**_R, "modules_to_save": ["norm"]}, _LLAMA),
    Saved("LORA", {**_R, "trainable_token_indices": [3, 4]}, TEXT),
    Saved("LORA", {**_R, "trainable_token_indices": [3, 4]}, ("llama", "t5"), tied=True),
    Saved("LORA", {**_R, "trainable_token_indices": {"wte": [5]}}, ("gpt2",)),
    *(Saved("LORA", {**_R, "init_lora_weights": start}) for start in ("gaussian", "orthogonal")),
    Saved("LORA", {**_R, "init_lora_weights": "pissa"}, read_as="pissa"),
    Saved("LORA", {**_R, "init_lora_weights": "pissa_niter_4"}, refused="init_lora_weights"),
    Saved("LORA", {**_R, "init_lora_weights": "olora"}, _LINEAR, refused="init_lora_weights"),
    *(
        Saved("LORA", {**_R, "init_lora_weights": start, CONVERTED: True}, _LLAMA)
        for start in ("pissa", "pissa_niter_4", "olora")
    ),
    Saved("LORA", {**_R, "monteclora_config": "MontecloraConfig"}, _LLAMA, **_BRIDGE),
    Saved(
        "LORA",
        {**_R, "target_parameters": ["q_proj.weight"], "target_modules": []},
        _LLAMA,
        refused="target_parameters",
    ),
    Saved("LORA", {**_R, "layer_replication": [(0, 2), (1, 2)]}, _LLAMA, refused="layer_replication"),
    Saved("LORA", {**_R, "alora_invocation_tokens": [3]}, _LLAMA, refused="alora_invocation_tokens"),
    Saved("LORA", {**_R, "use_qalora": True, "qalora_group_size": 4}, _LLAMA, refused="use_qalora"),
    Saved("LORA", {**_R, "velora_config": "VeloraConfig"}, _LLAMA, refused="velora_config"),
    Saved("LORA", {**_R, "kasa_config": "KasaConfig"}, _LLAMA, refused="kasa_config"),
    Saved("ADALORA", _ADALORA),
    Saved("ADALORA", {**_ADALORA, "layers_to_transform": [1]}),
    Saved("ADALORA", {**_ADALORA, "modules_to_save": ["norm"]}, _LLAMA),
    Saved("ADALORA", {**_ADALORA, "bias": "all"}, ("bert", "vit", "gpt2"), refused="a trained bias"),
    Saved("IA3", {}),
    Saved("IA3", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}, _LLAMA),
    Saved("IA3", {"target_modules": ["c_attn", "c_proj"], "feedforward_modules": ["c_proj"]}, ("gpt2",)),
    Saved("LN_TUNING", {"target_modules": "NORMS"}),
    Saved("OFT", {"oft_block_size": 4}, _LINEAR),
    Saved("OFT", {"oft_block_size": 4, "use_cayley_neumann": False}, _LINEAR),
    Saved("OFT", {"oft_block_size": 4, "coft": True, "eps": 0.1}, _LINEAR, **_BRIDGE),
    Saved("OFT", {"oft_block_size": 4, "block_share": True}, _LINEAR, **_BRIDGE),
    Saved("OFT", {"r": 4, "oft_block_size": 0}, _LINEAR, **_BRIDGE),
    Saved("VERA", {"r": 4}),
    Saved("VERA", {"r": 4, "save_projection": False}),
    Saved("VERA", {"r": 4, "bias": "all"}, ("bert",), refused="a trained bias"),
    Saved("MISS", _R, _LINEAR),
    Saved("MISS", {**_R, "init_weights": "bat"}, _LINEAR, **_BRIDGE),
    Saved("MISS", {**_R, "init_weights": "mini", "mini_r": 2}, _LINEAR, **_BRIDGE),
    Saved("SHIRA", _R, _LINEAR),
    Saved("PREFIX_TUNING", _VIRTUAL, ("t5", "llama", "gpt2")),
    Saved(
        "PREFIX_TUNING",
        {**_VIRTUAL, "prefix_projection": True, "encoder_hidden_size": 4},
        ("t5", "llama", "gpt2"),
    ),
    Saved("PROMPT_TUNING", _VIRTUAL, ("llama", "bert", "gpt2")),
    Saved("PROMPT_TUNING", {**_VIRTUAL, "num_transformer_submodules": 1}, ("t5",)),
    Saved(
        "PROMPT_TUNING",
        {**_VIRTUAL, "num_transformer_submodules": 2},
        ("t5",),
        refused="num_transformer_submodules",
    ),
    Saved("P_TUNING", {**_VIRTUAL, "encoder_hidden_size": 4}, ("llama", "bert", "gpt2")),
    Saved("P_TUNING", {**_VIRTUAL, "encoder_hidden_size": 4, "num_transformer_submodules": 1}, ("t5",)),
    Saved(
        "P_TUNING",
        {**_VIRTUAL, "encoder_hidden_size": 4, "num_transformer_submodules": 2},
        ("t5",),
        refused="num_transformer_submodules",
    ),
    Saved(
        "P_TUNING", {**_VIRTUAL, "encoder_hidden_size": 4, "encoder_reparameterization_type": "LSTM"}, _LLAMA
    ),
    Saved(
        "ADAPTION_PROMPT",
        {"adapter_len": 3, "adapter_layers": 1, "target_modules": "self_attn"},
        _LLAMA,
        refused="gates learned tokens",
    ),
    Saved(
        "CPT",
        {"cpt_token_ids": [3, 4], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
        _LLAMA,
        refused="adds tokens",
    ),
    Saved("CARTRIDGE", {**_VIRTUAL, "num_frozen_tokens": 1}, _LLAMA, refused="adds tokens"),
    Saved(
        "MULTITASK_PROMPT_TUNING",
        {**_VIRTUAL, "num_tasks": 2, "num_ranks": 1},
        _LLAMA,
        refused="the task of every row",
    ),
    Saved(
        "TRAINABLE_TOKENS",
        {"token_indices": [3, 4], "target_modules": ["EMBEDDING"]},
        TEXT,
        refused="rows of the embedding",
    ),
    Saved("OSF", {}, _LINEAR[:3], refused="rewrites the base"),
    Saved("PVERA", {"r": 4}, refused="samples"),
    Saved("ADAMSS", {"r": 4, "num_subspaces": 2, "subspace_rank": 1}, _LINEAR),
    Saved("BEFT", {}, ("bert", "vit")),
    Saved("BOFT", {"boft_block_size": 4}, _LINEAR),
    Saved("C3A", {"block_size": 4}, _LINEAR),
    Saved("DEFT", _R),
    Saved("DELORA", _R, _LINEAR),
    Saved("FOURIERFT", {"n_frequency": 8}),
    Saved("FROD", {}),
    Saved("GLORA", _R, _LINEAR),
    Saved("GRALORA", {"r": 4, "gralora_k": 2}),
    Saved("HIRA", _R),
    Saved("HRA", _R, _LINEAR),
    Saved("LILY", _R, _LINEAR),
    Saved("LOHA", _R, _LINEAR),
    Saved("LOHA", {**_R, "target_modules": ["projection"], "use_effective_conv2d": True}, ("vit",)),
    Saved("LOKR", _R, _LINEAR),
    Saved("LOKR", {**_R, "decompose_both": True}, _LLAMA),
    Saved("PEANUT", _R, _LINEAR),
    Saved("PSOFT", _R, _LINEAR),
    Saved("RANDLORA", {"r": 4}),
    Saved("ROAD", {"group_size": 4}, _LINEAR),
    Saved("SUPERTUNING", _R, _LINEAR),
    Saved("TINYLORA", _R),
    Saved("UNILORA", {**_R, "theta_d_length": 16}),
    Saved("VBLORA", {**_R, "vector_length": 4, "num_vectors": 8}),
    Saved("WAVEFT", {"n_frequency": 8}),
)
NORMS = {
    "t5": ["layer_norm"],
    "llama": ["input_layernorm", "post_attention_layernorm"],
    "bert": ["LayerNorm"],
    "vit": ["layernorm_before", "layernorm_after"],
    "gpt2": ["ln_1", "ln_2"],
}
TASKS = {**bridge.TASKS, "mixtral": "CAUSAL_LM"}


def base_of(case: Saved, architecture: str) -> Any:
    """A tiny base with biases that are not zero, tied if the case says so."""
    model = tiny.model(architecture)
    if case.tied:
        model.config.tie_word_embeddings = True
        head = model.get_output_embeddings()
        head.weight = model.get_input_embeddings().weight
    return model


def config_of(case: Saved, architecture: str) -> Any:
    """peft's configuration."""
    settings = {key: value for key, value in case.settings.items() if key != CONVERTED}
    kind = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(case.kind)]
    fields = {field for field in kind.__dataclass_fields__}
    if "target_modules" in fields and "target_modules" not in settings:
        settings["target_modules"] = LINEAR.get(architecture, ["q_proj"])
    for key in ("target_modules", "modules_to_save"):
        value = settings.get(key)
        if value == "NORMS":
            settings[key] = NORMS[architecture]
        elif value == "EMBEDDING":
            settings[key] = [EMBEDDING[architecture]]
        elif isinstance(value, list):
            settings[key] = [EMBEDDING[architecture] if each == "EMBEDDING" else each for each in value]
    if architecture == "vit" and "modules_to_save" in fields and "modules_to_save" not in settings:
        settings["modules_to_save"] = ["classifier"]
    if architecture == "gpt2" and "fan_in_fan_out" in fields:
        settings["fan_in_fan_out"] = True
    if case.kind == "IA3" and "feedforward_modules" not in settings:
        settings["feedforward_modules"] = []
    for key in ("velora_config", "kasa_config", "monteclora_config"):
        if key in settings:
            settings[key] = getattr(peft, settings[key])()
    return kind(task_type=TASKS[architecture], **settings)


def saved_by_peft(case: Saved, architecture: str, folder: Path) -> tuple[Any, Any, Any]:
    """Write the adapter, which acts: the base, the logits that it has in peft, and those of the base.

    Of one that is refused there are no logits: some want the task of every row.
    """
    base = base_of(case, architecture)
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(copy.deepcopy(base), config_of(case, architecture))
        start = folder.parent / "start"
        if CONVERTED in case.settings:
            theirs.peft_config["default"].init_lora_weights = True
            theirs.save_pretrained(start)
            theirs.peft_config["default"].init_lora_weights = case.settings["init_lora_weights"]
        bridge.perturb_trainable(theirs, 3)
        theirs.eval()
        more = {CONVERTED: str(start)} if start.exists() else {}
        batch = batch_of(architecture)
        wanted = None if case.refused else bridge.real_logits(theirs, architecture, batch)
        theirs.save_pretrained(folder, **more)
    return base, wanted, None if case.refused else bridge.real_logits(base, architecture, batch)


def batch_of(architecture: str) -> dict[str, Tensor]:
    """A batch without padding, which peft's learned tokens do not stand on the left of."""
    batch = tiny.batch(architecture)
    if "attention_mask" in batch:
        batch["input_ids"] = batch["input_ids"].clamp(min=3)
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    return batch
