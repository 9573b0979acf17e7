"""From rows to token ids and pixels: the one way that every method, training, evaluation and prediction go.

How a row becomes a feature, and features a batch, is the task's affair (`deltatune.tasks`). What is
supervised is decided by lengths that are known there, never by comparing ids with a pad id: many models pad
with their end token, and the end token must be learned.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from deltatune.data.beside_rows import BesideRows
from deltatune.data.chat import Chats, chat_template
from deltatune.data.fidelity import Fidelity
from deltatune.data.pixels import Pixels, channels_of
from deltatune.data.rows import Row
from deltatune.data.tokens import TextTokens
from deltatune.errors import DataError, SilentRowError
from deltatune.phrasing import listing
from deltatune.recipe.sections import CHAT, DataSpec
from deltatune.tasks import TASKS, tasks_that
from deltatune.tasks.task import OTHERS, Cuts, Feature, each_reference
from deltatune.tasks.values import Scale, Scales

if TYPE_CHECKING:
    from torch import Tensor

    from deltatune.models.processor import ModelFacts


SHOWN = 8
"""Ids of rows that a message names."""


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """What encoding did to the rows."""

    rows: int
    supervised_tokens: int
    """Tokens that the loss counts; in classification, labels."""
    truncated_inputs: int
    truncated_targets: int
    truncated_texts: tuple[int, int] | None = None
    """Rows whose first and whose second text is cut; None where rows have one text."""
    fidelity: Fidelity = field(default_factory=Fidelity)
    """What the tokenizer cannot write of the texts; of rows for prediction nothing is said."""
    tokens: int = 0
    """Tokens of all rows, of each of several references with its input."""
    shown: Sequence[int] = ()
    """How many training rows are shown before each row, of methods that show any."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as features, in the same order."""

    features: list[Feature]
    lengths: list[int]
    """Tokens of each row that a model works on, inputs and targets; 1 for an image."""
    report: EncodeReport


