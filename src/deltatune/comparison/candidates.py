"""What may be chosen for an entry, and who competes with whom."""

from __future__ import annotations

from dataclasses import dataclass, field

from deltatune.comparison.halving import contest_of
from deltatune.core.method import MethodConfig
from deltatune.recipe.axes import point_label
from deltatune.recipe.schema import MethodEntry
from deltatune.recipe.spaces import searched
from deltatune.training import Context
from deltatune.training.given.course import course_of


@dataclass(frozen=True, eq=False)
class Candidate:
    """One configuration that may be chosen for an entry."""

    entry: MethodEntry
    """With the candidate's learning rates."""
    rates: dict[str, float] = field(default_factory=dict)
    """Field -> the rate, of what is tuned."""

    @property
    def label(self) -> str:
        """The entry's label, and the rates if there are several."""
        return f"{self.entry.name} {point_label(self.rates)}".rstrip()

    @property
    def variant(self) -> str:
        """What its folder is told apart by."""
        return "-".join(f"{name.removeprefix('train.')}-{rate:g}" for name, rate in self.rates.items())


def pools_of(context: Context) -> dict[str, list[Candidate]]:
    """Candidates by who competes with whom: without halving, the rates of each entry.

    A pool's key is the same whenever the recipe is.
    """
    recipe = context.recipe
    pools: dict[str, list[Candidate]] = {}
    for entry in recipe.by_model():
        config = entry.build_config()
        if not config.trains or searched(recipe, entry):
            continue
        key = contest_of(recipe.halving, entry.name, entry.group, config.name)
        points = _points(context, entry, config)
        pools.setdefault(key, []).extend(_at(entry, point) for point in points)
    return pools


def _points(context: Context, entry: MethodEntry, config: MethodConfig) -> list[dict[str, float]]:
    tune = context.recipe.tune
    return tune.points(entry.train, config, course_of(context, entry)) if tune else [{}]


def _at(entry: MethodEntry, rates: dict[str, float]) -> Candidate:
    changes = {name.removeprefix("train."): rate for name, rate in rates.items()}
    train = entry.train.model_copy(update=changes)
    return Candidate(entry.model_copy(update={"train": train}), rates)
