"""Tiny models with tokenizers, as files of GGUF."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from deltatune.exporting.gguf.model import About, Kind, Plan, plan, write_model
from deltatune.testing.tiny_tokenizers import SENTENCES, tiny_tokenizer

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
_DECODER: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
}
_ROPE = {"rope_theta": 10000.0, "factor": 4.0}
LLAMA_3 = {**_ROPE, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("llama", "mistral", "qwen2")},
    "qwen3": ("qwen3", {"head_dim": 128}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3": ("llama", {"rope_parameters": {**LLAMA_3, "original_max_position_embeddings": 32}}),
    "linear": ("llama", {"rope_parameters": {**_ROPE, "rope_type": "linear"}}),
}
TEXTS = (
    "the quick brown fox, 2001 medals and so on",
    "Naïve café: 3.14% of £20?! 你好 🚀  two  blanks\n\n\tand I'll don't WE'VE",
    "",
)


@functools.cache
def tokenizer() -> Any:
    """Byte-level BPE that puts a begin token before a text."""
    return tiny_tokenizer("llama")


@functools.cache
def model(variant: str) -> PreTrainedModel:
    """A random model, whose vectors are not all 0 or 1."""
    name, settings = VARIANTS[variant]
    made = getattr(transformers, CLASSES[name])
    sizes = {} if name == "gpt2" else _DECODER
    torch.manual_seed(0)
    config = made.config_class(
        **{**sizes, **settings, "vocab_size": len(tokenizer()), "initializer_range": 0.2},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    found: PreTrainedModel = made(config).eval()
    for parameter in found.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return found


def planned(of: PreTrainedModel, reader: Any, **about: Any) -> Plan:
    """The plan of a model's file."""
    return plan(of.config, type(of).__name__, reader, About("tiny", **about), [2])


def written(of: PreTrainedModel, folder: Path, kind: Kind = "f32", reader: Any = None, **about: Any) -> Path:
    """The file of a model."""
    path = folder / f"{kind}.gguf"
    write_model(of, planned(of, reader or tokenizer(), **about), path, kind)
    return path


def sentence_pieces() -> PreTrainedTokenizerFast:
    """BPE with blanks as a letter and single bytes as tokens, as Llama 2 has it."""
    made: Any = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")  # for training alone
    made.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    made.pre_tokenizer = None
    content = made.to_str()

    parsed = json.loads(content)
    parsed["added_tokens"] = [token for token in parsed["added_tokens"] if token["id"] < 3]
    made = Tokenizer.from_str(json.dumps(parsed))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def word_pieces(*, lowercase: bool = True) -> PreTrainedTokenizerFast:
    """BERT's."""

    made: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        [*SENTENCES, *TEXTS],
        trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False),
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", **names)


def bert(reader: Any, class_name: str = "BertModel", **settings: Any) -> PreTrainedModel:
    """A random BERT."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(reader), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, initializer_range=0.2, **settings,
    )  # fmt: skip
    found: PreTrainedModel = getattr(transformers, class_name)(config).eval()
    return found
