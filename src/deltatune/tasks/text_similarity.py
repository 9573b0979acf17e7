"""Text similarity: the cosine of two texts' vectors rises with the score that they were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from deltatune.errors import DataError
from deltatune.tasks import tokens, values, vectors
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import Cuts, Feature, Fidelity, Model, Row, Task, Tools

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("spearman", "pearson")


class TextSimilarity(Task):
    """A text model gives two texts vectors whose cosine says how alike they are."""

    name: ClassVar = "text-similarity"
    title: ClassVar = "A text model gives two texts vectors whose cosine says how alike they are."
    when: ClassVar = (
        "Pairs that people have scored, as in the STS benchmarks; the same bases as embedding. The loss asks "
        "for the order of the scores (CoSENT), so that they may have any range."
    )
    rows: ClassVar = "Two texts (sentence1 and sentence2) and a number (score)."
    example: ClassVar = (
        "task: text-similarity\nmodel: bundled:minilm\n"
        "data: {source: pairs.csv, split: {test: 0.1}, "
        "columns: {input: sentence1, pair: sentence2, target: score}}\n"
        "methods: [untuned, lora]"
    )

    auto_class: ClassVar = "AutoModel"
    needs: ClassVar = "an encoder, or a decoder alone"
    peft_type: ClassVar = "FEATURE_EXTRACTION"
    pipeline: ClassVar = "sentence-similarity"
    embeds: ClassVar = True

    pairs: ClassVar = True
    needs_pairs: ClassVar = True
    has_scores: ClassVar = True
    senseless: ClassVar = {**tokens.IMAGE_SIZE, **vectors.SENSELESS}
    without_effect: ClassVar = vectors.WITHOUT_EFFECT

    scored_as: ClassVar = "cosines"
    metrics: ClassVar = (*METRICS, "loss")
    primary: ClassVar = "spearman"
    spans_rows: ClassVar = True

    def supports(self, config: Any, known: bool) -> bool:
        """An encoder of text, or a decoder alone."""
        return vectors.supports(config, known)

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """Tokens of the two texts, and their `score`."""
        if row.pair is None:
            raise DataError(
                "has one text, and two are compared.",
                field=f"row {row.id}",
                remedy="Give it the column that data.columns.pair names.",
            )
        feature, cuts = vectors.read([tokens.text_of(row), row.pair], tools)
        if not supervised:
            return feature, cuts
        score = values.number_of(row.target)
        if score is None:
            raise values.no_number(row.target, f"row {row.id}")
        return {**feature, "score": score}, cuts

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Texts, and `labels` [rows]: the scores, in float64, so that none of their order is lost."""
        import torch

        batch = vectors.collate(features, tools)
        if "score" in features[0]:
            batch["labels"] = torch.tensor([feature["score"] for feature in features], dtype=torch.float64)
        return batch

    def length(self, feature: Feature) -> int:
        """Tokens of both texts."""
        return vectors.length(feature)

    def supervised(self, feature: Feature) -> int:
        """One score, where the row has it."""
        return int("score" in feature)

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """The texts, then the score, which is learned."""
        score = [(values.as_text(feature["score"]), True)] if "score" in feature else []
        return [*vectors.preview(feature, tools), *score]

    def look(self, found: Fidelity, row: Row, feature: Feature, cuts: Cuts, tools: Tools) -> None:
        """The first text."""
        found.look_at_input(row, tokens.text_of(row), feature["input_ids"], tools.tokens)

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Vectors [rows, 2, width], and the scores."""
        return model.text_vectors(batch), batch["labels"]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """CoSENT: one number for all rows, counted once for each, so that their mean is the published one."""
        cosines = (outputs[:, 0] * outputs[:, 1]).sum(dim=-1)
        return len(outputs) * vectors.cosent(cosines, targets)

    def outputs(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Vectors of the texts."""
        found: Tensor = model.text_vectors(batch)
        return found

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """Lengths of texts."""
        return vectors.shape(features)

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """Texts at their limit."""
        return BatchShape(rows, data.max_input_tokens, texts=2)

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """Texts of different scores."""
        import torch

        return vectors.blank(shape, torch.arange(shape.rows, dtype=torch.float64))

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """The longer text of the longest row."""
        return vectors.places(features)


TASK: Task = TextSimilarity()