class Encoder:
    """Encodes rows, makes batches of them, and decodes what a model generates.

    Args:
        task: The recipe's task.
        processor: The base's tokenizer, or, where a task reads images, its image processor.
        spec: The recipe's data section.
        labels: The classes, in order; None for tasks that produce text.
        of_model: What the base's files say of its tokens.
        scale: By what numbers are standardised; None for tasks that tell none.
    """

    def __init__(  # noqa: PLR0917 - the order in which everything else passes them
        self,
        task: str,
        processor: Any,
        spec: DataSpec,
        labels: Sequence[str] | None = None,
        of_model: ModelFacts | None = None,
        scale: Scale | Scales | None = None,
    ) -> None:
        self.task, self.processor, self.spec, self.scale = task, processor, spec, scale
        self._task = TASKS.get(task)
        self.labels = list(labels) if labels is not None else None
        self.class_index = {label: index for index, label in enumerate(self.labels or [])}
        self.beside: BesideRows | None = None
        """What a method knows of the rows that are evaluated; set by `with_beside`."""
        self._tokens = self._pixels = None
        if self._task.reads == "images":
            self._pixels = Pixels(processor, channels_of(of_model.config if of_model else None))
        else:
            template = chat_template(spec.chat_template)
            self._tokens = TextTokens(processor, of_model, self._task.writes_text, self.chat, template)
        self._chats = None
        if self._tokens is not None and self._task.conversations:
            self._chats = Chats(self._tokens, spec.chat_template)

    @property
    def chat(self) -> bool:
        """Whether inputs go through the tokenizer's chat template."""
        return self.spec.template == CHAT or self._task.conversations

    @property
    def plain(self) -> bool:
        """Whether rows have no target, and the text itself is what is learned."""
        return self.spec.columns.target is None

    @property
    def tokens(self) -> TextTokens:
        """The tokenizer with what it does not say itself.

        Raises:
            DataError: The task is about images.
        """
        if self._tokens is None:
            raise DataError("has images, not tokens.", field="task", remedy="Use a task about text.")
        return self._tokens

    @property
    def chats(self) -> Chats:
        """What writes conversations.

        Raises:
            DataError: The task is not about them.
        """
        if self._chats is None:
            fitting = tasks_that(lambda task: task.conversations)
            raise DataError(
                "has no conversations.", field="task", remedy=f"Use the task {listing(fitting, 'or')}."
            )
        return self._chats

    @property
    def pixels(self) -> Pixels:
        """The image processor.

        Raises:
            DataError: The task is about text.
        """
        if self._pixels is None:
            raise DataError("has text, not images.", field="task", remedy="Use a task about images.")
        return self._pixels

    @property
    def eos_ids(self) -> list[int]:
        """The ids that end a generated text; the first is the one that is trained."""
        return self.tokens.eos_ids

    @property
    def pad_id(self) -> int:
        """The id that fills up batches. It is masked; it may be an end token."""
        return self.tokens.pad_id

    def with_beside(self, beside: BesideRows | None) -> Self:
        """The same encoder for rows that a method knows something of, or none does."""
        other = copy.copy(self)
        other.beside = beside
        return other

    def encode(self, rows: Sequence[Row], supervised: bool = True) -> Encoded:
        """Encode rows.

        Args:
            rows: The rows.
            supervised: Whether targets are needed. False for prediction: targets may be empty, and the
                features are for `collate_prompts` (text) or `collate` (classification, without labels).

        Raises:
            DataError: A row has nothing to learn from, a label that is no class, or a broken image.
        """
        if self.beside is not None:
            rows = [self.beside.shown(row, self) for row in rows]
        encoded = self._each(rows, supervised)
        features = [feature for feature, _ in encoded]
        if self._tokens is not None and self._tokens.vocabulary is not None:
            for row, feature in zip(rows, features, strict=True):
                for of in each_reference([feature]):
                    for ids in (of["input_ids"], *of.get("beside", ())):
                        self._require_embedded(row, ids, self._tokens.vocabulary)
        if self._pixels is not None:  # a broken image is found now, not in the midst of training
            resized = self._pixels.keep([row.input for row in rows])
            for feature, kept in zip(features, resized, strict=True):
                feature["resized"] = kept
        fidelity = Fidelity()
        if supervised:
            for row, (feature, cuts) in zip(rows, encoded, strict=True):
                for variant, of in zip(_variants(row), each_reference([feature]), strict=True):
                    self._task.look(fidelity, variant, of, cuts, self)
        cut_texts = [feature["cut_texts"] for feature in features if "cut_texts" in feature]
        return Encoded(
            features=features,
            lengths=[max(map(self._task.length, each_reference([feature]))) for feature in features],
            report=EncodeReport(
                rows=len(rows),
                supervised_tokens=sum(map(self._task.supervised, each_reference(features)))
                if supervised
                else 0,
                truncated_inputs=sum(cut[0] for _, cut in encoded),
                truncated_targets=sum(cut[1] for _, cut in encoded),
                truncated_texts=(sum(a for a, _ in cut_texts), sum(b for _, b in cut_texts))
                if cut_texts
                else None,
                fidelity=fidelity,
                tokens=sum(map(self._task.length, each_reference(features))),
                shown=[len(row.shots) for row in rows] if self.beside and self.beside.beside.shows else (),
            ),
        )

    def _each(self, rows: Sequence[Row], supervised: bool) -> list[tuple[Feature, Cuts]]:
        """Encode each row; of rows with nothing to learn, one error says how many there are, and which."""
        encoded, silent = [], []
        for row in rows:
            try:
                variants = _variants(row) if supervised else [row]
                each = [self._task.encode(variant, self, supervised) for variant in variants]
            except SilentRowError as error:
                silent.append((row.id, error))
                continue
            feature, *rest = [feature for feature, _ in each]
            if self.beside is not None:
                feature = self.beside.told(row, feature, self)
            if rest:
                feature[OTHERS] = rest
            encoded.append((feature, (any(cut for _, (cut, _) in each), any(cut for _, (_, cut) in each))))
        if not silent:
            return encoded
        first, others = silent[0][1], [id_ for id_, _ in silent[1:]]
        if not others:
            raise first
        named = f"{', '.join(others[:SHOWN])}{', ...' if len(others) > SHOWN else ''}"
        more = f" {len(others)} more of {len(rows)} rows teach nothing either: {named}."
        needed = [error.tokens for _, error in silent if error.tokens]
        enough = f" {max(needed):,} tokens would do for all of them." if len(needed) == len(silent) else ""
        most = max(needed) if enough else None
        raise SilentRowError(first.what + more + enough, field=first.field, remedy=first.remedy, tokens=most)

    def collate(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """Make a batch for training or for the loss, padded on the right to its longest row.

        Returns:
            `input_ids` and `attention_mask` [rows, length], of pairs `token_type_ids` where the model knows
            them; or `pixel_values` [rows, channels, height, width]; `labels` as the task has them: tokens
            [rows, length], -100 where nothing is supervised, indices of classes [rows], or numbers [rows] in
            float32. All whole numbers are int64.
        """
        return self._task.collate(features, self)

    def collate_prompts(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """Make a batch to generate from: encoder inputs, or prompts alone, padded on the left.

        Raises:
            DataError: The task generates nothing, or a plain text has no prompt.
        """
        if not self._task.writes_text:
            raise DataError(f"writes no text ({self.task}).", field="task", remedy="Classify instead.")
        return self._task.collate_prompts(features, self)

    def reference(self, text: str) -> str:
        """A target as a generated text would show it: special tokens that are written in it are left out."""
        return self.tokens.reference(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode generated ids to text: special tokens are left out, outer blanks are stripped."""
        return self.tokens.decode(ids)

    def before(self, ids: Sequence[int], text: str) -> list[int] | None:
        """The generated ids before those in which a text begins; None if it is not in them."""
        return self.tokens.before(ids, text)

    def preview(self, feature: Feature) -> list[tuple[str, bool]]:
        """Show what a model is taught: the row's tokens as text, each with whether it is supervised."""
        return self._task.preview(feature, self)

    def _require_embedded(self, row: Row, ids: list[int], vocabulary: int) -> None:
        beyond = next((id_ for id_ in ids if id_ >= vocabulary), None)
        if beyond is not None:
            raise DataError(
                f"has the token {self.tokens.pieces([beyond])[0]!r} ({beyond}), and the model has "
                f"{vocabulary} embeddings.",
                field=f"row {row.id}",
                remedy="Take it out of the text, or resize the model's embeddings and save it anew.",
            )


def _variants(row: Row) -> list[Row]:
    """The row with each text that is right for it as its target."""
    return [replace(row, target=text) for text in row.references] if row.references else [row]
