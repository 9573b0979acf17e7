"""Token classification: each word of a text has a tag, of which entities are made.

A word's label stands at its first token; its other tokens are read and have none. What is too long loses
whole words at its end. Words without a token of their own (beyond the limit, control characters, or one token
with the word before) teach nothing, and in an evaluation they count as words that the model leaves outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from deltatune.errors import DataError, SilentRowError
from deltatune.tasks import tags, tokens
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import IGNORED, INPUT, Cuts, Feature, Fidelity, Model, Row, Task, Tools

if TYPE_CHECKING:
    from torch import Tensor


class TokenClassification(Task):
    """A head on a text model tells of each word which tag it has."""

    name: ClassVar = "token-classification"
    title: ClassVar = "A head on a text model tells of each word which tag it has."
    when: ClassVar = (
        "Names of persons, places and products, parts of speech, any spans of a text; bases such as BERT, "
        "RoBERTa, DeBERTa, and decoder-only models."
    )
    rows: ClassVar = (
        "CoNLL files (one word per line), words with tags (`tokens`, `tags`), or a `text` with `spans` "
        "(start, end and label, in characters)."
    )
    example: ClassVar = (
        "task: token-classification\nmodel: bundled:minilm\n"
        "data: {train: train.conll, validation: dev.conll, test: test.conll}\nmethods: [lora]"
    )

    auto_class: ClassVar = "AutoModelForTokenClassification"
    peft_type: ClassVar = "TOKEN_CLS"
    pipeline: ClassVar = "token-classification"
    new_head: ClassVar = True

    has_classes: ClassVar = True
    tags_words: ClassVar = True
    senseless: ClassVar = {
        **tokens.IMAGE_SIZE,
        "data.template": "is for whole texts; the task {task} reads the words as they are.",
        "data.target_template": "is for generated text; in the task {task} each word has a tag.",
    }
    without_effect: ClassVar = ("data.max_target_tokens", "evaluation.num_beams", "evaluation.max_new_tokens")

    scored_as: ClassVar = "tags"
    metrics: ClassVar = (*tags.METRICS, "loss")
    primary: ClassVar = "entity_f1"

    def supports(self, config: Any, known: bool) -> bool:
        """An encoder or a decoder alone."""
        return known and not getattr(config, "is_encoder_decoder", False)

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """`input_ids` of the text, and `labels` at the first token of each word, any where none are known.

        Further `text`, and of each word its characters (`places`) and its tokens: `firsts` (-1 where there is
        none) and `ends`.
        """
        text, words = tokens.text_of(row), row.words
        pieces = tools.tokens.of_words(text, words.places, tools.spec.max_input_tokens)
        labels = [IGNORED] * len(pieces.ids)
        known = words.tags if supervised else [None] * len(words.places)
        for first, tag in zip(pieces.firsts, known, strict=True):
            if first >= 0:
                labels[first] = 0 if tag is None else _index(tag, row, tools)
        if supervised and not any(label != IGNORED for label in labels):
            raise SilentRowError(
                f"has {len(words.places)} words, and none becomes a token within the limit.",
                field=f"row {row.id}",
                remedy="Raise data.max_input_tokens, or remove the row.",
                tokens=pieces.least if pieces.cut else None,
            )
        feature = {
            "input_ids": pieces.ids,
            "labels": labels,
            "firsts": pieces.firsts,
            "ends": pieces.ends,
            "cut": pieces.cut,
            "places": words.places,
            "text": text,
        }
        return feature, (pieces.cut > 0, False)

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Texts, and `labels` [rows, length] with -100 at all but words' first tokens."""
        batch = tokens.padded([feature["input_ids"] for feature in features], tools)
        return {**batch, "labels": tokens.pad([feature["labels"] for feature in features], IGNORED)}

    def supervised(self, feature: Feature) -> int:
        """Words with a token."""
        return sum(first >= 0 for first in feature["firsts"])

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """The text's tokens, and behind each word its tag, whose label stands at the word's first token."""
        words = [word for word in zip(feature["firsts"], feature["ends"], strict=True) if word[0] >= 0]
        behind = {end: feature["labels"][first] for first, end in words} if tools.labels else {}
        within = {place for first, end in words for place in range(first, end)}
        shown: list[tuple[str, bool]] = []
        for place, piece in enumerate([*tools.tokens.pieces(feature["input_ids"]), ""]):
            if place in behind and tools.labels:
                shown.append((f"[{tools.labels[behind[place]]}]", True))
            shown.append((piece, place in within))
        return shown[:-1]

    def look(self, found: Fidelity, row: Row, feature: Feature, cuts: Cuts, tools: Tools) -> None:
        """The text, and words without a token."""
        found.look_at_input(row, tokens.text_of(row), feature["input_ids"], tools.tokens)
        within = feature["firsts"][: len(feature["firsts"]) - feature["cut"]]
        lost = [
            feature["text"][start:end]
            for first, (start, end) in zip(within, feature["places"], strict=False)
            if first < 0
        ]
        found.look_at_words(row, len(feature["firsts"]), lost, feature["cut"])

    def count(self, labels: Tensor) -> Tensor:
        """Labels that are not masked."""
        return labels.ne(IGNORED).sum(dim=1)

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The head's at the labels."""
        return model.labelled_logits(batch)

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """Lengths of texts, and numbers of words."""
        lengths = [len(feature["input_ids"]) for feature in features]
        words = [self.supervised(feature) for feature in features]
        return BatchShape(len(features), max(lengths), 0, sum(words), max(words), min(lengths) < max(lengths))

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """Texts at their limit, in which each token is a word."""
        return BatchShape(rows, data.max_input_tokens, 0, rows * data.max_input_tokens)

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """As many labels of the first tag at the beginning of each row as the shape says."""
        import torch

        labels = torch.zeros(shape.rows, shape.length, dtype=torch.long)
        labels[:, max(1, -(-shape.labelled // shape.rows)) :] = IGNORED
        return {**shape.inputs(), "labels": labels}

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """The longest text."""
        return [("input", {INPUT: max(len(feature["input_ids"]) for feature in features)})]


def _index(tag: str, row: Row, tools: Tools) -> int:
    """The place of a tag among the model's outputs.

    Raises:
        DataError: It is none of them.
    """
    if tag in tools.class_index:
        return tools.class_index[tag]
    raise DataError(
        f"has the tag {tag!r}, which is none of the tags {', '.join(tools.class_index)}.",
        field=f"row {row.id}",
        remedy="Mend the tag, or train with rows that have it.",
    )


TASK: Task = TokenClassification()
