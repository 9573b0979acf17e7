"""Successive halving: train all a little, go on with the best, and again.

Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
algorithm 1, with three changes: decisions wait for the validation that the run makes anyway, so that a
survivor's training is the same as without halving; what cannot be judged yet is not stopped; and with
`halving: auto` nobody is stopped while losses jump (docs/adr, decision 13).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from deltatune.recipe.baselines import BASELINES
from deltatune.recipe.choosing import HalvingSpec
from deltatune.results import PausedRun, RunResult

T = TypeVar("T")
LONG = 10**9
"""Steps of a run of which only shares are known."""
JUMPY = 1.25
"""Where half of the configurations have so many times their best loss, losses jump: the order is a guess."""


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
    last: float | None = None
    """Its latest validation result, of those that are looked at while it trains."""
    validating: float = 0.0
    """Seconds of validation."""
    starting: float = 0.0
    """Seconds of all else that its way to here took: the base, the certificate, files."""

    @property
    def jump(self) -> float:
        """How many times its best validation result its latest one is; 1 where that is the best."""
        if self.last is None or not self.value or not math.isfinite(self.last / self.value):
            return 1.0
        return self.last / self.value

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
    jump: float | None = None
    """How many times their best loss the median of them had, where that is so much that losses jump."""


def contest_of(spec: HalvingSpec | None, name: str, group: str | None, method: str) -> str:
    """A key that entries have in common whose configurations compete; without halving, each has its own.

    Args:
        spec: How halving is done.
        name: The entry's.
        group: The entry of the recipe from whose grid it was made.
        method: Its method's.
    """
    if spec is None:
        return f"entry {name}"
    if spec.among == "all" and method not in BASELINES:
        return "all"
    return f"grid {group}" if group else f"entry {name}"


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
    shares: Sequence[float] | None = None,
    waits: bool = False,
) -> tuple[list[T], list[Decision[T]]]:
    """Find those that are worth training to the end.

    Args:
        pool: The configurations that compete.
        spec: How many go on, and when.
        reach: Trains configurations to their first validations at a share of their steps; gives how those
            stand that did not fail, in their order.
        higher_is_better: The direction of validation results.
        shares: Of the steps, at which is decided; what there is time for. None: as `spec` says.
        waits: Whether nobody is stopped while losses jump.

    Returns:
        The survivors, those whose schedule kept them from being judged included, and the decisions.
    """
    alive, decisions = list(pool), []
    before: dict[T, int] = {}
    for share in spec.shares(len(pool), LONG) if shares is None else shares:
        if len(alive) <= spec.finish:
            break
        found = reach(alive, share)
        alive = list(found)
        steps = {one: standing.step for one, standing in found.items()}
        # Where validations are far apart, two shares may end at the same one: no news, no decision.
        news = any(step != before.get(one) for one, step in steps.items())
        before = steps
        judged = [one for one in alive if found[one].value is not None]
        judged.sort(key=lambda one: order(found[one], higher_is_better=higher_is_better))
        stopped = judged[spec.kept(len(judged)) :]
        if not news or not stopped:
            continue
        jump = 1.0 if higher_is_better else statistics.median(found[one].jump for one in judged)
        stopped = [] if waits and jump >= JUMPY else stopped
        values = {one: found[one].value for one in judged}
        waiting = [one for one in alive if found[one].value is None]
        decisions.append(Decision(share, values, waiting, stopped, jump if jump >= JUMPY else None))
        alive = [one for one in alive if one not in stopped]
    return alive, decisions
