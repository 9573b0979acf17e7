"""Text to text: the encoder reads the input, the labels are the target and one end token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from deltatune.tasks import tokens
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import (
    IGNORED,
    INPUT,
    NEW,
    TARGET,
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


class TextToText(Task):
    """An encoder-decoder (T5, BART, mT0) writes a text for a text."""

    name: ClassVar = "text-to-text"
    title: ClassVar = "An encoder-decoder writes a text for a text."
    when: ClassVar = "Summaries, translations, titles, answers; bases such as T5, BART and mT0."
    rows: ClassVar = "A text to read (`input`) and a text to write (`target`), or tables with titles."
    example: ClassVar = (
        "task: text-to-text\nmodel: bundled:t5-small\n"
        "data: {source: bundled:table-titles, split: {test: 0.1}, columns: {input: table, target: title}}\n"
        "methods: [lora]"
    )

    auto_class: ClassVar = "AutoModelForSeq2SeqLM"
    needs: ClassVar = "an encoder-decoder"
    peft_type: ClassVar = "SEQ_2_SEQ_LM"
    pipeline: ClassVar = "text-generation"

    several_references: ClassVar = True
    shows_rows: ClassVar = True
    senseless: ClassVar = tokens.IMAGE_SIZE

    writes_text: ClassVar = True
    metrics: ClassVar = (*tokens.TEXT_METRICS, *tokens.LOSSES)
    losses: ClassVar = tokens.LOSSES
    primary: ClassVar = "rougeL_f"

    def supports(self, config: Any, known: bool) -> bool:
        """An encoder-decoder."""
        return known and bool(getattr(config, "is_encoder_decoder", False))

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """`input_ids` of the input and `labels` of the target."""
        input_ids, cut_input = tokens.behind_shots(row, tools, tools.tokens.with_specials, after="\n")
        labels, cut_target = tokens.target_ids(row, tools, supervised, as_target=True)
        return {"input_ids": input_ids, "labels": labels}, (cut_input, cut_target)

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Inputs, and `labels` [rows, target length] with -100 behind each target."""
        labels = tokens.pad([feature["labels"] for feature in features], IGNORED)
        return {**self.collate_prompts(features, tools), "labels": labels}

    def collate_prompts(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """What the encoder reads."""
        return tokens.padded([feature["input_ids"] for feature in features], tools)

    def length(self, feature: Feature) -> int:
        """Tokens of input and target."""
        return len(feature["input_ids"]) + len(feature["labels"])

    def supervised(self, feature: Feature) -> int:
        """Every token of the target."""
        return len(feature["labels"])

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """The input, then the target, which is learned."""
        read = [(piece, False) for piece in tools.tokens.pieces(feature["input_ids"])]
        return [*read, *((piece, True) for piece in tools.tokens.pieces(feature["labels"]))]

    def look(self, found: Fidelity, row: Row, feature: Feature, cuts: Cuts, tools: Tools) -> None:
        """Input and target."""
        found.look_at_input(row, tokens.text_of(row), feature["input_ids"], tools.tokens)
        found.look_at_target(row, row.target, feature["labels"], tools.tokens, cut=cuts[1])

    def count(self, labels: Tensor) -> Tensor:
        """Labels that are not masked."""
        return labels.ne(IGNORED).sum(dim=1)

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The decoder's, at the labels."""
        return model.labelled_logits(batch)

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """Lengths of inputs and of targets."""
        lengths = [len(feature["input_ids"]) for feature in features]
        targets = [len(feature["labels"]) for feature in features]
        padded = min(lengths) < max(lengths)
        return BatchShape(len(features), max(lengths), max(targets), sum(targets), padded=padded)

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """Inputs and targets at their limits."""
        target = data.max_target_tokens
        return BatchShape(rows, data.max_input_tokens, target, rows * target)

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """Every label is learned."""
        import torch

        labels = torch.zeros(shape.rows, shape.target_length, dtype=torch.long)
        return {**shape.inputs(), "labels": labels}

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """The input in the encoder; the target, or what is written, in the decoder."""
        read = max(len(feature["input_ids"]) for feature in features)
        target = max(len(feature["labels"]) for feature in features)
        return [("input", {INPUT: read}), ("decoder", {TARGET: target}), ("decoder", {NEW: new})]


TASK: Task = TextToText()
