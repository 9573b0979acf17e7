"""How many decisions `halving: auto` takes where `budget_time` says how long a comparison may take.

A configuration of each kind (method and base) is trained to its first validation, which it needs anyway, and
timed. By that, the time of the whole comparison is foreseen without stopping anyone, with one decision, with
two and so on. The first of these that ends in time is taken. Where none does, not all configurations are
begun: those that are lie spread over the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deltatune import units
from deltatune.comparison.attempt import attempt
from deltatune.comparison.candidates import Candidate, pools_of
from deltatune.comparison.halving import Standing
from deltatune.comparison.journal import Stages
from deltatune.comparison.team import Team
from deltatune.evaluation import primary_metric
from deltatune.phrasing import listing
from deltatune.recipe.choosing import HalvingSpec
from deltatune.recipe.schema import Recipe
from deltatune.timeline import Spent, Timeline
from deltatune.training import Context
from deltatune.training.loop.steps import Progress

T = TypeVar("T")
MOST_RUNGS = 4
"""Decisions that are taken at most to save time."""
Kind = tuple[str, str]
Pool = Sequence[Candidate]


@dataclass(frozen=True)
class Pace:
    """What runs of one kind take."""

    start: float
    """Seconds before and behind the steps, each time that a run is begun or gone on with."""
    whole: float
    """Seconds of all steps and validations."""
    every: float
    """Share of the steps from one validation to the next."""

    @classmethod
    def of(cls, standing: Standing, every: int) -> Pace:
        """The pace of a run that came to its first validation, of which there is one in `every` steps."""
        whole = (standing.seconds + standing.validating) / max(1, standing.step) * standing.steps
        return cls(standing.starting, whole, every / standing.steps)

    def validated(self, share: float) -> float:
        """The share of the steps at which the first validation is that is not before `share`."""
        return min(1.0, math.ceil(share / self.every - 1e-9) * self.every)


@dataclass(frozen=True)
class Contest:
    """Configurations that compete, of which some are trained with all seeds."""

    pool: Pool
    pace: Pace

    def shares(self, spec: HalvingSpec, rungs: int) -> list[float]:
        """Shares of the steps at which so many decisions are taken; none where nobody competes."""
        return spec.shares_of(rungs) if len(self.pool) > 1 else []

    def seconds(self, spec: HalvingSpec, rungs: int, begun: int, more_seeds: int, testing: float) -> float:
        """Foresee how long it takes with so many decisions, if so many are begun.

        Args:
            spec: How many go on from a decision.
            rungs: Number of decisions.
            begun: Number of configurations.
            more_seeds: Seeds besides the first.
            testing: Seconds of the test rows.
        """
        alive, before, found = begun, 0.0, 0.0
        for share in (*self.shares(spec, rungs), 1.0):
            here = self.pace.validated(share)
            if here <= before or (alive <= spec.finish and here < 1.0):
                continue
            found += alive * (self.pace.start + (here - before) * self.pace.whole)
            alive = spec.kept(alive) if here < 1.0 else alive
            before = here
        ranked = min(alive, len({c.entry.name for c in self.pool}))
        again = more_seeds * (self.pace.start + self.pace.whole)
        return found + ranked * (again + (1 + more_seeds) * testing)


@dataclass(frozen=True)
class Foresight:
    """What all that is to be done takes."""

    spec: HalvingSpec
    contests: Mapping[str, Contest]
    """By pool; one that competes with no other is a pool of its own."""
    seeds: int
    testing: float
    """Seconds of the test rows of a run."""
    asked: int
    """Entries that train nothing: they see the test rows once for all seeds."""

    def seconds(self, rungs: int, begun: Mapping[str, int]) -> float:
        """Foresee how long it takes with so many decisions, if so many of each pool are begun."""
        contests = (
            contest.seconds(self.spec, rungs, begun[key], self.seeds - 1, self.testing)
            for key, contest in self.contests.items()
        )
        return sum(contests) + self.asked * self.testing

    def within(self, limit: float) -> Stages:
        """The fewest decisions that end within so many seconds; the fewest configurations left out for it."""
        begun = {key: len(contest.pool) for key, contest in self.contests.items()}
        for rungs in range(MOST_RUNGS + 1):
            if (seconds := self.seconds(rungs, begun)) <= limit:
                return self._stages(rungs, begun, seconds)
        while seconds > limit and max(begun.values()) > 2:
            largest = max(begun, key=lambda key: begun[key])
            begun[largest] -= 1
            seconds = self.seconds(MOST_RUNGS, begun)
        return self._stages(MOST_RUNGS, begun, seconds)

    def _stages(self, rungs: int, begun: Mapping[str, int], seconds: float) -> Stages:
        left_out = [
            candidate.label
            for key, contest in self.contests.items()
            for candidate in contest.pool
            if candidate not in spread(contest.pool, begun[key])
        ]
        shares = {key: contest.shares(self.spec, rungs) for key, contest in self.contests.items()}
        return Stages(shares, left_out, seconds)

    def said(self, stages: Stages, limit: float) -> str:
        """What was decided, in words."""
        foreseen, given = units.duration(stages.seconds or 0.0), units.duration(limit)
        if stages.left_out:
            count = sum(len(contest.pool) for contest in self.contests.values())
            return (
                f"Within {given} there is no time to begin with {len(stages.left_out)} of {count} "
                f"configurations ({', '.join(stages.left_out)}); {foreseen} are foreseen for the others."
            )
        if (stages.seconds or 0.0) > limit:
            return f"More than {given} are foreseen, whatever is stopped: {foreseen}."
        earliest = max(stages.shares.values(), key=len, default=[])
        if not earliest:
            return f"Nobody has to be stopped to end within {given}: {foreseen} are foreseen."
        shares = listing([f"{share:.0%}" for share in earliest])
        return f"Those behind are stopped after {shares} of their steps: {foreseen} are foreseen of {given}."


def spread(pool: Sequence[T], count: int) -> list[T]:
    """So many of a pool, the first and the last among them."""
    if count >= len(pool):
        return list(pool)
    last = len(pool) - 1
    return [pool[round(place * last / max(1, count - 1))] for place in range(count)]


def foresee(
    context: Context,
    team: Team,
    reach: Callable[[Pool, float], dict[Candidate, Standing]],
    folder: Callable[[Candidate], Path],
) -> Foresight | None:
    """Train one of each kind to its first validation, and foresee what all takes by that.

    Args:
        context: Data and bases of the comparison.
        team: The processes at it.
        reach: As of `halve`.
        folder: Of a candidate's run.

    Returns:
        What is foreseen; None if nothing could be trained.
    """
    recipe, pools = context.recipe, pools_of(context)
    spec = recipe.halving
    assert spec is not None
    kinds = {_kind(recipe, candidate): candidate for pool in pools.values() for candidate in reversed(pool)}
    stood = reach(list(kinds.values()), min(spec.shares_of(MOST_RUNGS)))
    rows = len(context.dataset.train)
    paces = {_kind(recipe, c): Pace.of(at, c.entry.train.validates_every(rows)) for c, at in stood.items()}
    if not stood:
        return None
    slowest = max(paces.values(), key=lambda pace: pace.whole)
    return Foresight(
        spec,
        {key: Contest(pool, paces.get(_kind(recipe, pool[0]), slowest)) for key, pool in pools.items()},
        len(recipe.seeds),
        _testing(context, team, next(iter(stood)), folder),
        sum(not entry.build_config().trains for entry in recipe.methods),
    )


def _kind(recipe: Recipe, candidate: Candidate) -> Kind:
    return candidate.entry.method, recipe.model_of(candidate.entry).name


def _testing(
    context: Context, team: Team, candidate: Candidate, folder: Callable[[Candidate], Path]
) -> float:
    """Seconds of the test rows of a run, by what the metric that decides takes on the validation rows."""
    recipe, timeline, data = context.recipe, Timeline(), context.dataset
    metric = primary_metric(recipe.evaluation, recipe.task, targets=recipe.has_targets)

    def measure(candidate: Candidate) -> None:
        with timeline.open():
            attempt(
                context, team, candidate.entry, recipe.seeds[0], folder(candidate), _at_once, measure=metric
            )

    team.each([candidate], measure, "configurations")
    spent = timeline.so_far().get("validation", Spent()).seconds
    return spent * len(data.test) / len(data.validation)


def _at_once(progress: Progress, _: int) -> bool:
    return True
