"""Text classification: the labels are indices of classes, told apart by a head on the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from deltatune.tasks import classes, tokens
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import INPUT, Cuts, Feature, Fidelity, Job, Model, Row, Task, Tools

if TYPE_CHECKING:
    from torch import Tensor


class TextClassification(Task):
    """A head on a text model tells which class a text is of."""

    name: ClassVar = "text-classification"
    title: ClassVar = "A head on a text model tells which class a text is of."
    when: ClassVar = (
        "Sentiment, topics, intents; bases such as BERT, RoBERTa, DeBERTa, and decoder-only models."
    )
    rows: ClassVar = "A text (`input`, `sentence`) and the name of its class (`target`, `label`)."
    example: ClassVar = (
        "task: text-classification\nmodel: bundled:minilm\n"
        "data: {source: reviews.csv, split: {test: 0.1}, columns: {input: text, target: label}}\n"
        "methods: [lora]"
    )

    auto_class: ClassVar = "AutoModelForSequenceClassification"
    peft_type: ClassVar = "SEQ_CLS"
    new_head: ClassVar = True

    has_classes: ClassVar = True
    senseless: ClassVar = {**tokens.IMAGE_SIZE, **classes.SENSELESS}
    without_effect: ClassVar = classes.WITHOUT_EFFECT

    scored_as: ClassVar = "classes"
    metrics: ClassVar = (*classes.METRICS, "loss")
    primary: ClassVar = "accuracy"

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """`input_ids` of the text and `label`."""
        input_ids, cut = tools.tokens.with_specials(tokens.text_of(row), tools.spec.max_input_tokens)
        return {"input_ids": input_ids, **classes.label_of(row, tools, supervised)}, (cut, False)

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Texts, and `labels` [rows]."""
        batch = tokens.padded([feature["input_ids"] for feature in features], tools)
        return {**batch, **classes.label_batch(features)}

    def supervised(self, feature: Feature) -> int:
        """One label, where the row has it."""
        return int("label" in feature)

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """The text, then the class, which is learned."""
        read = [(piece, False) for piece in tools.tokens.pieces(feature["input_ids"])]
        return [*read, *classes.label_shown(feature, tools)]

    def look(self, found: Fidelity, row: Row, feature: Feature, cuts: Cuts, tools: Tools) -> None:
        """The text."""
        found.look_at_input(row, tokens.text_of(row), feature["input_ids"], tools.tokens)

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The head's."""
        return model.class_logits(batch), batch["labels"]

    def answer(self, job: Job) -> Any:
        """The most probable class."""
        return job.classify()

    def evaluate(self, job: Job, targets: bool) -> Any:
        """The most probable class, and its scores."""
        return job.classes()

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """Lengths of texts."""
        lengths = [len(feature["input_ids"]) for feature in features]
        return BatchShape(len(features), max(lengths), padded=min(lengths) < max(lengths))

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """Texts at their limit."""
        return BatchShape(rows, data.max_input_tokens)

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """Texts of the first class."""
        return classes.blank_batch(shape)

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """The longest text."""
        return [("input", {INPUT: max(len(feature["input_ids"]) for feature in features)})]


TASK: Task = TextClassification()
