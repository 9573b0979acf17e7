"""Text classification: the labels are indices of classes, told apart by a head on the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from deltatune.tasks import classes, tokens, whole_texts
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import Cuts, Feature, Fidelity, Model, Row, Task, Tools

if TYPE_CHECKING:
    from torch import Tensor


class TextClassification(Task):
    """A head on a text model tells which class a text is of."""

    name: ClassVar = "text-classification"
    title: ClassVar = "A head on a text model tells which class a text is of."
    when: ClassVar = (
        "Sentiment, topics, intents; bases such as BERT, RoBERTa, DeBERTa, and decoder-only models."
    )
    rows: ClassVar = (
        "A text (`input`, `sentence`), or two (`pair`; `premise` and `hypothesis`), and the name of the "
        "class (`target`, `label`)."
    )
    example: ClassVar = (
        "task: text-classification\nmodel: bundled:minilm\n"
        "data: {source: reviews.csv, split: {test: 0.1}, columns: {input: text, target: label}}\n"
        "methods: [lora]"
    )

    auto_class: ClassVar = "AutoModelForSequenceClassification"
    peft_type: ClassVar = "SEQ_CLS"
    pipeline: ClassVar = "text-classification"
    new_head: ClassVar = True

    pairs: ClassVar = True
    has_classes: ClassVar = True
    senseless: ClassVar = {**tokens.IMAGE_SIZE, **classes.SENSELESS}
    without_effect: ClassVar = classes.WITHOUT_EFFECT

    scored_as: ClassVar = "classes"
    metrics: ClassVar = (*classes.METRICS, "loss")
    more_metrics: ClassVar = classes.MORE_METRICS
    primary: ClassVar = "accuracy"

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """`input_ids` of the text and `label`."""
        text, cut = whole_texts.read(row, tools)
        return {**text, **classes.label_of(row, tools, supervised)}, (cut, False)

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Texts, and `labels` [rows]."""
        return {**whole_texts.collate(features, tools), **classes.label_batch(features)}

    def supervised(self, feature: Feature) -> int:
        """One label, where the row has it."""
        return int("label" in feature)

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """The text, then the class, which is learned."""
        return [*whole_texts.preview(feature, tools), *classes.label_shown(feature, tools)]

    def look(self, found: Fidelity, row: Row, feature: Feature, cuts: Cuts, tools: Tools) -> None:
        """The text."""
        whole_texts.look(found, row, feature, tools)

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The head's."""
        return model.class_logits(batch), batch["labels"]

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """Lengths of texts."""
        return whole_texts.shape(features)

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """Texts at their limit."""
        return whole_texts.longest(rows, data)

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """Texts of the first class."""
        return classes.blank_batch(shape)

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """The longest text."""
        return whole_texts.places(features)


TASK: Task = TextClassification()
