"""What a run, or an adapter without one, is when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoder
from deltatune.models.load import LoadedBase
from deltatune.recipe import Recipe

NAME = "run"


@dataclass
class LoadedRun:
    """A run's model, as it was evaluated."""

    folder: Path
    recipe: Recipe
    base: LoadedBase
    model: AdaptedModel
    encoder: Encoder
    result: dict[str, Any]

    @property
    def names_rows(self) -> bool:
        """Whether it says where rows are; an adapter without a run need not."""
        return bool(self.recipe.data.source or self.recipe.data.train)
