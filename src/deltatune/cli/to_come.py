"""What a comparison does besides training its entries with every seed, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltatune.recipe import Recipe
    from deltatune.recipe.choosing import HalvingSpec
    from deltatune.results import PlannedCurve
    from deltatune.training import Context


def choosing(recipe: Recipe) -> list[str]:
    """What is tried before the seeds are trained."""
    words = []
    if recipe.tune:
        words.append(
            f"Before that, {recipe.tune.tries} learning rates for each, by validation rows and seed "
            f"{recipe.seeds[0]}"
        )
    if recipe.search:
        words.append(f"Before that, a search of {recipe.search.trials} trials for each that has a space")
    if recipe.halving:
        words.append(_stopping(recipe, recipe.halving))
    return words


def _stopping(recipe: Recipe, halving: HalvingSpec) -> str:
    if recipe.budget_time:
        return f"Those that are behind are stopped, as early as {recipe.budget_time} for all of it needs"
    if halving.auto:
        shares = "a third of the steps, of nine or more from a ninth"
        return f"Of those that compete, the best third (but two at least) goes on from {shares}"
    shares = " and ".join(f"{share:.0%}" for share in halving.shares_of(int(halving.rungs)))
    return f"Those that are behind after {shares} of their steps are stopped"


def runs_of_curves(recipe: Recipe, context: Context) -> PlannedCurve | None:
    """What curves take, on the rows of every split; None if none are asked for."""
    if recipe.curve is None:
        return None
    from deltatune.training.before.curve_runs import curve_runs
    from deltatune.training.given.split_contexts import rows_of_seeds

    return curve_runs(recipe, rows_of_seeds(context))


def curves(found: PlannedCurve | None) -> list[str]:
    """What is trained for curves when all else is done."""
    if found is None:
        return []
    from deltatune import units

    whose = ", ".join(found.entries) if found.entries else "the entry that comes out best"
    steps = f", {found.steps:,} steps" if found.steps is not None else ""
    time = f", about {units.duration(found.seconds)} of training" if found.seconds is not None else ""
    return [f"After that, {found.runs} runs for curves of {whose}{steps}{time}"]
