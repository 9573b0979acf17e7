"""What a method knows of rows, with the room that its recipe and its base leave for it."""

from __future__ import annotations

from typing import Any

from deltatune.core.adapter import Adapter
from deltatune.data.beside_rows import BesideRows
from deltatune.errors import RecipeError
from deltatune.evaluation import primary_metric
from deltatune.models.positions import room_of
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.tasks import TASKS


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


def require_metric(recipe: Recipe, entry: MethodEntry, *, answers: bool) -> None:
    """Refuse to rank by a loss what has none.

    Args:
        recipe: The recipe.
        entry: One of its entries.
        answers: Whether its method answers texts itself.

    Raises:
        RecipeError: The recipe does.
    """
    task = TASKS.get(recipe.task)
    if not answers or not task.writes_text:
        return
    primary = primary_metric(recipe.evaluation, recipe.task, targets=recipe.has_targets)
    if primary in task.losses:
        raise RecipeError(
            f"is {primary}, and {entry.name} has none: it copies texts, and no model is asked.",
            field="evaluation.primary",
            remedy=f"Rank by a metric of texts, such as {task.primary}, or take the entry out."
            if recipe.has_targets
            else "Name a target column as data.columns.target, or take the entry out.",
        )
