"""Tiny models of six architectures, batches for them, and ways to make an adapter act.

Models are built once from configurations and copied; weights are drawn wide, so that small differences show.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

D, FF, LAYERS, HEADS, KV_HEADS, VOCABULARY, CLASSES, POSITIONS = 16, 32, 2, 4, 2, 48, 3, 64
ARCHITECTURES = ("t5", "bart", "llama", "gpt2", "bert", "vit")
SEQ2SEQ, CAUSAL, CLASSIFIERS = ("t5", "bart"), ("llama", "gpt2"), ("bert", "vit")
GENERATING = SEQ2SEQ + CAUSAL


def _build(name: str, dropout: float, attention: str) -> nn.Module:
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    encoder = {"hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    if name == "t5":
        config = T5Config(
            vocab_size=VOCABULARY,
            d_model=D,
            d_kv=D // HEADS,
            d_ff=FF,
            num_layers=LAYERS,
            num_heads=HEADS,
            decoder_start_token_id=0,
            dropout_rate=dropout,
        )
        made: Any = T5ForConditionalGeneration
    elif name == "bart":
        config = BartConfig(
            vocab_size=VOCABULARY,
            d_model=D,
            encoder_layers=LAYERS,
            decoder_layers=LAYERS,
            encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS,
            encoder_ffn_dim=FF,
            decoder_ffn_dim=FF,
            max_position_embeddings=POSITIONS,
            init_std=0.2,
            dropout=dropout,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
            **special,
        )
        made = BartForConditionalGeneration
    elif name == "llama":
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            intermediate_size=FF,
            num_key_value_heads=KV_HEADS,
            initializer_range=0.2,
            attention_dropout=dropout,
            **encoder,
            **special,
        )
        made = LlamaForCausalLM
    elif name == "gpt2":
        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=D,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=POSITIONS,
            initializer_range=0.2,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            **special,
        )
        made = GPT2LMHeadModel
    elif name == "bert":
        config = BertConfig(
            vocab_size=VOCABULARY,
            intermediate_size=FF,
            max_position_embeddings=POSITIONS,
            num_labels=CLASSES,
            initializer_range=0.2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            **encoder,
        )
        made = BertForSequenceClassification
    elif name == "vit":
        config = ViTConfig(
            intermediate_size=FF,
            image_size=16,
            patch_size=4,
            num_labels=CLASSES,
            initializer_range=0.2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            **encoder,
        )
        made = ViTForImageClassification
    else:
        raise KeyError(name)
    config._attn_implementation = attention
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = made(config)
        for leaf, parameter in model.named_parameters():  # biases and norms that are not all 0 or 1
            if parameter.dim() == 1:
                parameter.data.add_(torch.randn_like(parameter) * (0.1 if "norm" in leaf else 0.2))
    return model.eval()


@functools.cache
def _built(name: str, dropout: float, attention: str) -> nn.Module:
    return _build(name, dropout, attention)


def model(name: str, *, dropout: float = 0.0, attention: str = "sdpa") -> Any:
    """A fresh copy of the tiny model `name`, in eval mode."""
    return copy.deepcopy(_built(name, dropout, attention))


def heads(name: str) -> tuple[str, ...]:
    """The modules that would be newly initialised for the task."""
    return ("classifier",) if name in CLASSIFIERS else ()


def batch(name: str, *, rows: int = 4, length: int = 7, seed: int = 0) -> dict[str, Tensor]:
    """Right-padded rows of different lengths, with labels as the data layer makes them."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        pixels = torch.randn(rows, 3, 16, 16, generator=generator)
        return {"pixel_values": pixels, "labels": torch.arange(rows) % CLASSES}
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, length - row % 3 :] = 0
    ids = ids * mask
    found = {"input_ids": ids, "attention_mask": mask}
    if name == "bert":
        return {**found, "labels": torch.arange(rows) % CLASSES}
    if name in CAUSAL:
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :2] = -100  # the part that is not to be learned
        return {**found, "labels": labels}
    labels = torch.randint(3, VOCABULARY, (rows, length - 2), generator=generator)
    for row in range(rows):
        labels[row, length - 2 - row % 2 :] = -100
    return {**found, "labels": labels}


def prompts(name: str, *, seed: int = 0) -> dict[str, Tensor]:
    """Inputs for generation: padded on the left for decoder-only models, on the right for encoders."""
    made = batch(name, seed=seed)
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
