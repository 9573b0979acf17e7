"""Tiny checkpoints on disk, written once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from deltatune.recipe.base_sections import ModelSpec

WORDS = ["<pad>", "</s>", "<unk>", "a", "b", "c", "table", "title"]


def spec(name: str | Path, **fields: Any) -> ModelSpec:
    """The recipe's ModelSpec with all its defaults."""
    return ModelSpec(name=str(name), **fields)


def _tokenizer(*, pad: bool = True) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokens = {"eos_token": "</s>", "unk_token": "<unk>"} | ({"pad_token": "<pad>"} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=inner, **tokens)


def _bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )


def _t5(folder: Path) -> None:
    config = T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    config.decoder_start_token_id = 0
    T5ForConditionalGeneration(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _llama(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    # What many published chat models carry along.
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9, max_length=20)
    model.save_pretrained(folder)
    _tokenizer(pad=False).save_pretrained(folder)


def _bert(folder: Path) -> None:
    BertModel(_bert_config()).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _bert_without_pooler(folder: Path) -> None:
    BertModel(_bert_config(), add_pooling_layer=False).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _bert_classifier(folder: Path) -> None:
    config = _bert_config()
    config.id2label = {0: "bad", 1: "good"}
    config.label2id = {"bad": 0, "good": 1}
    BertForSequenceClassification(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _vit(folder: Path) -> None:
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)


_WRITERS: dict[str, Callable[[Path], None]] = {
    "t5": _t5,
    "llama": _llama,
    "bert": _bert,
    "bert-without-pooler": _bert_without_pooler,
    "bert-classifier": _bert_classifier,
    "vit": _vit,
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder by architecture."""
    folders = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, write in _WRITERS.items():
            folders[name] = tmp_path_factory.mktemp(name)
            write(folders[name])
    return folders
