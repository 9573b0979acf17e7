"""What a method knows of rows, with the room that its recipe and its base leave for it."""

from __future__ import annotations

from typing import Any

from deltatune.core.adapter import Adapter
from deltatune.data.beside_rows import BesideRows
from deltatune.models.positions import room_of
from deltatune.recipe.schema import Recipe


def beside_rows(adapter: Adapter, base: Any, recipe: Recipe) -> BesideRows | None:
    """What an adapter knows of the rows of a recipe; None if it stands beside none.

    Args:
        adapter: Of a method that trains nothing, or of any other.
        base: What it is attached to.
        recipe: With one entry, the adapter's.
    """
    if adapter.beside is None:
        return None
    positions = room_of(base, adapter).positions
    new = max(recipe.evaluation.max_new_tokens, recipe.data.max_target_tokens)
    return BesideRows(adapter.beside, positions.input or positions.trained, new)
