"""The further runs that curves of a recipe take, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from deltatune.recipe.baselines import BASELINES
from deltatune.recipe.curve_rules import has_rank, rank_of
from deltatune.recipe.curve_section import CurveSpec, as_long
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.results import PlannedCurve, PlannedEntry


def curve_runs(
    recipe: Recipe, rows: Sequence[int], planned: Sequence[PlannedEntry] = ()
) -> PlannedCurve | None:
    """Count the runs and steps of a recipe's curves; None if it has none.

    Where the ranking decides whose curve is drawn, it is taken to be that of the entry with the most steps.

    Args:
        recipe: The recipe.
        rows: Training rows of each seed; none where they are not read.
        planned: What is known of its entries: with times, they tell the time.
    """
    spec = recipe.curve
    if spec is None:
        return None
    seconds = {entry.name: entry.step_seconds for entry in planned}
    runs = steps = 0
    time: float | None = 0.0
    for axis in ("rows", "rank"):
        of = {entry.name: _steps(recipe, spec, axis, entry, rows) for entry in _entries(recipe, spec, axis)}
        if spec.entries is None and of:
            longest = max(of, key=lambda name: (sum(of[name]), len(of[name])))
            of = {longest: of[longest]}
        for name, each in of.items():
            runs += len(each)
            steps += sum(each)
            second = seconds.get(name)
            if any(each):  # of what trains nothing there is no time of a step
                time = None if time is None or second is None else time + second * sum(each)
    return PlannedCurve(
        runs=runs,
        steps=steps if rows else None,
        entries=spec.entries,
        seconds=time if rows else None,
    )


def _entries(recipe: Recipe, spec: CurveSpec, axis: str) -> list[MethodEntry]:
    """Those whose curves may be drawn."""
    if getattr(spec, axis) is None:
        return []
    if spec.entries is not None:
        return [recipe.entry(name) for name in spec.entries]
    trained = [e for e in recipe.methods if e.build_config().trains and (axis == "rows" or has_rank(e))]
    return [entry for entry in trained if entry.method not in BASELINES] or trained


def _steps(recipe: Recipe, spec: CurveSpec, axis: str, entry: MethodEntry, rows: Sequence[int]) -> list[int]:
    """Steps of each further run; 0 if the number of rows is not known, or nothing is trained."""
    whole = spec.numbers if axis == "rows" else sorted(set(spec.rank or ()) - {rank_of(entry)})
    points = [at for at in whole if axis == "rank" or not rows or at < min(rows)]
    if not rows or not entry.build_config().trains:
        return [0] * len(points) * len(recipe.seeds)
    if axis == "rank":
        return [entry.train.steps(of) for of in rows for _ in points]
    return [as_long(entry.train, at, of).steps(at) for of in rows for at in points]
