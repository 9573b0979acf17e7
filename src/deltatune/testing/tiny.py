"""Tiny models of every architecture, batches for them, and ways to make an adapter act.

Nothing is downloaded. Models are built once from configurations and copied; weights are drawn wide, so that
small differences show.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from deltatune.core.devices import own_random_states

D, FF, LAYERS, HEADS, KV_HEADS, EXPERTS, VOCABULARY, CLASSES, POSITIONS = 16, 32, 2, 4, 2, 3, 48, 3, 64
IMAGE, PATCH = 16, 4


@dataclass(frozen=True)
class Tiny:
    """How one architecture is made small; its name in `MODELS` is its model type.

    Args:
        classes: Start of the names of its classes in Transformers, and the end of the model's.
        settings: Of its configuration.
        dropout: Names of its dropout rates.
        heads: Modules that would be newly initialised for the task.
        eager: It has no other attention than its own.
    """

    classes: tuple[str, str]
    settings: dict[str, Any]
    dropout: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    eager: bool = False

    def config(self, dropout: float) -> Any:
        """The configuration."""
        rates = dict.fromkeys(self.dropout, dropout)
        if "vision_config" in self.settings:  # the only nested one
            nested = {**self.settings, "vision_config": {**self.settings["vision_config"], **rates}}
            return getattr(transformers, f"{self.classes[0]}Config")(**nested)
        return getattr(transformers, f"{self.classes[0]}Config")(**self.settings, **rates)


_SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
_SIZE = {
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": FF,
    "initializer_range": 0.2,
}
_TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": D,
    "d_kv": D // HEADS,
    "d_ff": FF,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "decoder_start_token_id": 0,
}
_BART = {
    **{f"{part}_{name}": size for part in ("encoder", "decoder")
       for name, size in (("layers", LAYERS), ("attention_heads", HEADS), ("ffn_dim", FF))},
    "d_model": D,
    "init_std": 0.2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    **_TEXT,
    **_SPECIAL,
}  # fmt: skip
_BERT = {**_SIZE, **_TEXT, "num_labels": CLASSES, "pad_token_id": 0}
_IMAGES = {**_SIZE, "image_size": IMAGE, "patch_size": PATCH}
_VIT = {**_IMAGES, "num_labels": CLASSES}
_LLAMA = {**_SIZE, **_TEXT, **_SPECIAL, "num_key_value_heads": KV_HEADS}
_GPT2 = {"n_embd": D, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS}
_NEW = ("ForSequenceClassification", "ForImageClassification")
_BERT_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_GENERATES = "ForConditionalGeneration"
_HEAD = ("classifier",)

MODELS: dict[str, Tiny] = {
    "t5": Tiny(("T5", _GENERATES), _T5, ("dropout_rate",)),
    "mt5": Tiny(("MT5", _GENERATES), {**_T5, "eos_token_id": 1}, ("dropout_rate",)),
    "bart": Tiny(("Bart", _GENERATES), _BART, ("dropout",)),
    "mbart": Tiny(("MBart", _GENERATES), _BART, ("dropout",)),
    "marian": Tiny(("Marian", "MTModel"), {**_BART, "decoder_start_token_id": 0}, ("dropout",)),
    "bert": Tiny(("Bert", _NEW[0]), _BERT, _BERT_DROPOUT, _HEAD),
    "roberta": Tiny(("Roberta", _NEW[0]), _BERT, _BERT_DROPOUT, _HEAD),
    "deberta-v2": Tiny(
        ("DebertaV2", _NEW[0]),
        {**_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0},
        _BERT_DROPOUT,
        _HEAD,
        eager=True,
    ),
    "vit": Tiny(("ViT", _NEW[1]), _VIT, _BERT_DROPOUT, _HEAD),
    "dinov2": Tiny(("Dinov2", _NEW[1]), {**_VIT, "mlp_ratio": FF // D}, _BERT_DROPOUT, _HEAD),
    "deit": Tiny(("DeiT", _NEW[1]), _VIT, _BERT_DROPOUT, _HEAD),
    "clip": Tiny(
        ("CLIP", _NEW[1]),
        {"vision_config": _IMAGES, "num_labels": CLASSES},
        ("attention_dropout",),
        _HEAD,
    ),
    "gpt2": Tiny(
        ("GPT2", "LMHeadModel"),
        {**_GPT2, **_SPECIAL, "vocab_size": VOCABULARY, "initializer_range": 0.2},
        ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    ),
    "gpt_neox": Tiny(
        ("GPTNeoX", "ForCausalLM"),
        {**_SIZE, **_TEXT, **_SPECIAL, "rotary_pct": 0.5},
        ("hidden_dropout", "attention_dropout"),
    ),
    "opt": Tiny(
        ("OPT", "ForCausalLM"),
        {**_SIZE, **_TEXT, **_SPECIAL, "init_std": 0.2, "ffn_dim": FF, "word_embed_proj_dim": D},
        ("dropout", "attention_dropout"),
    ),
    "bloom": Tiny(
        ("Bloom", "ForCausalLM"),
        {
            **_SPECIAL,
            "vocab_size": VOCABULARY,
            "hidden_size": D,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "initializer_range": 0.2,
        },
        ("hidden_dropout", "attention_dropout"),
        eager=True,
    ),
    "llama": Tiny(("Llama", "ForCausalLM"), _LLAMA, ("attention_dropout",)),
    "qwen2": Tiny(("Qwen2", "ForCausalLM"), _LLAMA, ("attention_dropout",)),
    "mistral": Tiny(("Mistral", "ForCausalLM"), _LLAMA, ("attention_dropout",)),
    "glm": Tiny(("Glm", "ForCausalLM"), {**_LLAMA, "head_dim": D // HEADS}, ("attention_dropout",)),
    "mixtral": Tiny(
        ("Mixtral", "ForCausalLM"), {**_LLAMA, "num_local_experts": EXPERTS}, ("attention_dropout",)
    ),
}
_TAGS = "ForTokenClassification"
TAGGERS: dict[str, Tiny] = {
    "bert-tags": Tiny(("Bert", _TAGS), _BERT, _BERT_DROPOUT, _HEAD),
    "roberta-tags": Tiny(("Roberta", _TAGS), _BERT, _BERT_DROPOUT, _HEAD),
    "deberta-v2-tags": Tiny(
        ("DebertaV2", _TAGS), MODELS["deberta-v2"].settings, _BERT_DROPOUT, _HEAD, eager=True
    ),
    "gpt2-tags": Tiny(
        ("GPT2", _TAGS), {**MODELS["gpt2"].settings, "num_labels": CLASSES}, MODELS["gpt2"].dropout, _HEAD
    ),
    "llama-tags": Tiny(
        ("Llama", _TAGS), {**_LLAMA, "num_labels": CLASSES}, ("attention_dropout",), ("score",)
    ),
}
"""The same with a head that tells of each token which class it is of."""
CORE = ("t5", "bart", "llama", "gpt2", "bert", "vit")
"""One of each kind, for what need not be shown on all."""
ARCHITECTURES = tuple(MODELS)
SEQ2SEQ = ("t5", "mt5", "bart", "mbart", "marian")
CAUSAL = ("gpt2", "gpt_neox", "opt", "bloom", "llama", "qwen2", "mistral", "glm", "mixtral")
TEXT_CLASSIFIERS, VISION = ("bert", "roberta", "deberta-v2"), ("vit", "dinov2", "deit", "clip")
CLASSIFIERS = TEXT_CLASSIFIERS + VISION
GENERATING = SEQ2SEQ + CAUSAL
CORE_CAUSAL = tuple(name for name in CORE if name in CAUSAL)
CORE_GENERATING = tuple(name for name in CORE if name in GENERATING)
_WIDTH = D // HEADS
_GROUPED = ("llama", "qwen2", "mistral", "glm", "mixtral")
QUERY_VALUE: dict[str, tuple[tuple[int, int], ...]] = {
    **dict.fromkeys(SEQ2SEQ, ((D, D),) * 12),
    **dict.fromkeys(CLASSIFIERS, ((D, D),) * 4),
    **dict.fromkeys(("gpt2", "gpt_neox", "bloom"), ((D, 3 * D),) * 2),
    "opt": ((D, D),) * 4,
    **dict.fromkeys(_GROUPED, ((D, D), (D, KV_HEADS * _WIDTH)) * 2),
}
"""(d_in, d_out) of the modules that are called query or value; GPT-2, GPT-NeoX and BLOOM have them in one."""
ATTENTION: dict[str, tuple[int, int]] = {
    **dict.fromkeys(SEQ2SEQ, (6, D)),
    **dict.fromkeys((*CLASSIFIERS, "gpt2", "gpt_neox", "bloom", "opt"), (2, D)),
    **dict.fromkeys(_GROUPED, (2, KV_HEADS * _WIDTH)),
}
"""(attention modules, width of their keys)."""
QUERY_VALUE |= {name: QUERY_VALUE[name.removesuffix("-tags")] for name in TAGGERS}
ATTENTION |= {name: ATTENTION[name.removesuffix("-tags")] for name in TAGGERS}
_HEAD_SIZE = D * CLASSES + CLASSES
HEAD_PARAMETERS: dict[str, int] = {
    **dict.fromkeys((*CLASSIFIERS, *TAGGERS), _HEAD_SIZE),
    "roberta": D * D + D + _HEAD_SIZE,
    "dinov2": 2 * D * CLASSES + CLASSES,
}
"""New parameters of a classifier: RoBERTa's has a layer more, DINOv2's reads the class token and the mean."""
UNUSED = {"marian": "embed_positions", "dinov2": "mask_token", "clip": "post_layernorm"}
"""Parts of the names of parameters that the result of these models for their task does not depend on."""


@functools.cache
def _built(name: str, dropout: float, attention: str) -> nn.Module:
    spec = _spec(name)
    config = spec.config(dropout)
    made = getattr(transformers, "".join(spec.classes))
    config._attn_implementation = "eager" if spec.eager or not made._supports_sdpa else attention
    with own_random_states():
        torch.manual_seed(0)
        model: nn.Module = made(config)
        for leaf, parameter in model.named_parameters():  # biases and norms that are not all 0 or 1
            if parameter.dim() == 1:
                parameter.data.add_(torch.randn_like(parameter) * (0.1 if "norm" in leaf else 0.2))
    return model.eval()


def model(name: str, *, dropout: float = 0.0, attention: str = "sdpa") -> Any:
    """A fresh copy of the tiny model `name`, in eval mode."""
    return copy.deepcopy(_built(name, dropout, attention))


def heads(name: str) -> tuple[str, ...]:
    """The modules that would be newly initialised for the task."""
    return _spec(name).heads


def _spec(name: str) -> Tiny:
    return TAGGERS[name] if name in TAGGERS else MODELS[name]


def batch(name: str, *, rows: int = 4, length: int = 7, seed: int = 0) -> dict[str, Tensor]:
    """Right-padded rows of different lengths, with labels as the data layer makes them."""
    generator = torch.Generator().manual_seed(seed)
    if name in VISION:
        pixels = torch.randn(rows, 3, IMAGE, IMAGE, generator=generator)
        return {"pixel_values": pixels, "labels": torch.arange(rows) % CLASSES}
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, length - row % 3 :] = 0
    ids = ids * mask
    found = {"input_ids": ids, "attention_mask": mask}
    if name in CLASSIFIERS:
        if name == "bert":  # rows of two texts, of which the first has three tokens
            found["token_type_ids"] = (torch.arange(length) > 2).long() * mask
        return {**found, "labels": torch.arange(rows) % CLASSES}
    if name in TAGGERS:  # of each word's first token, and none of the first and the last
        labels = (ids % CLASSES).masked_fill(mask == 0, -100)
        labels[:, [0, 3]] = -100
        return {**found, "labels": labels}
    if name in CAUSAL:
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :2] = -100  # the part that is not to be learned
        return {**found, "labels": labels}
    labels = torch.randint(3, VOCABULARY, (rows, length - 2), generator=generator)
    for row in range(rows):
        labels[row, length - 2 - row % 2 :] = -100
    return {**found, "labels": labels}


def prompts(name: str, *, rows: int = 4, length: int = 7, seed: int = 0) -> dict[str, Tensor]:
    """Inputs for generation: padded on the left for decoder-only models, on the right for encoders."""
    made = batch(name, rows=rows, length=length, seed=seed)
    ids, mask = made["input_ids"], made["attention_mask"]
    if name not in CAUSAL:
        return {"input_ids": ids, "attention_mask": mask}
    shifts = (mask.shape[1] - mask.sum(dim=1)).tolist()
    return {
        "input_ids": torch.stack([row.roll(n) for row, n in zip(ids, shifts, strict=True)]),
        "attention_mask": torch.stack([row.roll(n) for row, n in zip(mask, shifts, strict=True)]),
    }


def rows_of(made: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """Some rows of a batch, as padded as they were."""
    return {key: value[rows] for key, value in made.items()}


@torch.no_grad()
def perturb(adapter: nn.Module, *, seed: int = 0, std: float = 0.2) -> None:
    """Move every parameter of an adapter: LoRA's B is zero at the start, and then nothing acts."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * std
        parameter.add_(noise.to(parameter))
