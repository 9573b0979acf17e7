"""A recipe over a tiny T5 in a local folder, whose runs take about a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from deltatune.recipe import Recipe, parse_recipe
from tests.tiny_tokenizers import tiny_tokenizer

WORDS = ("medals", "goals", "songs", "ships", "stars", "rivers", "books", "trains")


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Transformers folder with a random tiny T5 and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-t5")
    tokenizer = tiny_tokenizer("t5")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, dropout_rate=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny Llama with a chat template."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = tiny_tokenizer("llama", chat=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny BERT without a head for classes."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    tokenizer = tiny_tokenizer("bert")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """48 rows whose target is a word of the input."""
    path = tmp_path / "rows.jsonl"
    lines = [
        {"id": str(i), "text": f"{i} of the {WORDS[i % 8]} " + "and so on " * (i % 5), "title": WORDS[i % 8]}
        for i in range(48)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def make_recipe(t5_folder: Path, rows: Path) -> Callable[..., Recipe]:
    """Build the recipe with changes such as `"train.epochs=2"`."""

    def make(*overrides: str, **sections: Any) -> Recipe:
        content: dict[str, Any] = {
            "task": "text-to-text",
            "model": str(t5_folder),
            "data": {
                "source": str(rows),
                "columns": {"input": "text", "target": "title", "id": "id"},
                "split": {"validation": 0.2, "test": 0.2},
                "max_target_tokens": 16,
            },
            "methods": ["lora"],
            "train": {"epochs": 2, "batch_size": 8, "lr": 0.01},
            "evaluation": {"max_new_tokens": 8, "batch_size": 8},
        } | sections
        return parse_recipe(content, overrides)

    return make


@pytest.fixture
def make_classifier(make_recipe: Callable[..., Recipe], bert_folder: Path) -> Callable[..., Recipe]:
    """Build a recipe of text classification: eight classes, which a word of the input tells apart."""

    def make(*overrides: str, **sections: Any) -> Recipe:
        content: dict[str, Any] = {
            "task": "text-classification",
            "model": str(bert_folder),
            "train": {"max_steps": 2, "batch_size": 8, "precision": "fp32"},
            "evaluation": {"batch_size": 8},
        } | sections
        return make_recipe(*overrides, **content)

    return make
