"""The settings of peft's configs, by type: what each is called here, or why it has no counterpart.

`adapt` takes over what is marked so, and refuses the others where they are set; docs/how-to/from-peft.md is
written out of this. Types that are not here are run by peft's own layers (the method `peft`), under the names
that peft has for their settings.
"""

from __future__ import annotations

from typing import NamedTuple


class Counterpart(NamedTuple):
    """What a setting of peft's is here."""

    here: str
    """In words, for people."""
    taken: bool = False
    """Whether `adapt` takes it over from a config of peft's."""


def _taken(here: str) -> Counterpart:
    return Counterpart(here, taken=True)


_PATHS = "whole paths in `targets`; a file's tensors tell by themselves"
_NOT_HERE = "none: "
COMMON: dict[str, Counterpart] = {
    "target_modules": _taken("`targets` (with the method `peft`: `target_modules`)"),
    "modules_to_save": _taken("`heads` of `deltatune.adapt`; in recipes new heads by themselves"),
    "fan_in_fan_out": _taken("nothing to set: told by the layer"),
    "exclude_modules": Counterpart(_PATHS),
    "layers_to_transform": Counterpart(_PATHS),
    "layers_pattern": Counterpart(_PATHS),
    "bias": Counterpart("read from files (`biases` of lora); to train biases alone, take `bitfit`"),
    "init_weights": Counterpart(_NOT_HERE + "methods start as their papers do"),
}
_PROMPT: dict[str, Counterpart] = {
    "num_virtual_tokens": _taken("`n_tokens`"),
    "token_dim": _taken("nothing to set: told by the base"),
    "num_transformer_submodules": Counterpart("`scopes` of prefix; prompts stand before the encoder's input"),
    "num_attention_heads": _taken("nothing to set: told by the base"),
    "num_layers": _taken("nothing to set: told by the base"),
}
_LORA: dict[str, Counterpart] = {
    "r": _taken("`r`"),
    "lora_alpha": _taken("`alpha`"),
    "lora_dropout": _taken("`dropout`"),
    "use_rslora": _taken("`rslora`"),
    "use_dora": _taken("the method `dora`"),
    "init_lora_weights": Counterpart(
        "the methods `pissa` and `loftq`; files with other starts that leave the base alone are read as LoRA"
    ),
    "rank_pattern": Counterpart("`rank_pattern`, by whole paths"),
    "alpha_pattern": Counterpart("`alpha_pattern`, by whole paths"),
    "lora_bias": Counterpart("the method `peft` with `lora_bias`; files of it load"),
    "loftq_config": Counterpart("the method `loftq`"),
    "trainable_token_indices": Counterpart("files load, as whole tables; to train them: `heads` of `adapt`"),
    "ensure_weight_tying": Counterpart("nothing to set: rows stand in all tables that share them"),
    "target_parameters": Counterpart(_NOT_HERE + "deltas act at modules, not at parameters"),
    "layer_replication": Counterpart(_NOT_HERE + "it changes the base's structure"),
    "megatron_config": Counterpart(_NOT_HERE + "Megatron's layers are not Transformers'"),
    "megatron_core": Counterpart(_NOT_HERE + "Megatron's layers are not Transformers'"),
    "eva_config": Counterpart(_NOT_HERE + "a start; convert it by peft's own means, as plain LoRA it loads"),
    "corda_config": Counterpart(_NOT_HERE + "a start that changes the base; convert it to plain LoRA"),
    "lora_ga_config": Counterpart(_NOT_HERE + "a start that changes the base; convert it to plain LoRA"),
    "velora_config": Counterpart(_NOT_HERE + "it compresses what backward keeps; LoRA-FA is `lora_fa`"),
    "kasa_config": Counterpart(_NOT_HERE + "it truncates the base's weights"),
    "monteclora_config": Counterpart("files load, by the method `peft`"),
    "use_bdlora": Counterpart(_NOT_HERE + "block-diagonal factors for a sharded server"),
    "arrow_config": Counterpart(_NOT_HERE + "it routes between adapters by their inputs"),
    "alora_invocation_tokens": Counterpart(_NOT_HERE + "it acts from a token of the input on"),
    "use_qalora": Counterpart(_NOT_HERE + "it is for GPTQ's groups"),
    "qalora_group_size": Counterpart(_NOT_HERE + "it is for GPTQ's groups"),
    "runtime_config": Counterpart(_NOT_HERE + "where peft computes; nothing of it is in a file"),
}
SETTINGS: dict[str, dict[str, Counterpart]] = {
    "LORA": _LORA,
    "ADALORA": _LORA
    | {
        "r": _taken("nothing: AdaLoRA ignores it"),
        "init_r": _taken("`init_r`"),
        "target_r": _taken("`target_r`"),
        "tinit": _taken("`tinit`, also as a share of the steps"),
        "tfinal": _taken("`tfinal`, also as a share of the steps"),
        "deltaT": _taken("`interval`"),
        "beta1": _taken("`beta1`"),
        "beta2": _taken("`beta2`"),
        "orth_reg_weight": _taken("`orth_reg`"),
        "total_step": _taken("nothing to set: the steps that are really made"),
        "rank_pattern": Counterpart("what AdaLoRA learns; read from files"),
    },
    "IA3": {
        "feedforward_modules": _taken("`feedforward`; here it is apart from `targets`, in peft a part of it"),
        "init_ia3_weights": Counterpart(_NOT_HERE + "it starts at ones, as in the paper"),
    },
    "LN_TUNING": {},
    "OFT": {
        "r": Counterpart("the method `peft`; `block_size` is the other way to say it"),
        "oft_block_size": _taken("`block_size`"),
        "use_cayley_neumann": _taken("`neumann_terms`: 0 for the exact transform"),
        "num_cayley_neumann_terms": _taken("`neumann_terms`"),
        "coft": Counterpart("the method `peft`; files load"),
        "eps": Counterpart("the method `peft`; files load"),
        "block_share": Counterpart("the method `peft`; files load"),
        "module_dropout": Counterpart(_NOT_HERE + "it draws from the global generator"),
    },
    "VERA": {
        "r": _taken("`r`"),
        "vera_dropout": _taken("`dropout`"),
        "d_initial": _taken("`d_initial`"),
        "projection_prng_key": _taken("`projection_seed`"),
        "save_projection": _taken("nothing to set: both kinds of file load"),
    },
    "MISS": {
        "r": _taken("`r`"),
        "miss_dropout": _taken("`dropout`"),
        "mini_r": Counterpart("the method `peft`; files load"),
        "init_weights": Counterpart("`bat` and `mini`: the method `peft`; files load"),
    },
    "SHIRA": {
        "r": _taken("`r`"),
        "mask_type": Counterpart(_NOT_HERE + "the mask is random; that of a file is kept"),
        "random_seed": Counterpart("the run's seed"),
    },
    "PREFIX_TUNING": _PROMPT
    | {
        "prefix_projection": Counterpart("`projection`"),
        "encoder_hidden_size": Counterpart("`projection_size`"),
        "init_weights": Counterpart("`init_std`"),
    },
    "PROMPT_TUNING": _PROMPT
    | {
        "prompt_tuning_init": Counterpart("`init`: `vocabulary`, `text` or `random`"),
        "prompt_tuning_init_text": Counterpart("`text`"),
        "tokenizer_name_or_path": Counterpart("`processor` of `deltatune.adapt`; in recipes the base's"),
        "tokenizer_kwargs": Counterpart("`processor` of `deltatune.adapt`; in recipes the base's"),
    },
    "P_TUNING": _PROMPT
    | {
        "encoder_reparameterization_type": Counterpart("`encoder`: `lstm`, `mlp` or `none`"),
        "encoder_hidden_size": Counterpart("`hidden`"),
        "encoder_num_layers": Counterpart(_NOT_HERE + "two, as in the paper's code"),
        "encoder_dropout": Counterpart(_NOT_HERE + "it draws from the global generator"),
    },
    "TRAINABLE_TOKENS": {
        "token_indices": Counterpart(_NOT_HERE + "with LoRA, `trainable_token_indices` load"),
    },
}


def counterpart(kind: str, field: str) -> Counterpart | None:
    """What a setting of a type is here; None of types that peft's own layers run, and of unknown settings."""
    own = SETTINGS.get(kind)
    return None if own is None else own.get(field, COMMON.get(field))
