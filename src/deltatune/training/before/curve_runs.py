"""The further runs that curves of a recipe take, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deltatune.data.dataset import Dataset
from deltatune.data.subsets import training_rows
from deltatune.recipe.baselines import BASELINES
from deltatune.recipe.curve_rules import has_rank, rank_of
from deltatune.recipe.curve_section import CurveSpec, as_long
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.results import PlannedCurve, PlannedEntry


def curve_runs(
    recipe: Recipe, datasets: Mapping[str, Dataset], planned: Sequence[PlannedEntry] = ()
) -> PlannedCurve | None:
    """Count the runs and steps of a recipe's curves; None if it has none.

    Where the ranking decides whose curve is drawn, it is taken to be that of the entry with the most steps.

    Args:
        recipe: The recipe.
        datasets: The rows by template; none where they are not read.
        planned: What is known of its entries: with times, they tell the time.
    """
    spec = recipe.curve
    if spec is None:
        return None
    rows = next((training_rows(dataset) for dataset in datasets.values()), None)
    seconds = {entry.name: entry.step_seconds for entry in planned}
    runs = steps = 0
    time: float | None = 0.0
    for axis in ("rows", "rank"):
        of = {entry.name: _steps(spec, axis, entry, rows) for entry in _entries(recipe, spec, axis)}
        if spec.entries is None and of:
            longest = max(of, key=lambda name: (sum(of[name]), len(of[name])))
            of = {longest: of[longest]}
        for name, each in of.items():
            runs += len(each)
            steps += sum(each)
            second = seconds.get(name)
            time = None if time is None or second is None else time + second * sum(each)
    count = len(recipe.seeds)
    return PlannedCurve(
        runs=count * runs,
        steps=count * steps if rows is not None else None,
        entries=spec.entries,
        seconds=None if time is None or rows is None else count * time,
    )


def _entries(recipe: Recipe, spec: CurveSpec, axis: str) -> list[MethodEntry]:
    """Those whose curves may be drawn."""
    if getattr(spec, axis) is None:
        return []
    if spec.entries is not None:
        return [recipe.entry(name) for name in spec.entries]
    trained = [e for e in recipe.methods if e.build_config().trains and (axis == "rows" or has_rank(e))]
    return [entry for entry in trained if entry.method not in BASELINES] or trained


def _steps(spec: CurveSpec, axis: str, entry: MethodEntry, rows: int | None) -> list[int]:
    """Steps of each further run of one seed; 0 if the number of rows is not known."""
    if axis == "rank":
        return [entry.train.steps(rows) if rows else 0] * len(set(spec.rank or ()) - {rank_of(entry)})
    numbers = [number for number in spec.numbers if rows is None or number < rows]
    return [as_long(entry.train, number, rows).steps(number) if rows else 0 for number in numbers]
