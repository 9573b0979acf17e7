"""The first rows that a loop trains on, on which its delta is compared with what is read back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deltatune.core.model import AdaptedModel
from deltatune.errors import TrainingError

ROWS, PLACES = 2, 64
"""Rows that are kept, and labelled positions of them: the logits of a large vocabulary take room."""
KEPT = "first rows that were trained on"
_OF_LOOPS = ("num_items_in_batch", "fused_lm_head", "adapters", "return_dict", "use_cache")
"""Arguments of a call that are no part of a batch."""


class Sample:
    """Rows of the first call in training, and what the model makes of them."""

    def __init__(self, model: AdaptedModel) -> None:
        self._model = model
        self._batch: dict[str, Any] | None = None
        self._handle: RemovableHandle | None = None

    def listen(self) -> None:
        """Keep rows of the next call."""
        self.close()
        self._handle = self._model.register_forward_pre_hook(self._keep, with_kwargs=True)

    def close(self) -> None:
        """Listen no more."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _keep(self, module: nn.Module, args: Any, call: dict[str, Any]) -> None:
        if not module.training or call.get("adapters") is not None:
            return
        given = {key: value for key, value in call.items() if key not in _OF_LOOPS and value is not None}
        tensors = [value for value in given.values() if isinstance(value, Tensor) and value.dim()]
        if not tensors:
            return
        rows = len(tensors[0])
        self._batch = {
            key: value[:ROWS].detach().clone() if isinstance(value, Tensor) and _has(value, rows) else value
            for key, value in given.items()
        }
        self.close()

    def logits(self) -> Tensor:
        """What the model, in eval mode, makes of them, in float32.

        Raises:
            TrainingError: The model was not called in training.
        """
        if self._batch is None:
            raise TrainingError(
                "the model was not called in training mode.",
                field="model",
                remedy="Call the AdaptedModel itself, after model.train(), and not its base.",
            )
        model, labels = self._model, self._batch.get("labels")
        if model.base.get_output_embeddings() is not None and isinstance(labels, Tensor):
            few = _few(labels)
            if (few[..., 1:] != -100).any():
                return model.labelled_logits({**self._batch, "labels": few})[0].float()
        output = model(**{key: value for key, value in self._batch.items() if key != "labels"})
        found = getattr(output, "logits", None)
        found = output[0] if found is None else found
        assert isinstance(found, Tensor)
        return found.float()

    @torch.no_grad()
    def loss(self) -> float:
        """A number that whatever the model reads has a part in."""
        training = self._model.training
        self._model.eval()
        try:
            return float(self.logits().square().sum())
        finally:
            self._model.train(training)


def _has(value: Tensor, rows: int) -> bool:
    return value.dim() > 0 and len(value) == rows


def _few(labels: Tensor) -> Tensor:
    """Labels [rows, length] without those behind the first `PLACES`, on the host."""
    labels = labels.cpu()
    kept = (labels != -100).flatten().cumsum(0).view(labels.shape) <= PLACES
    return labels.masked_fill(~kept, -100)
