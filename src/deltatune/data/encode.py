"""From rows to token ids and pixels: the one way that every method, training, evaluation and prediction go.

What is supervised is decided by lengths that are known here, never by comparing ids with a pad id: many
models pad with their end token, and the end token must be learned.

- text-to-text: the encoder reads the input, the labels are the target and one end token.
- causal-lm: prompt ids, target ids, one end token; only the latter two are supervised. Prompt and target are
  tokenised apart and their ids joined, so that the prompt has the same ids in training and in generation; a
  target that shall begin with a space needs one in `target_template`. Long prompts lose tokens on the left
  (behind a begin token), always down to `max_input_tokens`: a room that depended on the target's length would
  make training prompts differ from those of prediction. A chat prompt is shortened within the user's text.
- causal-lm without target: all tokens of the text are supervised; an end token is added if it was not cut.
- classification: the labels are class indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deltatune.data.fidelity import Fidelity
from deltatune.data.pixels import Pixels, channels_of
from deltatune.data.rows import Row
from deltatune.data.tokens import TextTokens, truncated_chat
from deltatune.errors import DataError
from deltatune.recipe.sections import CHAT, CLASSIFICATION_TASKS, DataSpec

if TYPE_CHECKING:
    from torch import Tensor

    from deltatune.models.processor import ModelFacts

Feature = dict[str, Any]
"""One encoded row. Text: `input_ids`, and `labels` (text-to-text), `prompt_length` (causal-lm) or `label`
(classification). Images: `image`, `resized` if it is kept in memory so, and `label`."""

IGNORED = -100
"""The label that torch's cross-entropy leaves out."""


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """What encoding did to the rows."""

    rows: int
    supervised_tokens: int
    """Tokens that the loss counts; in classification, labels."""
    truncated_inputs: int
    truncated_targets: int
    fidelity: Fidelity = field(default_factory=Fidelity)
    """What the tokenizer cannot write of the texts; of rows for prediction nothing is said."""


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
        processor: The base's tokenizer, or image processor for image-classification.
        spec: The recipe's data section.
        labels: The classes, in order; None for tasks that produce text.
        of_model: What the base's files say of its tokens.
    """

    def __init__(
        self,
        task: str,
        processor: Any,
        spec: DataSpec,
        labels: Sequence[str] | None = None,
        of_model: ModelFacts | None = None,
    ) -> None:
        self.task, self.processor, self.spec = task, processor, spec
        self.labels = list(labels) if labels is not None else None
        self._classes = {label: index for index, label in enumerate(self.labels or [])}
        self._tokens = None
        images = task == "image-classification"
        self._pixels = Pixels(processor, channels_of(of_model.config if of_model else None) if images else 3)
        if not images:
            generates = task not in CLASSIFICATION_TASKS
            self._tokens = TextTokens(processor, of_model, generates, chat=spec.template == CHAT)

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
    def eos_ids(self) -> list[int]:
        """The ids that end a generated text; the first is the one that is trained."""
        return self.tokens.eos_ids

    @property
    def pad_id(self) -> int:
        """The id that fills up batches. It is masked; it may be an end token."""
        return self.tokens.pad_id

    def encode(self, rows: Sequence[Row], supervised: bool = True) -> Encoded:
        """Encode rows.

        Args:
            rows: The rows.
            supervised: Whether targets are needed. False for prediction: targets may be empty, and the
                features are for `collate_prompts` (text) or `collate` (classification, without labels).

        Raises:
            DataError: A row has nothing to learn from, a label that is no class, or a broken image.
        """
        encode_row = {
            "text-to-text": self._text_to_text,
            "causal-lm": self._causal if self.spec.columns.target is not None else self._plain_text,
            "text-classification": self._classified_text,
            "image-classification": self._classified_image,
        }[self.task]
        encoded = [encode_row(row, supervised) for row in rows]
        if self._tokens is not None and self._tokens.vocabulary is not None:
            for row, (feature, _) in zip(rows, encoded, strict=True):
                self._require_embedded(row, feature["input_ids"], self._tokens.vocabulary)
        if self.task == "image-classification":  # a broken image is found now, not in the midst of training
            for (feature, _), resized in zip(
                encoded, self._pixels.keep([row.input for row in rows]), strict=True
            ):
                feature["resized"] = resized
        return Encoded(
            features=[feature for feature, _ in encoded],
            lengths=[self._length(feature) for feature, _ in encoded],
            report=EncodeReport(
                rows=len(rows),
                supervised_tokens=sum(self._supervised(feature) for feature, _ in encoded)
                if supervised
                else 0,
                truncated_inputs=sum(cut[0] for _, cut in encoded),
                truncated_targets=sum(cut[1] for _, cut in encoded),
                fidelity=self._fidelity(rows, encoded) if supervised else Fidelity(),
            ),
        )

    def collate(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """Make a batch for training or for the loss, padded on the right to its longest row.

        Returns:
            `input_ids` and `attention_mask` [rows, length] or `pixel_values` [rows, channels, height, width];
            `labels`: [rows, target length] (text-to-text), [rows, length] (causal-lm), -100 where nothing is
            supervised, or class indices [rows]. All whole numbers are int64.
        """
        import torch

        if self.task == "image-classification":
            images, resized = ([feature[key] for feature in features] for key in ("image", "resized"))
            batch = {"pixel_values": self._pixels.batch(images, resized)}
        else:
            batch = self._padded([feature["input_ids"] for feature in features])
        if self.task in CLASSIFICATION_TASKS:
            labels = [feature["label"] for feature in features if "label" in feature]
            return batch | ({"labels": torch.tensor(labels)} if labels else {})
        return batch | {"labels": _pad([self._label_ids(feature) for feature in features], IGNORED)}

    def collate_prompts(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """Make a batch to generate from: encoder inputs, or prompts alone, padded on the left (causal-lm).

        Raises:
            DataError: The task generates nothing, or a plain text has no prompt.
        """
        if self.task == "text-to-text":
            return self._padded([feature["input_ids"] for feature in features])
        prompts = [feature["input_ids"][: feature.get("prompt_length", 0)] for feature in features]
        if not all(prompts):
            raise DataError(
                "has no prompt to generate from.", field="data.columns.target", remedy="Name a target column."
            )
        return self._padded(prompts, left=True)

    def reference(self, text: str) -> str:
        """A target as a generated text would show it: special tokens that are written in it are left out."""
        return self.tokens.reference(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode generated ids to text: special tokens are left out, outer blanks are stripped."""
        return self.tokens.decode(ids)

    def preview(self, feature: Feature) -> list[tuple[str, bool]]:
        """Show what a model is taught: the row's tokens as text, each with whether it is supervised."""
        if self.task == "image-classification":
            return [("[image]", False), *self._label_preview(feature)]
        ids = feature["input_ids"]
        pieces = self.tokens.pieces(ids)
        if self.task == "causal-lm":
            supervised = [label != IGNORED for label in self._label_ids(feature)]
            return list(zip(pieces, supervised, strict=True))
        shown = [(piece, False) for piece in pieces]
        if self.task == "text-classification":
            return [*shown, *self._label_preview(feature)]
        return [*shown, *((piece, True) for piece in self.tokens.pieces(feature["labels"]))]

    def _require_embedded(self, row: Row, ids: list[int], vocabulary: int) -> None:
        beyond = next((id_ for id_ in ids if id_ >= vocabulary), None)
        if beyond is not None:
            raise DataError(
                f"has the token {self.tokens.pieces([beyond])[0]!r} ({beyond}), and the model has "
                f"{vocabulary} embeddings.",
                field=f"row {row.id}",
                remedy="Take it out of the text, or resize the model's embeddings and save it anew.",
            )

    def _fidelity(
        self, rows: Sequence[Row], encoded: Sequence[tuple[Feature, tuple[bool, bool]]]
    ) -> Fidelity:
        found = Fidelity()
        for row, (feature, (cut_input, cut_target)) in zip(rows, encoded, strict=True):
            if self._tokens is None:
                break
            ids, text = feature["input_ids"], _text(row)
            if self.task == "causal-lm" and self.spec.columns.target is None:  # the text is what is learned
                found.look_at_target(row, text, ids, self._tokens, cut=cut_input)
                continue
            found.look_at_input(row, text, ids[: feature.get("prompt_length")], self._tokens)
            if self.task not in CLASSIFICATION_TASKS:
                target = feature["labels"] if "labels" in feature else ids[feature["prompt_length"] :]
                found.look_at_target(row, row.target, target, self._tokens, cut=cut_target)
        return found

    def _label_preview(self, feature: Feature) -> list[tuple[str, bool]]:
        return [(self.labels[feature["label"]], True)] if self.labels and "label" in feature else []

    def _text_to_text(self, row: Row, supervised: bool) -> tuple[Feature, tuple[bool, bool]]:
        input_ids, cut_input = self.tokens.with_specials(_text(row), self.spec.max_input_tokens)
        labels, cut_target = self._target(row, supervised, as_target=True)
        return {"input_ids": input_ids, "labels": labels}, (cut_input, cut_target)

    def _causal(self, row: Row, supervised: bool) -> tuple[Feature, tuple[bool, bool]]:
        if self.spec.template == CHAT:
            prompt, cut_prompt = truncated_chat(self.processor, _text(row), self.spec.max_input_tokens)
        else:
            prompt, cut_prompt = self.tokens.prompt(_text(row), self.spec.max_input_tokens)
        if not prompt:
            raise DataError("has an empty prompt.", field=f"row {row.id}", remedy="Fill or remove it.")
        target, cut_target = self._target(row, supervised, as_target=False)
        return {"input_ids": [*prompt, *target], "prompt_length": len(prompt)}, (cut_prompt, cut_target)

    def _plain_text(self, row: Row, supervised: bool) -> tuple[Feature, tuple[bool, bool]]:
        ids, cut = self.tokens.plain(_text(row), self.spec.max_input_tokens)
        if supervised and len(ids) < 2:
            raise _no_signal(row, "fewer than two tokens")
        return {"input_ids": ids, "prompt_length": 0}, (cut, False)

    def _classified_text(self, row: Row, supervised: bool) -> tuple[Feature, tuple[bool, bool]]:
        input_ids, cut = self.tokens.with_specials(_text(row), self.spec.max_input_tokens)
        return {"input_ids": input_ids} | self._label(row, supervised), (cut, False)

    def _classified_image(self, row: Row, supervised: bool) -> tuple[Feature, tuple[bool, bool]]:
        if isinstance(row.input, str):
            raise DataError(
                "holds a text, not an image.", field=f"row {row.id}", remedy="Use a task about text."
            )
        return {"image": row.input} | self._label(row, supervised), (False, False)

    def _target(self, row: Row, supervised: bool, as_target: bool) -> tuple[list[int], bool]:
        if not supervised and not row.target:
            return [], False
        ids, cut = self.tokens.target(row.target, self.spec.max_target_tokens, as_target=as_target)
        if not self.tokens.has_content(ids):
            raise _no_signal(row, f"no tokens for its target {row.target[:40]!r}")
        return ids, cut

    def _label(self, row: Row, supervised: bool) -> Feature:
        if row.target in self._classes:
            return {"label": self._classes[row.target]}
        if not supervised:
            return {}
        raise DataError(
            f"has the label {row.target!r}, which is none of the classes {', '.join(self._classes)}.",
            field=f"row {row.id}",
            remedy="Mend the label, or train with rows that have it.",
        )

    def _label_ids(self, feature: Feature) -> list[int]:
        if self.task == "text-to-text":
            return list(feature["labels"])
        start = feature["prompt_length"]
        return [IGNORED] * start + list(feature["input_ids"][start:])

    def _supervised(self, feature: Feature) -> int:
        if self.task in CLASSIFICATION_TASKS:
            return 1
        first = 0 if self.task == "text-to-text" else 1  # nothing predicts the first token of a causal model
        return sum(label != IGNORED for label in self._label_ids(feature)[first:])

    @staticmethod
    def _length(feature: Feature) -> int:
        inputs: list[int] = feature.get("input_ids", [0])
        targets: list[int] = feature.get("labels", [])
        return len(inputs) + len(targets)

    def _padded(self, rows: Sequence[Sequence[int]], left: bool = False) -> dict[str, Tensor]:
        ones = [[1] * len(row) for row in rows]
        return {"input_ids": _pad(rows, self.pad_id, left), "attention_mask": _pad(ones, 0, left)}


def _text(row: Row) -> str:
    if not isinstance(row.input, str):
        raise DataError(
            "holds an image, not a text.", field=f"row {row.id}", remedy="Use image-classification."
        )
    return row.input


def _no_signal(row: Row, why: str) -> DataError:
    return DataError(
        f"gives {why}: there is nothing to learn from it.", field=f"row {row.id}", remedy="Mend or remove it."
    )


def _pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Pad rows to the longest: an int64 tensor [rows, length]."""
    import torch

    width = max(map(len, rows), default=0)
    padded = torch.full((len(rows), width), value, dtype=torch.long)
    for index, row in enumerate(rows):
        if row:
            place = slice(width - len(row), width) if left else slice(len(row))
            padded[index, place] = torch.tensor(row)
    return padded
