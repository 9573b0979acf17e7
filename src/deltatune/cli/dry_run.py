"""`--dry-run` of a comparison: what would be trained, of each data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deltatune.cli import output, to_come
from deltatune.cli.engines import needs_on_ray
from deltatune.cli.progress import watching

if TYPE_CHECKING:
    from deltatune.recipe import Recipe


def show_plans(sets: Mapping[str, Recipe], *, as_json: bool, quiet: bool, on_ray: bool = False) -> None:
    """Print the plan of every entry on every data set.

    Args:
        sets: By the name of each data set its recipe; one alone needs no name.
        as_json: Print it as JSON.
        quiet: Show no progress.
        on_ray: Say what tasks would ask Ray for.
    """
    plans = {}
    for name, recipe in sets.items():
        if len(sets) > 1 and not as_json:
            output.line(f"Data set {name}\n", "bold cyan")
        plans[name] = _plans(recipe, quiet=quiet, on_ray=on_ray)
        if not as_json:
            _show(recipe, plans[name])
    if as_json:
        output.emit_json({"sets": plans} if len(sets) > 1 else next(iter(plans.values())))


def _plans(recipe: Recipe, *, quiet: bool, on_ray: bool) -> dict[str, Any]:
    from deltatune.recipe.baselines import with_baselines
    from deltatune.training import Context, plan

    seed, recipe = recipe.seeds[0], with_baselines(recipe)
    with watching(quiet=quiet) as observer:
        context = Context.open(recipe, observer)  # the data and the base are the same for all
        plans = {
            entry.name: plan(recipe, entry, seed, observer=observer, context=context)
            for entry in recipe.methods
        }
        tasks = {"ray": vars(needs_on_ray(recipe, observer))} if on_ray else {}
    curve = to_come.runs_of_curves(recipe, context)
    more = {"curve": curve.as_dict()} if curve else {}
    return {"seeds": list(recipe.seeds), "methods": plans, **more, **tasks}


def _show(recipe: Recipe, plans: Mapping[str, Any]) -> None:
    from deltatune.cli import show
    from deltatune.results import PlannedCurve

    for name, planned in plans["methods"].items():
        show.plan(name, planned)
        output.stdout().print()
    seeds = "1 seed" if len(recipe.seeds) == 1 else f"{len(recipe.seeds)} seeds"
    seeds += " (and splits)" if recipe.splits else ""
    on = []
    if "ray" in plans:
        from deltatune.comparison.on_ray import Needs

        on = [Needs(**plans["ray"]).said()]
    curve = PlannedCurve.model_validate(plans["curve"]) if "curve" in plans else None
    besides = [*to_come.choosing(recipe), *to_come.curves(curve), *on]
    output.paragraph(". ".join([f"{len(plans['methods'])} methods, {seeds} each", *besides]))
