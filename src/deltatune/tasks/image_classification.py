"""Image classification: the labels are indices of classes, told apart by a head on the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from deltatune.errors import DataError
from deltatune.tasks import classes
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import Cuts, Feature, Model, Row, Task, Tools

if TYPE_CHECKING:
    from torch import Tensor


class ImageClassification(Task):
    """A head on a vision model tells which class an image is of."""

    name: ClassVar = "image-classification"
    title: ClassVar = "A head on a vision model tells which class an image is of."
    when: ClassVar = "Photographs, X-rays, defects; bases such as ViT, DINOv2 and Swin."
    rows: ClassVar = "An image and the name of its class: a folder for each class, an npz file, or the Hub."
    example: ClassVar = (
        "task: image-classification\nmodel: bundled:dinov2-small\n"
        "data: {source: photos/, split: {test: 0.1}}\nmethods: [lora]"
    )

    auto_class: ClassVar = "AutoModelForImageClassification"
    pipeline: ClassVar = "image-classification"
    new_head: ClassVar = True

    reads: ClassVar = "images"
    has_classes: ClassVar = True
    unit: ClassVar = "images"
    formats: ClassVar = ("image-folder", "npz")
    senseless: ClassVar = {
        **classes.SENSELESS,
        "data.template": "is for text; with the task {task} the model reads the image alone.",
    }
    without_effect: ClassVar = ("data.max_input_tokens", *classes.WITHOUT_EFFECT)

    scored_as: ClassVar = "classes"
    metrics: ClassVar = (*classes.METRICS, "loss")
    more_metrics: ClassVar = classes.MORE_METRICS
    primary: ClassVar = "accuracy"

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """`image`, which the encoder resizes for all rows at once, and `label`."""
        if isinstance(row.input, str):
            raise DataError(
                "holds a text, not an image.", field=f"row {row.id}", remedy="Use a task about text."
            )
        return {"image": row.input, **classes.label_of(row, tools, supervised)}, (False, False)

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """`pixel_values` [rows, channels, height, width], and `labels` [rows]."""
        images, resized = ([feature[key] for feature in features] for key in ("image", "resized"))
        return {"pixel_values": tools.pixels.batch(images, resized), **classes.label_batch(features)}

    def supervised(self, feature: Feature) -> int:
        """One label, where the row has it."""
        return int("label" in feature)

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """That there is an image, then the class, which is learned."""
        return [("[image]", False), *classes.label_shown(feature, tools)]

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The head's."""
        return model.class_logits(batch), batch["labels"]

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """The number of images: all have one size."""
        return BatchShape(len(features), padded=False)

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """The number of images."""
        return BatchShape(rows, padded=False)

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """Images of the first class."""
        return classes.blank_batch(shape)

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """None that differ between rows."""
        return []


TASK: Task = ImageClassification()
