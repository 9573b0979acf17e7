"""Embedding: texts that belong together get vectors that lie together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from deltatune.tasks import tokens, vectors
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import Cuts, Feature, Fidelity, Model, Row, Task, Tools

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("mrr_at_10", "recall_at_1", "recall_at_5", "recall_at_10", vectors.OF_NEGATIVES)


class Embedding(Task):
    """A text model gives texts that belong together vectors that lie together."""

    name: ClassVar = "embedding"
    title: ClassVar = "A text model gives texts that belong together vectors that lie together."
    when: ClassVar = (
        "Search, deduplication, retrieval for question answering; sentence encoders such as MiniLM, E5 and "
        "BGE, any BERT, and decoder-only models. The loss finds each row's text among those of its step."
    )
    rows: ClassVar = (
        "Two texts that belong together (anchor and positive, query and passage, question and answer), and "
        "if there are such, texts that do not (negative)."
    )
    example: ClassVar = (
        "task: embedding\nmodel: bundled:minilm\n"
        "data: {source: questions.csv, split: {test: 0.1}, columns: {input: question, target: answer}}\n"
        "methods: [untuned, lora]\ntrain: {batch_size: 64}"
    )

    auto_class: ClassVar = "AutoModel"
    needs: ClassVar = "an encoder, or a decoder alone"
    peft_type: ClassVar = "FEATURE_EXTRACTION"
    pipeline: ClassVar = "sentence-similarity"
    embeds: ClassVar = True

    finds_targets: ClassVar = True
    senseless: ClassVar = tokens.IMAGE_SIZE
    without_effect: ClassVar = vectors.WITHOUT_EFFECT

    scored_as: ClassVar = "neighbours"
    metrics: ClassVar = (*METRICS, "loss")
    primary: ClassVar = "mrr_at_10"
    spans_rows: ClassVar = True

    def supports(self, config: Any, known: bool) -> bool:
        """An encoder of text, or a decoder alone."""
        return vectors.supports(config, known)

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """Tokens of the texts, and `keys` by which equal texts are known; of a query alone no keys."""
        texts = [tokens.text_of(row)]
        if not supervised:
            return vectors.read(texts, tools)
        texts += [row.target, *row.negatives]
        feature, cuts = vectors.read(texts, tools)
        return {**feature, "keys": list(map(_key, texts))}, cuts

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Texts, and `labels` [rows, texts] that are equal for equal texts."""
        import torch

        batch = vectors.collate(features, tools)
        if "keys" in features[0]:
            batch["labels"] = torch.tensor([feature["keys"] for feature in features])
        return batch

    def length(self, feature: Feature) -> int:
        """Tokens of all texts."""
        return vectors.length(feature)

    def supervised(self, feature: Feature) -> int:
        """One text to be found, where the row has it."""
        return int("keys" in feature)

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """The texts, of which the second is to be found by the first."""
        learned = [index == 1 for index, ids in enumerate(vectors.texts_of(feature)) for _ in ids]
        shown = vectors.preview(feature, tools)
        return [(piece, of_target) for (piece, _), of_target in zip(shown, learned, strict=True)]

    def look(self, found: Fidelity, row: Row, feature: Feature, cuts: Cuts, tools: Tools) -> None:
        """The text that is searched by."""
        found.look_at_input(row, tokens.text_of(row), feature["input_ids"], tools.tokens)

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Vectors [rows, texts, width], and the texts' keys."""
        return model.text_vectors(batch), batch["labels"]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """In-batch negatives."""
        return vectors.in_batch_negatives(outputs, targets).sum()

    def outputs(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Vectors of the texts."""
        found: Tensor = model.text_vectors(batch)
        return found

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """Lengths of texts."""
        return vectors.shape(features)

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """Texts at their limit; a negative is counted where the recipe names one."""
        return BatchShape(rows, data.max_input_tokens, texts=2 + len(data.columns.negatives))

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """Texts that are all different."""
        import torch

        keys = torch.arange(shape.rows * shape.texts).view(shape.rows, shape.texts)
        return vectors.blank(shape, keys)

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """The longest text."""
        return vectors.places(features)


def _key(text: str) -> int:
    """A number of 63 bits that tells a text from others, blanks aside."""
    digest = hashlib.blake2b(" ".join(text.split()).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


TASK: Task = Embedding()
