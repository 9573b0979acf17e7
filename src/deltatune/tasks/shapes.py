"""The sizes of a batch, as far as they decide what a training step takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self


@dataclass(frozen=True)
class BatchShape:
    """Sizes of a collated micro-batch."""

    rows: int
    length: int = 0
    """Tokens of the longest input; of a causal model, prompt and target. 0 for images."""
    target_length: int = 0
    """Tokens of the longest target of an encoder-decoder model, else 0."""
    labelled: int = 0
    """Predictions of the whole micro-batch that the loss is summed over."""
    most_labelled: int | None = None
    """Those of the row that has most of them; None: all rows have about as many."""
    padded: bool = True
    """Whether a row is shorter than the longest; if none is, Transformers leaves masks out."""
    typed: bool = False
    """Whether each token bears the number of the text that it is of."""
    texts: int = 1
    """Texts of a row, each of which is a row to the model."""
    image: tuple[int, int, int] | None = None
    """Channels, height and width."""
    outputs: int = 1
    """Numbers or labels that each row has, where it may have several; 1 where it is not known how many."""
    tokens: int | None = None
    """Tokens of all rows without padding, if rows are packed into one; None: they are padded."""

    @property
    def of_a_row(self) -> int:
        """Predictions of the row that has most of them, at least 1."""
        return max(1, -(-self.labelled // self.rows) if self.most_labelled is None else self.most_labelled)

    def with_rows(self, rows: int) -> Self:
        """The same lengths for another number of rows."""
        tokens = None if self.tokens is None else -(-self.tokens * rows // self.rows)
        return replace(self, rows=rows, labelled=-(-self.labelled * rows // self.rows), tokens=tokens)

    def of_images(self, pixels: Any) -> Self:
        """The same rows, of images as those in the tensor `pixels` [rows, channels, height, width]."""
        channels, height, width = pixels.shape[1:]
        return replace(self, image=(channels, height, width))

    def with_half_inputs(self) -> tuple[Self, int]:
        """Half as many tokens of input, and how many of the length belong to the target all the same."""
        target = 0 if self.target_length else -(-self.labelled // self.rows)
        if target >= self.length - 1:  # plain text, all of which is learned
            half = self.length // 2
            shorter = self._with_length(half)
            return replace(shorter, labelled=self.rows * (half - 1), most_labelled=None), 0
        return self._with_length(target + (self.length - target) // 2), target

    def _with_length(self, length: int) -> Self:
        tokens = None if self.tokens is None else -(-self.tokens * length // self.length)
        return replace(self, length=length, tokens=tokens)

    def inputs(self) -> dict[str, Any]:
        """What a model reads of a batch of these sizes: zeros, or nothing under fake tensors."""
        import torch

        if self.image is not None:
            return {"pixel_values": torch.zeros(self.rows, *self.image)}
        names = ("input_ids", "attention_mask", *(("token_type_ids",) if self.typed else ()))
        return {name: torch.zeros(self.rows, self.length, dtype=torch.long) for name in names}
