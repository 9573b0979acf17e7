"""Folders with tiny models, as Transformers writes them, for what loads its base by a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from deltatune.core.devices import own_random_states
from deltatune.testing.tiny_tokenizers import tiny_tokenizer

Kind = Literal["t5", "llama", "bert", "vit"]
OF_CLASS: dict[str, Kind] = {
    "AutoModelForSeq2SeqLM": "t5",
    "AutoModelForCausalLM": "llama",
    "AutoModelForSequenceClassification": "bert",
    "AutoModelForTokenClassification": "bert",
    "AutoModelForImageClassification": "vit",
    "AutoModel": "bert",
}
"""Class of Transformers that loads a task's base -> the kind that it loads."""


def save_tiny(kind: Kind, folder: Path) -> Path:
    """Write a random tiny model with its tokenizer or image processor; BERT and ViT have no head.

    Args:
        kind: T5, Llama (with a chat template), BERT, or ViT (for images of 8 x 8 pixels).
        folder: Where to.

    Returns:
        The folder.
    """
    if kind == "vit":
        ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    else:
        tiny_tokenizer(kind, chat=kind == "llama").save_pretrained(folder)
    with own_random_states():
        torch.manual_seed(0)
        _model(kind).save_pretrained(folder)
    return folder


def _model(kind: Kind) -> PreTrainedModel:
    if kind == "vit":
        return ViTModel(
            ViTConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                image_size=8, patch_size=4,
            )
        )  # fmt: skip
    tokenizer = tiny_tokenizer(kind)
    if kind == "t5":
        sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        sizes["decoder_start_token_id"] = 0
        config = T5Config(vocab_size=len(tokenizer), dropout_rate=0.1, **sizes)
        return T5ForConditionalGeneration(config)
    if kind == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            )
        )  # fmt: skip
    return BertModel(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64,
        )
    )  # fmt: skip
