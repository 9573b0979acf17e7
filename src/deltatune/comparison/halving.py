"""Successive halving: train all a little, go on with the best, and again.

Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
algorithm 1, with two changes: decisions wait for the validation that the run makes anyway, so that a
survivor's training is the same as without halving; and what cannot be judged yet is not stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from deltatune.recipe.baselines import BASELINES
from deltatune.recipe.choosing import HalvingSpec
from deltatune.results import PausedRun, RunResult

T = TypeVar("T")


@dataclass(frozen=True)
class Standing:
    """How far a configuration came, and how good it is so far."""

    step: int
    steps: int
    """Of the whole run."""
    value: float | None
    """Its best validation result; None while its method's schedule is under way."""
    seconds: float = 0.0
    """Of training."""

    @classmethod
    def of(cls, result: RunResult | PausedRun) -> Standing:
        """How a run stands, be it paused or (by an earlier call) done."""
        cost = result.cost
        if isinstance(result, PausedRun):
            return cls(cost.steps, result.cost.planned_steps, result.selected.value, cost.train_seconds)
        value = result.metrics.validation.get(result.selected.by)
        return cls(cost.steps, cost.steps, value, cost.train_seconds)


@dataclass(frozen=True)
class Decision(Generic[T]):
    """Who was stopped at one share of the steps, and why."""

    share: float
    values: dict[T, float | None]
    """Validation results of those that were judged, best first."""
    not_settled: list[T]
    """Those whose method's schedule was under way; they went on."""
    stopped: list[T]


def contest_of(spec: HalvingSpec | None, name: str, group: str | None, method: str) -> tuple[str, str]:
    """A key that entries have in common whose configurations compete; without halving, each has its own.

    Args:
        spec: How halving is done.
        name: The entry's.
        group: The entry of the recipe from whose grid it was made.
        method: Its method's.
    """
    if spec is None:
        return "entry", name
    if spec.among == "all" and method not in BASELINES:
        return "all", ""
    return ("grid", group) if group else ("entry", name)


def order(standing: Standing, *, higher_is_better: bool) -> float:
    """Sort key: the better the lower; a result that overflowed is the worst."""
    value = standing.value
    if value is None or not math.isfinite(value):
        return math.inf
    return -value if higher_is_better else value


def halve(
    pool: Sequence[T],
    spec: HalvingSpec,
    reach: Callable[[Sequence[T], float], dict[T, Standing]],
    *,
    higher_is_better: bool,
) -> tuple[list[T], list[Decision[T]]]:
    """Find those that are worth training to the end.

    Args:
        pool: The configurations that compete.
        spec: How many go on, and when.
        reach: Trains configurations to their first validations at a share of their steps; gives how those
            stand that did not fail, in their order.
        higher_is_better: The direction of validation results.

    Returns:
        The survivors, those whose schedule kept them from being judged included, and the decisions.
    """
    alive, decisions = list(pool), []
    before: dict[T, int] = {}
    for share in spec.shares():
        found = reach(alive, share)
        alive = list(found)
        steps = {one: standing.step for one, standing in found.items()}
        # Where validations are far apart, two shares may end at the same one: no news, no decision.
        news = any(step != before.get(one) for one, step in steps.items())
        before = steps
        judged = [one for one in alive if found[one].value is not None]
        judged.sort(key=lambda one: order(found[one], higher_is_better=higher_is_better))
        keep = max(spec.finish, math.ceil(len(judged) / spec.factor))
        if news and len(judged) > keep:
            stopped = judged[keep:]
            values = {one: found[one].value for one in judged}
            waiting = [one for one in alive if found[one].value is None]
            decisions.append(Decision(share, values, waiting, stopped))
            alive = [one for one in alive if one not in stopped]
    return alive, decisions
