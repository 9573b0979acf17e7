"""What is learned of a conversation is what TRL's SFTTrainer learns with `assistant_only_loss`.

TRL needs templates with generation markers. Ours are given the same conversations with these markers and
without any, where answers are found by the beginnings of the whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.chat_templates import FAMILIES, end_ids, talks_of, tokenizer_of
from transformers import LlamaConfig, LlamaForCausalLM

from deltatune.data.conversations import conversation_rows
from deltatune.data.encode import Encoder
from deltatune.data.rows import Record
from deltatune.models.processor import ModelFacts
from deltatune.recipe import DataSpec

trl = pytest.importorskip("trl")


def ours(name: str, *, marked: bool, train_on: str | None = None) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of a family's conversations."""
    spec = DataSpec(source="x", max_input_tokens=4096, train_on=train_on)
    records = [Record(f"row {n}", dict(talk)) for n, talk in enumerate(talks_of(name))]
    tokenizer = tokenizer_of(name, marked=marked)
    encoder = Encoder("conversation", tokenizer, spec, None, ModelFacts(end_ids=end_ids(name)))
    features = encoder.encode(conversation_rows(records, spec)).features
    return [(feature["input_ids"], feature["labels"]) for feature in features]


def theirs(name: str, folder: Path, *, everything: bool = False) -> list[tuple[list[int], list[int]]]:
    """The same of TRL's trainer."""
    from datasets import Dataset

    rows = [
        {"messages": talk["messages"], "tools": json.dumps(talk["tools"]) if "tools" in talk else None}
        for talk in talks_of(name)
    ]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    tokenizer = tokenizer_of(name, marked=True)
    trainer = trl.SFTTrainer(
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)),
        args=trl.SFTConfig(
            output_dir=str(folder), assistant_only_loss=not everything, max_length=None, report_to="none",
            use_cpu=True, bf16=False, eos_token=tokenizer.eos_token,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    return [(list(row["input_ids"]), list(row["labels"])) for row in trainer.train_dataset]


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_trl(name: str, tmp_path: Path) -> None:
    expected = theirs(name, tmp_path)
    for marked in (True, False):
        made: list[Any] = ours(name, marked=marked)
        for (ids, labels), (their_ids, their_labels) in zip(made, expected, strict=True):
            assert ids[: len(their_ids)] == their_ids
            assert labels[: len(their_labels)] == their_labels
            # Where the template leaves the last answer open, ours learns its end.
            assert len(ids) - len(their_ids) == (name == "glm")
