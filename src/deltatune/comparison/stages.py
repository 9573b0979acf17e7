"""How many decisions `halving: auto` takes where `budget_time` says how long a comparison may take.

A configuration of each kind (method, base, rows and batch) is trained to a validation, which it needs anyway,
and timed over eight steps or more. By that, the time of the whole comparison is foreseen without stopping
anyone, with one decision, with two and so on. The first of these that ends in time is taken. Where none does,
not all configurations are begun: those that are lie spread over the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from deltatune import units
from deltatune.checkpoint.folders import remove
from deltatune.comparison.attempt import attempt
from deltatune.comparison.candidates import Candidate, pools_of
from deltatune.comparison.halving import Standing
from deltatune.comparison.journal import Stages
from deltatune.comparison.team import Team
from deltatune.evaluation import primary_metric
from deltatune.phrasing import listing
from deltatune.recipe.choosing import FIRST_STEPS, HalvingSpec
from deltatune.recipe.schema import Recipe
from deltatune.results import FailedRun
from deltatune.timeline import Spent, Timeline
from deltatune.training import Context
from deltatune.training.loop.steps import Progress

T = TypeVar("T")
MOST_RUNGS = 4
"""Decisions that are taken at most to save time."""
FEWEST = 2
"""Configurations of a pool that are begun, however little time there is."""
Kind = tuple[Hashable, ...]
Pool = Sequence[Candidate]


@dataclass(frozen=True)
class Pace:
    """What runs of one kind take, or those of a pool on average."""

    start: float
    """Seconds before and behind the steps, each time that a run is begun or gone on with."""
    whole: float
    """Seconds of all steps and validations."""
    every: float
    """Share of the steps from one validation to the next."""
    steps: int
    """Of a run; the fewest of a pool."""
    unsettled: float = 0.0
    """Share of those whose method's schedule keeps them from being judged: they go on to the end."""

    @classmethod
    def of(cls, standing: Standing, candidate: Candidate, rows: int, look: float) -> Pace:
        """The pace of a candidate, by how one of its kind came to a validation.

        Args:
            standing: How that one stands, timed.
            candidate: The candidate, whose steps may be other ones.
            rows: Training rows.
            look: Seconds of a pass over the validation rows, where those of the run were lost by a kill.
        """
        train = candidate.entry.train
        steps, every = train.steps(rows), train.validates_every(rows)
        validating = standing.validating / max(1, standing.step) * steps or look * steps / every
        whole = standing.seconds / max(1, standing.step) * steps + validating
        return cls(standing.starting, whole, every / steps, steps, float(standing.value is None))

    @classmethod
    def mean(cls, paces: Sequence[Pace]) -> Pace:
        """That of a pool."""
        return cls(
            fmean(pace.start for pace in paces),
            fmean(pace.whole for pace in paces),
            max(pace.every for pace in paces),
            min(pace.steps for pace in paces),
            fmean(pace.unsettled for pace in paces),
        )

    def validated(self, share: float) -> float:
        """The share of the steps at which the first validation is that is not before `share`."""
        return min(1.0, math.ceil(share / self.every - 1e-9) * self.every)


