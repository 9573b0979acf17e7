"""Tiny models and an encoder of integers, so that evaluation is tested without the rest of the program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

PAD, EOS, VOCABULARY = 0, 1, 40


class Shim(torch.nn.Module):
    """What AdaptedModel offers, over a plain model."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base.eval()

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def may_drop_rows(self) -> bool:
        return True

    @property
    def is_sharded(self) -> bool:
        return False

    def generate(self, **arguments: Any) -> Any:
        return self.base.generate(**arguments)

    def encoder_states(self, batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
        encodes = self.base.config.is_encoder_decoder
        return self.base.get_encoder()(**batch).last_hidden_state if encodes else None

    def labelled_logits(
        self, batch: dict[str, torch.Tensor], states: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        known = {} if states is None else {"encoder_outputs": (states,)}
        logits, labels = self.base(**batch, **known).logits, batch["labels"]
        if not self.base.config.is_encoder_decoder:
            logits, labels = logits[:, :-1], labels[:, 1:]
        kept = labels != -100
        return logits[kept], labels[kept]

    def class_logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.base(**batch).logits


@dataclass
class Encoded:
    features: list[dict[str, Any]]
    lengths: list[int]


@dataclass
class Row:
    id: str
    input: Any
    target: str
    pair: str | None = None
    references: tuple[str, ...] = ()
    group: str | None = None


def pad(rows: list[list[int]], value: int, *, left: bool = False) -> torch.Tensor:
    width = max(map(len, rows))
    fill = [[value] * (width - len(row)) for row in rows]
    return torch.tensor([f + r if left else r + f for f, r in zip(fill, rows, strict=True)])


class NumberEncoder:
    """Text is numbers between spaces: "5 7" is the ids [5, 7]."""

    def __init__(self, task: str, labels: list[str] | None = None, eos_ids: tuple[int, ...] = (EOS,)) -> None:
        self.task, self.labels, self.eos_ids = task, labels, list(eos_ids)

    def encode(self, rows: list[Row]) -> Encoded:
        features = []
        for row in rows:
            prompt = [int(token) for token in row.input.split()]
            if self.labels:
                features.append({"input_ids": prompt, "labels": self.labels.index(row.target)})
            else:
                target = [int(token) for token in row.target.split()]
                features.append({"input_ids": prompt, "labels": [*target, EOS]})
        return Encoded(features, [len(feature["input_ids"]) for feature in features])

    def collate(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        prompts, labels = [f["input_ids"] for f in features], [f["labels"] for f in features]
        if self.labels:
            return self._inputs(prompts) | {"labels": torch.tensor(labels)}
        if self.task == "text-to-text":
            return self._inputs(prompts) | {"labels": pad(labels, -100)}
        whole = [prompt + label for prompt, label in zip(prompts, labels, strict=True)]
        masked = [[-100] * len(prompt) + label for prompt, label in zip(prompts, labels, strict=True)]
        return self._inputs(whole) | {"labels": pad(masked, -100)}

    def collate_prompts(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return self._inputs([f["input_ids"] for f in features], left=self.task == "causal-lm")

    def reference(self, text: str) -> str:
        return text

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def _inputs(self, rows: list[list[int]], *, left: bool = False) -> dict[str, torch.Tensor]:
        mask = pad([[1] * len(row) for row in rows], 0, left=left)
        return {"input_ids": pad(rows, PAD, left=left), "attention_mask": mask}


def _t5() -> Any:
    config = T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        decoder_start_token_id=PAD, pad_token_id=PAD, eos_token_id=EOS, dropout_rate=0.1,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def _bart() -> Any:
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64,
        pad_token_id=PAD, bos_token_id=2, eos_token_id=EOS, decoder_start_token_id=EOS,
        forced_eos_token_id=EOS,
    )  # fmt: skip
    model = BartForConditionalGeneration(config)
    model.generation_config.forced_eos_token_id = EOS
    model.generation_config.no_repeat_ngram_size = 2
    return model


def _llama() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, pad_token_id=PAD, bos_token_id=2, eos_token_id=EOS,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _bert() -> Any:
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config)


_BUILDERS: dict[str, tuple[Callable[[], Any], str]] = {
    "t5": (_t5, "text-to-text"),
    "bart": (_bart, "text-to-text"),
    "llama": (_llama, "causal-lm"),
    "bert": (_bert, "text-classification"),
}
LABELS = ["bad", "fair", "good"]


@dataclass
class Case:
    model: Shim
    encoder: NumberEncoder
    rows: list[Row]
    encoded: Encoded


@pytest.fixture
def make_case() -> Callable[[str], Case]:
    """Build model, encoder and seven rows of unequal length for an architecture."""

    def make(name: str) -> Case:
        torch.manual_seed(3)
        build, task = _BUILDERS[name]
        base = build()
        with torch.no_grad():
            for parameter in base.parameters():  # fresh models are all but uniform; make tokens differ
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.6)
        encoder = NumberEncoder(task, LABELS if task == "text-classification" else None)
        numbers = torch.randint(3, VOCABULARY, (7, 12)).tolist()
        rows = []
        for index, ids in enumerate(numbers):
            text, target = " ".join(map(str, ids[: 2 + index])), " ".join(map(str, ids[-1 - index % 4 :]))
            rows.append(Row(f"row-{index}", text, LABELS[index % 3] if encoder.labels else target))
        return Case(Shim(base), encoder, rows, encoder.encode(rows))

    return make
