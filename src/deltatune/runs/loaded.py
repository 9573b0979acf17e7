"""What a run, or an adapter without one, is when it is loaded."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoder
from deltatune.errors import AdapterError
from deltatune.models.load import LoadedBase
from deltatune.models.positions import Room, room_of
from deltatune.recipe import Recipe
from deltatune.results import RunResult

NAME = "run"


@dataclass
class LoadedRun:
    """A run's model, as it was evaluated."""

    folder: Path
    recipe: Recipe
    base: LoadedBase
    model: AdaptedModel
    encoder: Encoder
    result: RunResult | None
    """None of an adapter without a run."""
    name: str
    """Of the run's entry, or of the adapter's folder."""
    method: str
    fingerprint: str
    """Hash of the base's weights."""
    adapter: str | None = NAME
    """What its delta is called in the model; None of the plain base."""

    @functools.cached_property
    def room(self) -> Room:
        """The base's positions, and those that the delta takes; it is attached when this is first asked."""
        delta = None if self.adapter is None else self.model.adapter(self.adapter)
        return room_of(self.model.base, delta)

    @property
    def had_few_bits(self) -> bool:
        """Whether the base was quantized when the run trained on it, by its recipe or its checkpoint."""
        stored = self.result is not None and self.result.model.quantization is not None
        return stored or self.recipe.methods[0].quantization is not None

    @property
    def threshold(self) -> float | None:
        """The probability from which on a label is given, where a row may have several."""
        return self.result.threshold if self.result else None

    @property
    def labels(self) -> list[str] | None:
        """Its classes, as its rows name them; None for texts."""
        return self.result.data.labels if self.result else self.base.labels

    @property
    def splitting(self) -> str | None:
        """How texts are split into words, where these have tags and it is known."""
        return self.result.data.splitting if self.result else None

    @property
    def names_rows(self) -> bool:
        """Whether it says where rows are; an adapter without a run need not."""
        return bool(self.recipe.data.source or self.recipe.data.train)


def require_model_alone(adapter: Adapter, name: str) -> None:
    """Refuse what needs whole rows where prompts come as texts or turns of others: serving and talking.

    Raises:
        AdapterError: It shows training rows before each row, or answers rows itself.
    """
    if adapter.beside is not None:
        raise AdapterError(
            f"{name!r} shows training rows before each row, or copies texts: it is a yardstick for rows, and "
            "is not served.",
            field="RUN",
            remedy="`deltatune predict` and `deltatune evaluate` use it.",
        )
