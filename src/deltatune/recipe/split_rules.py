"""Rules about several splits beside the rest of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

from deltatune.recipe.fields import RecipeFields
from deltatune.recipe.messages import Conflict


def split_conflicts(recipe: RecipeFields) -> Iterator[Conflict]:
    """Check that there is something to draw anew, and a seed for each split."""
    splits, data = recipe.splits, recipe.data
    if splits is None:
        return
    if len(recipe.seeds) != splits:
        yield (
            "splits",
            f"({splits}) and seeds ({len(recipe.seeds)}) must be as many: each split is trained with a seed "
            "of its own. Leave seeds out, or give as many.",
        )
    if data.test:
        yield (
            "splits",
            f"({splits}) cannot draw test rows anew: data.test names a file of them. Leave splits out; or "
            "add those rows to the training file, and take test rows by data.split.",
        )
    elif data.split is None:
        yield (
            "splits",
            f"({splits}) needs data.split, which says what is drawn: {{validation: 0.1, test: 0.1}}.",
        )
