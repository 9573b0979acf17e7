"""Multi-label classification: any number of labels hold of a text, each told by an output of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from deltatune.tasks import classes, label_sets, tokens, whole_texts
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import Cuts, Feature, Fidelity, Model, Row, Task, Tools

if TYPE_CHECKING:
    from torch import Tensor


class MultiLabelClassification(Task):
    """A head on a text model tells which labels a text has."""

    name: ClassVar = "multi-label-classification"
    title: ClassVar = "A head on a text model tells which labels a text has: any number of them."
    when: ClassVar = (
        "Tags, topics that overlap, kinds of toxicity; bases such as BERT, RoBERTa, DeBERTa, and "
        "decoder-only models. Each label has an output of its own, learned by binary cross-entropy, and is "
        "given where its probability reaches a threshold, which validation rows choose."
    )
    rows: ClassVar = (
        "A text (`input`, `sentence`), or two (`pair`), and its labels (`target`): a list; a text with a "
        "comma, semicolon or bar between them (`data.separator`); or a column of 0 and 1 for each "
        "(`columns: {target: [toxic, insult]}`). A row may have none."
    )
    example: ClassVar = (
        "task: multi-label-classification\nmodel: bundled:minilm\n"
        "data: {source: posts.csv, split: {test: 0.1}, columns: {input: text, target: tags}}\n"
        "methods: [lora]"
    )

    auto_class: ClassVar = "AutoModelForSequenceClassification"
    peft_type: ClassVar = "SEQ_CLS"
    pipeline: ClassVar = "text-classification"
    new_head: ClassVar = True

    pairs: ClassVar = True
    has_classes: ClassVar = True
    has_label_sets: ClassVar = True
    several_targets: ClassVar = True
    senseless: ClassVar = {**tokens.IMAGE_SIZE, **label_sets.SENSELESS}
    without_effect: ClassVar = classes.WITHOUT_EFFECT

    scored_as: ClassVar = "label_sets"
    metrics: ClassVar = (*label_sets.METRICS, "loss")
    primary: ClassVar = "micro_f1"

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """`input_ids` of the text, and `label_set`."""
        text, cut = whole_texts.read(row, tools)
        return {**text, **label_sets.label_set_of(row, tools, supervised)}, (cut, False)

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Texts, and `labels` [rows, labels] of 0 and 1 in float32."""
        return {**whole_texts.collate(features, tools), **label_sets.label_set_batch(features)}

    def supervised(self, feature: Feature) -> int:
        """One set of labels, where the row has a target; it may be empty."""
        return int("label_set" in feature)

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """The text, then the labels, which are learned."""
        return [*whole_texts.preview(feature, tools), *label_sets.label_set_shown(feature, tools)]

    def look(self, found: Fidelity, row: Row, feature: Feature, cuts: Cuts, tools: Tools) -> None:
        """The text."""
        whole_texts.look(found, row, feature, tools)

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The head's."""
        return model.class_logits(batch), batch["labels"]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over labels."""
        return label_sets.losses_of_rows(outputs, targets).sum()

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """Lengths of texts, and the number of labels."""
        return replace(whole_texts.shape(features), outputs=label_sets.outputs_of(features) or 1)

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """Texts at their limit."""
        return whole_texts.longest(rows, data)

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """Texts without a label."""
        return label_sets.blank_batch(shape)

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """The longest text."""
        return whole_texts.places(features)


TASK: Task = MultiLabelClassification()
