"""Conversations: what the assistant says is learned, each turn with its end token; all else is read.

The chat template of the tokenizer writes a row as a whole (`data/chat.py`). Its last answer is what a model
writes in an evaluation, behind all that comes before it; the loss is that of every answer that is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from deltatune.tasks import tokens
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import (
    IGNORED,
    INPUT,
    NEW,
    Cuts,
    Feature,
    Fidelity,
    Model,
    Row,
    Task,
    Tools,
)

if TYPE_CHECKING:
    from torch import Tensor


class ConversationTask(Task):
    """A decoder-only model answers as the assistant of conversations does."""

    name: ClassVar = "conversation"
    title: ClassVar = "A decoder-only model answers as the assistant of conversations does."
    when: ClassVar = (
        "Chats of one turn or many, with system messages and tools; chat models such as Llama, Qwen and "
        "SmolLM2, or any decoder with a template of the recipe's."
    )
    rows: ClassVar = (
        "Messages (role and content), ShareGPT's conversations (from and value), instruction, input and "
        "output, or prompt and completion."
    )
    example: ClassVar = (
        "task: conversation\nmodel: bundled:smollm2-135m\n"
        "data: {source: chats.jsonl, split: {test: 0.1}}\nmethods: [lora]"
    )

    auto_class: ClassVar = "AutoModelForCausalLM"
    needs: ClassVar = "a decoder-only model"
    peft_type: ClassVar = "CAUSAL_LM"
    pipeline: ClassVar = "text-generation"
    packs: ClassVar = True

    conversations: ClassVar = True
    senseless: ClassVar = {
        **tokens.IMAGE_SIZE,
        "data.template": "is for one text; the task {task} writes messages by data.chat_template.",
        "data.target_template": "is for one text; in the task {task} the answers are what is learned.",
    }
    without_effect: ClassVar = ("data.max_target_tokens",)

    writes_text: ClassVar = True
    continues: ClassVar = True
    metrics: ClassVar = (*tokens.TEXT_METRICS, *tokens.LOSSES)
    losses: ClassVar = tokens.LOSSES
    primary: ClassVar = "rougeL_f"

    def supports(self, config: Any, known: bool) -> bool:
        """A decoder alone."""
        return tokens.continues(config, known)

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """`input_ids` and `labels` of the whole, `prompt_ids` of what comes before the last answer."""
        limit = tools.spec.max_input_tokens
        if not supervised:
            ids, cut = tools.chats.prompt(row, limit)
            labels = [IGNORED] * len(ids)
            feature = {"input_ids": ids, "labels": labels, "prompt_ids": ids, "prompt_length": len(ids)}
            return feature, (cut, False)
        chat = tools.chats.learned(row, limit, tools.spec.train_on)
        feature = {
            "input_ids": chat.ids,
            "labels": chat.labels,
            "prompt_ids": chat.prompt,
            "prompt_length": len(chat.prompt),
        }
        if chat.left_out:
            feature["left_out"] = chat.left_out
        if chat.answer is not None:
            feature["reference"] = chat.answer
        return feature, (chat.cut, False)

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Conversations, and `labels` [rows, length] with -100 at all but answers."""
        batch = tokens.padded([feature["input_ids"] for feature in features], tools)
        return {**batch, "labels": tokens.pad([feature["labels"] for feature in features], IGNORED)}

    def collate_prompts(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """What comes before the last answers, padded on the left."""
        return tokens.padded([feature["prompt_ids"] for feature in features], tools, left=True)

    def supervised(self, feature: Feature) -> int:
        """Tokens of the answers that are learned."""
        return sum(label != IGNORED for label in feature["labels"][1:])

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """The whole conversation, with its answers marked."""
        learned = [label != IGNORED for label in feature["labels"]]
        return list(zip(tools.tokens.pieces(feature["input_ids"]), learned, strict=True))

    def look(self, found: Fidelity, row: Row, feature: Feature, cuts: Cuts, tools: Tools) -> None:
        """What comes before the last answer; and what the tokenizer makes of the texts of the answers."""
        found.look_at_input(row, row.input, feature["prompt_ids"], tools.tokens)
        if "left_out" in feature:
            found.left_out.add(row, feature["left_out"])
        talk = row.conversation
        said = "\n".join(
            message["content"] for message, may in zip(talk.messages, talk.learned, strict=True) if may
        )
        found.look_at_target(row, said, tools.tokens.bare(said), tools.tokens, cut=False)

    def count(self, labels: Tensor) -> Tensor:
        """Labels that are not masked, but for the first token, which nothing predicts."""
        return tokens.count_behind(labels)

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Each position's, for the label behind it."""
        return model.labelled_logits(batch)

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """Lengths of conversations."""
        lengths = [len(feature["input_ids"]) for feature in features]
        labelled = [self.supervised(feature) for feature in features]
        padded = min(lengths) < max(lengths)
        return BatchShape(len(features), max(lengths), 0, sum(labelled), max(labelled), padded)

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """Conversations at their limit, of which next to all is answers."""
        return BatchShape(rows, data.max_input_tokens, 0, rows * (data.max_input_tokens - 1))

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """As many labels at the end of each row as the shape says."""
        return tokens.blank_behind(shape)

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """The longest conversation; the longest of what comes before an answer, and what is written."""
        longest = max(len(feature["input_ids"]) for feature in features)
        prompts = max(feature["prompt_length"] for feature in features)
        return [("input", {INPUT: longest}), ("input", {INPUT: prompts, NEW: new})]


TASK: Task = ConversationTask()
