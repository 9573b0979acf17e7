"""The weights of a quantized base as they were, for methods that start from what quantizing took away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from deltatune.models.load import load_base
from deltatune.quant import read_weight

if TYPE_CHECKING:
    from deltatune.recipe.base_sections import ModelSpec


class OriginalWeights:
    """The weights of a base before it was quantized, read from its checkpoint when first asked for.

    Args:
        spec: As for `load_base`.
        task: As for `load_base`.
        labels: As for `load_base`.
    """

    def __init__(self, spec: ModelSpec, task: str, labels: list[str] | None) -> None:
        self._arguments = (spec, task, labels)
        self._model: nn.Module | None = None

    def __call__(self, path: str) -> Tensor:
        """The weight [d_out, d_in] of the linear module at `path`, in float32 on the CPU."""
        if self._model is None:
            self._model = load_base(*self._arguments).model
        return read_weight(self._model.get_submodule(path))

    def forget(self) -> None:
        """Free the memory; the next call reads the checkpoint again."""
        self._model = None
