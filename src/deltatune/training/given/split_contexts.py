"""What runs of several splits share: all but the rows."""

from __future__ import annotations

from dataclasses import replace

from deltatune.data.subsets import training_rows
from deltatune.errors import DataError
from deltatune.recipe.splits import in_split
from deltatune.training.given.context import Context
from deltatune.training.given.readings import read_data, require_part


def context_of(context: Context, seed: int) -> Context:
    """The context of a seed's runs: of a recipe with several splits, with the rows of one of them.

    Raises:
        DataError: These rows cannot be used.
    """
    if context.recipe.splits is None:
        return context
    number = context.recipe.split_of(seed)
    if number not in context.of_splits:
        context.of_splits[number] = _of_split(context, number)
    found = context.of_splits[number]
    found.joined = context.joined
    return found


def every_context(context: Context) -> list[Context]:
    """The context of each split of the recipe; of a recipe with one split, that which there is.

    Raises:
        DataError: The rows of one cannot be used, or all have the same test rows.
    """
    recipe = context.recipe
    if recipe.splits is None:
        return [context]
    found = [context_of(context, seed) for seed in recipe.seeds]
    if len({tuple(row.id for row in each.dataset.test) for each in found}) == 1:
        raise DataError(
            f"({recipe.splits}) cannot draw test rows anew, they are the same in all splits: "
            f"{recipe.data.source} has test rows of its own, or too few rows to draw others.",
            field="splits",
            remedy="Leave splits out; or put all rows, or more, into one file for data.split to draw from.",
        )
    return found


def rows_of_seeds(context: Context) -> list[int]:
    """How many training rows each seed has: those of groups that are split anew may be more or fewer.

    Raises:
        DataError: The rows of a split cannot be used.
    """
    return [training_rows(context_of(context, seed).dataset) for seed in context.recipe.seeds]


def _of_split(context: Context, number: int) -> Context:
    recipe = context.recipe.model_copy(update={"data": in_split(context.recipe.data, number), "splits": None})
    if number == 0:
        return replace(context, recipe=recipe, of_splits={})
    context.observer.stage(f"Reading the data: split {number + 1} of {context.recipe.splits}")
    found = replace(context, recipe=recipe, datasets=read_data(recipe), of_splits={})
    require_part(found.dataset, "test")
    if found.dataset.labels != context.dataset.labels:  # the base has one head for all
        raise DataError(
            f"({context.recipe.splits}) gives split {number + 1} other classes than the first: too few rows "
            "have some of them.",
            field="splits",
            remedy="Set another data.split.seed, add rows of these classes, or leave splits out.",
        )
    return found
