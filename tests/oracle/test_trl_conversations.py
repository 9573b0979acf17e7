"""What is learned of a conversation is what TRL's SFTTrainer learns with `assistant_only_loss`.

TRL needs templates with generation markers. Ours are given the same conversations with these markers and
without any, where answers are found by the beginnings of the whole.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.chat_templates import (
    FAMILIES,
    MANY_TURNS,
    ONE_TURN,
    WITH_SYSTEM,
    WITH_TOOLS,
    end_ids,
    talks_of,
    tokenizer_of,
)
from transformers import LlamaConfig, LlamaForCausalLM

from deltatune.data.conversations import conversation_rows
from deltatune.data.encode import Encoder
from deltatune.data.rows import Record
from deltatune.errors import DataError
from deltatune.models.processor import ModelFacts
from deltatune.recipe import DataSpec
from deltatune.testing.tiny_tokenizers import tiny_tokenizer

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


QUICK = ("qwen", "gemma")
"""Of which the trainer itself is asked by default; its making takes a second."""


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_that_marks_tell(name: str) -> None:
    """By the mask that TRL takes from Transformers."""
    tokenizer = tokenizer_of(name, marked=True)
    expected = [
        tokenizer.apply_chat_template(
            talk["messages"], tools=talk.get("tools"), return_dict=True, return_assistant_tokens_mask=True
        )
        for talk in talks_of(name)
    ]
    for (ids, labels), made in zip(ours(name, marked=False), expected, strict=True):
        their_ids, mask = made["input_ids"], made["assistant_masks"]
        assert ids[: len(their_ids)] == their_ids
        assert labels[: len(mask)] == [id_ if kept else -100 for id_, kept in zip(ids, mask, strict=False)]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_answers_are_those_of_trl(name: str, tmp_path: Path) -> None:
    expected = theirs(name, tmp_path)
    for marked in (True, False):
        made: list[Any] = ours(name, marked=marked)
        for (ids, labels), (their_ids, their_labels) in zip(made, expected, strict=True):
            assert ids[: len(their_ids)] == their_ids
            assert labels[: len(their_labels)] == their_labels
            # Where the template leaves the last answer open, ours learns its end.
            assert len(ids) - len(their_ids) == (name == "glm")


SHIPPED = Path(trl.__file__).parent / "chat_templates"
MARKED = sorted(path.name.removesuffix("_training.jinja") for path in SHIPPED.glob("*_training.jinja"))
FOUND = (
    "cohere", "cohere2", "gemma", "gemma3", "glm4moe", "idefics3", "lfm2_v2", "llama3", "phi3", "phi3_5",
    "qwen2_5", "qwen2_5_vl", "qwen3_instruct_2507", "qwen3_vl", "smolvlm",
)  # fmt: skip
"""Models whose own templates have no marks, and whose parts are beginnings of the whole."""
ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>", "<|user|>",
    "<|observation|>", "<end_of_utterance>", "<turn|>",
)  # fmt: skip
SPECIAL = re.compile("<[|\uff5c][^<>\\s']{1,40}[|\uff5c]>|<(?:start|end)_of_\\w+>|<turn[|]>")


def read(name: str, talk: dict[str, Any]) -> tuple[Any, list[int], list[int]]:
    """The tokenizer, ids and labels of a conversation by a template that TRL ships; skips what it refuses."""
    template = (SHIPPED / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = tiny_tokenizer("llama")
    special = sorted(set(SPECIAL.findall(template)))
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.chat_template = template
    ends = tokenizer.convert_tokens_to_ids([end for end in ENDS if end in special])
    spec = DataSpec(source="x", max_input_tokens=9999)
    encoder = Encoder("conversation", tokenizer, spec, None, ModelFacts(end_ids=tuple(ends)))
    [feature] = encoder.encode(conversation_rows([Record("row", dict(talk))], spec)).features
    return tokenizer, feature["input_ids"], feature["labels"]


@pytest.mark.parametrize("name", MARKED)
def test_marks_of_the_templates_that_trl_ships_are_used_as_it_does(name: str) -> None:
    compared = 0
    for talk in (ONE_TURN, MANY_TURNS, WITH_SYSTEM, WITH_TOOLS):
        try:
            tokenizer, ids, labels = read(f"{name}_training", talk)
        except DataError:  # no system message, no tools, other end tokens than those above
            continue
        made = tokenizer.apply_chat_template(
            talk["messages"], tools=talk.get("tools"), return_dict=True, return_assistant_tokens_mask=True
        )
        assert ids == made["input_ids"]
        assert labels == [
            id_ if kept else -100 for id_, kept in zip(ids, made["assistant_masks"], strict=True)
        ]
        compared += 1
    assert compared >= 1 or name == "llava_next"  # which reads lists of parts alone


@pytest.mark.parametrize("name", FOUND)
def test_answers_are_found_in_the_templates_of_models_as_trl_marks_them(name: str) -> None:
    for talk in (ONE_TURN, MANY_TURNS):
        texts = []
        for variant in (name, f"{name}_training"):
            tokenizer, _, labels = read(variant, talk)
            written = tokenizer.decode([label for label in labels if label != -100])
            texts.append(
                "".join(written.removesuffix("</s>").split())
            )  # marks hold blanks behind the end, too
        assert texts[0] == texts[1]
