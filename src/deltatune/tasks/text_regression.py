"""Text regression: the label is a number, told by a head of one output on the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from deltatune.tasks import tokens, values, whole_texts
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import Cuts, Feature, Fidelity, Model, Row, Task, Tools

if TYPE_CHECKING:
    from torch import Tensor


class TextRegression(Task):
    """A head on a text model tells a number about a text."""

    name: ClassVar = "text-regression"
    title: ClassVar = "A head on a text model tells a number about a text."
    when: ClassVar = (
        "Ratings, prices, years, similarity; bases such as BERT, RoBERTa, DeBERTa, and decoder-only models. "
        "The loss is the squared error in standard deviations of the training rows' numbers (with "
        "`train.loss: mae` the absolute one); metrics and predictions are in the data's units."
    )
    rows: ClassVar = (
        "A text (`input`, `sentence`), or two (`pair`; `sentence1` and `sentence2`), and a number "
        "(`target`), as text or as a number of JSON."
    )
    example: ClassVar = (
        "task: text-regression\nmodel: bundled:minilm\n"
        "data: {source: reviews.csv, split: {test: 0.1}, columns: {input: text, target: stars}}\n"
        "methods: [lora]"
    )

    auto_class: ClassVar = "AutoModelForSequenceClassification"
    peft_type: ClassVar = "SEQ_CLS"
    pipeline: ClassVar = "text-classification"
    new_head: ClassVar = True

    pairs: ClassVar = True
    has_values: ClassVar = True
    several_targets: ClassVar = True
    senseless: ClassVar = {**tokens.IMAGE_SIZE, **values.SENSELESS}
    without_effect: ClassVar = values.WITHOUT_EFFECT

    other_losses: ClassVar = values.OTHER_LOSSES
    scored_as: ClassVar = "values"
    metrics: ClassVar = (*values.METRICS, "loss")
    primary: ClassVar = "mse"

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """`input_ids` of the text, and `value`, standardised."""
        text, cut = whole_texts.read(row, tools)
        return {**text, **values.value_of(row, tools, supervised)}, (cut, False)

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Texts, and `labels` [rows] in float32."""
        return {**whole_texts.collate(features, tools), **values.value_batch(features)}

    def supervised(self, feature: Feature) -> int:
        """One number, where the row has it."""
        return int("value" in feature)

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """The text, then the number, which is learned."""
        return [*whole_texts.preview(feature, tools), *values.value_shown(feature, tools)]

    def look(self, found: Fidelity, row: Row, feature: Feature, cuts: Cuts, tools: Tools) -> None:
        """The text."""
        whole_texts.look(found, row, feature, tools)

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The head's one output [rows, 1], and the numbers."""
        return model.class_logits(batch), batch["labels"]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared error in standard deviations."""
        return values.squared_error(outputs, targets)

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """Lengths of texts."""
        shape = whole_texts.shape(features)
        return replace(shape, outputs=max(len(values.listed(f.get("value", 0.0))) for f in features))

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """Texts at their limit."""
        return replace(whole_texts.longest(rows, data), outputs=max(1, len(data.columns.targets)))

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """Texts whose number is the mean."""
        return values.blank_batch(shape)

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """The longest text."""
        return whole_texts.places(features)


TASK: Task = TextRegression()