@dataclass(frozen=True)
class Contest:
    """Configurations that compete, of which some are trained with all seeds."""

    pool: Pool
    pace: Pace

    def shares(self, spec: HalvingSpec, rungs: int) -> list[float]:
        """Shares of the steps at which so many decisions are taken; none where nobody can be stopped."""
        if len(self.pool) <= spec.finish:
            return []
        shares = {self.pace.validated(share) for share in spec.shares(len(self.pool), self.pace.steps, rungs)}
        return sorted(share for share in shares if share < 1)

    def seconds(self, spec: HalvingSpec, rungs: int, begun: int, more_seeds: int, testing: float) -> float:
        """Foresee how long it takes with so many decisions, if so many are begun.

        Args:
            spec: How many go on from a decision.
            rungs: Number of decisions.
            begun: Number of configurations.
            more_seeds: Seeds besides the first.
            testing: Seconds of the test rows.
        """
        unsettled = round(begun * self.pace.unsettled)
        judged, before, found = begun - unsettled, 0.0, 0.0
        for share in (*self.shares(spec, rungs), 1.0):
            if judged + unsettled <= spec.finish and share < 1:
                continue
            found += (judged + unsettled) * (self.pace.start + (share - before) * self.pace.whole)
            judged, before = spec.kept(judged) if share < 1 else judged, share
        ranked = min(judged + unsettled, len({c.entry.name for c in self.pool}))
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
        """The fewest configurations left out, and the fewest decisions, that end within so many seconds."""
        begun = {key: len(contest.pool) for key, contest in self.contests.items()}
        while True:
            seconds = [self.seconds(rungs, begun) for rungs in range(MOST_RUNGS + 1)]
            in_time = [rungs for rungs, each in enumerate(seconds) if each <= limit]
            largest = max(begun, key=lambda key: begun[key])
            if in_time or begun[largest] <= FEWEST:
                rungs = (
                    in_time[0] if in_time else min(range(MOST_RUNGS + 1), key=lambda rungs: seconds[rungs])
                )
                return self._stages(rungs, begun, seconds[rungs])
            begun[largest] -= 1

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
                f"configurations ({', '.join(stages.left_out)}); {foreseen} are foreseen for the others"
                f"{', which is more' if (stages.seconds or 0.0) > limit else ''}."
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
    recipe, pools, rows = context.recipe, pools_of(context), len(context.dataset.train)
    spec = recipe.halving
    assert spec is not None
    kinds: dict[Kind, list[Candidate]] = {}
    for candidate in (candidate for pool in pools.values() for candidate in pool):
        kinds.setdefault(_kind(recipe, candidate), []).append(candidate)
    stood: dict[Kind, tuple[Candidate, Standing]] = {}
    while trial := [alike.pop(0) for kind, alike in kinds.items() if alike and kind not in stood]:
        # A step is timed on several: the first one of a process takes longer.
        fewest = min(candidate.entry.train.steps(rows) for candidate in trial)
        share = min(1.0, max(FIRST_STEPS / fewest, min(spec.shares_of(MOST_RUNGS))))
        stood |= {_kind(recipe, c): (c, standing) for c, standing in reach(trial, share).items()}
    if not stood:
        return None
    look = _look(context, team, next(iter(stood.values()))[0], folder)
    known = [standing for _, standing in stood.values()]
    slowest = max(known, key=lambda standing: standing.seconds / max(1, standing.step))

    def pace(candidate: Candidate) -> Pace:
        _, standing = stood.get(_kind(recipe, candidate), (candidate, slowest))
        return Pace.of(standing, candidate, rows, look)

    return Foresight(
        spec,
        {
            key: Contest(pool, Pace.mean([pace(candidate) for candidate in pool]))
            for key, pool in pools.items()
        },
        len(recipe.seeds),
        look * len(context.dataset.test) / len(context.dataset.validation),
        sum(not entry.build_config().trains for entry in recipe.methods),
    )


def _kind(recipe: Recipe, candidate: Candidate) -> Kind:
    """What candidates have in common whose steps take as long."""
    entry = candidate.entry
    return entry.method, recipe.model_of(entry), recipe.data_of(entry), entry.train.batch_size


def _look(context: Context, team: Team, candidate: Candidate, folder: Callable[[Candidate], Path]) -> float:
    """Seconds of a pass over the validation rows, for the metric that decides."""
    recipe, timeline = context.recipe, Timeline()
    metric = primary_metric(recipe.evaluation, recipe.task, targets=recipe.has_targets)

    def measure(candidate: Candidate) -> None:
        seed, out = recipe.seeds[0], folder(candidate)
        with timeline.open():
            result = attempt(context, team, candidate.entry, seed, out, _at_once, measure=metric)
        if isinstance(result, FailedRun):  # its state goes on; only this pass failed
            context.warn(f"budget_time: test rows could not be timed: {result.message}")
            remove(out / "result.json")

    team.each([candidate], measure, "configurations")
    return timeline.so_far().get("validation", Spent()).seconds


def _at_once(progress: Progress, _: int) -> bool:
    return True
