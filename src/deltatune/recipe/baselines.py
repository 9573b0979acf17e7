"""What every comparison of classifiers is compared with, beside what its recipe names.

`majority` says what a method is worth that looks at no row, and `head` what the new head alone is worth on a
base that stays as it is: a new head is random, so that `untuned` is no yardstick there.
"""

from __future__ import annotations

from deltatune.errors import RecipeError
from deltatune.recipe.axes import slug
from deltatune.recipe.bases import short_names
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.tasks import TASKS

BASELINES = ("majority", "head")
TRAIN_NOTHING = ("untuned", "majority", "few_shot", "knn", "copy")
"""Ours that have nothing to train; a test holds them to what the methods say of themselves."""


def trains(method: str) -> bool:
    """Whether a method has anything to train: of ours without importing them, and others are asked.

    Args:
        method: Its name. One that is not here, or cannot be imported, is taken to train.
    """
    from deltatune.methods import METHODS

    if method in TRAIN_NOTHING or not METHODS.from_outside(method):
        return method not in TRAIN_NOTHING
    try:
        return METHODS.get(method).trains
    except RecipeError:
        return True


def with_baselines(recipe: Recipe) -> Recipe:
    """A comparison's recipe with an entry for each baseline on each base that has none of its own.

    Where the head tells a number, that is `head` alone: R^2 says what the mean is worth.

    They are trained as the recipe's `train` section says, and put last. With `baselines: false`, and in other
    tasks, the recipe is returned as it is.
    """
    task = TASKS.get(recipe.task)
    if not (task.has_classes or task.has_values) or not recipe.baselines:
        return recipe
    entries, models = list(recipe.methods), recipe.models
    for method in BASELINES if task.has_classes else BASELINES[1:]:
        there = [recipe.model_of(entry) for entry in recipe.methods if entry.method == method]
        for model, short in zip(models, short_names(models), strict=True):
            if model in there:
                continue
            name = method if len(models) == 1 else f"{method} {short}"
            if slug(name) in [entry.slug for entry in entries]:
                name = f"{name} (baseline)"
            entries.append(
                MethodEntry(
                    name=name,
                    method=method,
                    model=None if model == recipe.model else model,
                    train=recipe.train,
                    quantization=recipe.quantization,
                )
            )
    return recipe.model_copy(update={"methods": entries})
