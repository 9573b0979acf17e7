"""Which configuration of each entry is trained with all seeds and reported: chosen on validation rows alone.

Tuning tries several learning rates of an entry, halving stops configurations that are behind, a search
(search.py) tries any settings. All train with the recipe's first seed, pause a run behind a validation and
later go on with it as if nothing had been, so the run that is chosen is the run that an untouched comparison
would have made, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deltatune.checkpoint.folders import remove
from deltatune.comparison.again import Ended, latest_validation, weighed
from deltatune.comparison.attempt import Pick, attempt, run_folder
from deltatune.comparison.candidates import Candidate, pools_of
from deltatune.comparison.halving import Decision as Decided
from deltatune.comparison.halving import Standing, halve, order
from deltatune.comparison.journal import Journal, Stages
from deltatune.comparison.search import search
from deltatune.comparison.stages import foresee
from deltatune.comparison.team import Team
from deltatune.comparison.warnings import jumped
from deltatune.errors import RecipeError
from deltatune.evaluation import higher_is_better
from deltatune.recipe.axes import point_label
from deltatune.recipe.choosing import HalvingSpec
from deltatune.recipe.kinds import seconds_of
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.spaces import searched
from deltatune.results import Decision, FailedRun, Halving, StoppedTrial, Trial, Tuning
from deltatune.timeline import Timeline
from deltatune.training import Context
from deltatune.training.loop.steps import Progress

ROUNDING = 1e-9
VALIDATION = "validation"
ELSEWHERE = ("training", "read data", "load base", "hash base")
"""Phases of a run's timeline that are counted by themselves, or are gone through once for all runs."""
RISK = (
    "Halving loses a configuration that learns slowly at first and would have won. Stopped configurations "
    "have no rank; only a comparison without halving tells theirs."
)


@dataclass
class Chosen:
    """The outcome for all entries; one without a pick was stopped early."""

    picks: dict[str, Pick]
    halving: Halving | None = None
    """What was stopped, and the steps that it saved."""


def choose(context: Context, team: Team) -> Chosen:
    """Tune, search and halve as the recipe says.

    What candidates reached is written down as it comes, so that the same call after an interruption takes
    the same decisions.

    Raises:
        RecipeError: There are no validation rows to choose by.
    """
    recipe = context.recipe
    picks = {entry.name: Pick(entry) for entry in recipe.methods}
    if recipe.tune is None and recipe.halving is None and recipe.search is None:
        return Chosen(picks)
    if not context.dataset.validation:
        raise RecipeError(
            "cannot choose: there are no validation rows.",
            field="tune" if recipe.tune else "search" if recipe.search else "halving",
            remedy="Name a file for them (data.validation), or a share of the training rows.",
        )

    def look_for(entry: MethodEntry) -> None:
        if space := searched(recipe, entry):
            picks[entry.name] = search(context, team, entry, space)

    team.each(recipe.by_model(), look_for, "searches")
    contest = _Contest(context, team)
    pools = {key: pool for key, pool in pools_of(context).items() if len(pool) > 1}
    stages = contest.stages(pools)
    for key, pool in pools.items():
        alive = contest.halve(key, pool, stages) if recipe.halving else pool
        contest.reach(alive, 1.0)
    for entry in recipe.methods:
        mine = [c for pool in pools.values() for c in pool if c.entry.name == entry.name]
        if not mine:
            continue
        pick = contest.pick(mine)
        if pick is None:
            del picks[entry.name]
        else:
            picks[entry.name] = weighed(context, team, pick, contest.at_end(mine))
        contest.clear([c for c in mine if pick is None or c.variant != pick.variant])
    found = [picks[entry.name] for entry in recipe.methods if searched(recipe, entry)]
    if recipe.halving is None or not (pools or found):
        return Chosen(picks)
    return Chosen(picks, contest.savings(recipe, list(pools.values()), picks, found))


@dataclass
class _Contest:
    """Trains candidates part of the way and remembers, on disk, how they stood there."""

    context: Context
    team: Team
    stopped: set[Candidate] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recipe = self.context.recipe
        self.seed = self.recipe.seeds[0]
        self.by = self.recipe.evaluation.select_by
        self.up = higher_is_better(self.by)
        self.journal = Journal(self.team)
        self.known = self.journal.reached

    def folder(self, candidate: Candidate) -> Path:
        """The folder of the candidate's run with the first seed."""
        return self.team.out / run_folder(candidate.entry, self.seed, candidate.variant)

    def reach(self, candidates: Sequence[Candidate], share: float) -> dict[Candidate, Standing]:
        """Train candidates to their first validations at this share of their steps; leave out what failed."""
        key = f"{share:.4f}"

        def there(progress: Progress, steps: int) -> bool:
            return progress.stopped or progress.evaluated >= share * steps - ROUNDING

        def train(candidate: Candidate) -> None:
            label, folder = candidate.label, self.folder(candidate)
            if key in self.known.get(label, {}):
                return
            self.team.require_free(folder)
            self.journal.read()
            if key in self.known.get(label, {}):  # by another process
                return
            self.context.observer.stage(f"{label}, to {share:.0%} of its steps")
            timeline, before = Timeline(), self.latest(candidate) or Standing(0, 0, None)
            with timeline.open():
                result = attempt(self.context, self.team, candidate.entry, self.seed, folder, there)
            if isinstance(result, FailedRun):  # not written down: called again, it is tried again
                self.failed[label] = result.message
                return
            self.failed.pop(label, None)
            spent = {name: phase.seconds for name, phase in timeline.so_far().items()}
            standing = replace(
                Standing.of(result),
                last=latest_validation(folder).get(self.by),
                validating=before.validating + spent.pop(VALIDATION, 0.0),
                starting=before.starting + sum(s for name, s in spent.items() if name not in ELSEWHERE),
            )
            self.journal.note(label, key, standing)

        self.team.each(candidates, train, "configurations")
        return {c: self.known[c.label][key] for c in candidates if key in self.known.get(c.label, {})}

    def stages(self, pools: Mapping[str, Sequence[Candidate]]) -> Stages:
        """In how many stages the candidates compete, where halving is to find that out."""
        halving, limit = self.recipe.halving, seconds_of(self.recipe.budget_time or "")
        if halving is None or not halving.auto:
            return Stages()
        if self.journal.stages is not None:
            return self.journal.stages
        foreseen = None if limit is None else foresee(self.context, self.team, self.reach, self.folder)
        if limit is None or foreseen is None:  # no time is given, or nothing could be timed: all failed
            return self.journal.settle(
                lambda: Stages({key: self.shares(pool, halving) for key, pool in pools.items()})
            )
        stages = self.journal.settle(lambda: foreseen.within(limit))
        self.context.observer.log(foreseen.said(stages, limit))
        return stages

    def shares(self, pool: Sequence[Candidate], spec: HalvingSpec) -> list[float]:
        """Shares of the steps at which is decided, by the shortest run."""
        rows = len(self.context.dataset.train)
        return spec.shares(len(pool), min(c.entry.train.steps(rows) for c in pool))

    def halve(self, key: str, pool: Sequence[Candidate], stages: Stages) -> list[Candidate]:
        """Train the pool in stages, of which each is for the best of the one before."""
        assert self.recipe.halving is not None
        wanted = self.shares(pool, self.recipe.halving)
        shares = stages.shares.get(key, wanted)
        self._say_if_coarse(pool, wanted)
        tried = [c for c in pool if c.label not in stages.left_out]
        spec, in_time = self.recipe.halving, self.recipe.budget_time is not None
        alive, decisions = halve(
            tried,
            spec,
            self.reach,
            higher_is_better=self.up,
            shares=shares,
            waits=spec.auto and not in_time,
        )
        if left_out := [c for c in pool if c.label in stages.left_out]:
            decisions.insert(0, Decided(0.0, {}, [], left_out))
        for decision in decisions:
            self.stopped.update(decision.stopped)
            self.decisions.append(
                Decision(
                    share=decision.share,
                    values={c.label: value for c, value in decision.values.items()},
                    not_settled=[c.label for c in decision.not_settled],
                    stopped=[c.label for c in decision.stopped],
                    jump=decision.jump,
                )
            )
            if decision.jump is not None:
                self.context.warn(jumped(decision.share, decision.jump, stopped=bool(decision.stopped)))
        if count := sum(len(decision.stopped) for decision in decisions if decision.share):
            self.context.observer.log(f"{count} of {len(pool)} configurations stopped early.")
        return alive

    def _say_if_coarse(self, pool: Sequence[Candidate], shares: Sequence[float]) -> None:
        """Say so if validations are too far apart to decide when it would be time."""
        rows = len(self.context.dataset.train)
        for train in (c.entry.train for c in pool) if shares else ():
            steps, first = train.steps(rows), math.ceil(shares[0] * train.steps(rows) - ROUNDING)
            if train.validates_every(rows) >= 2 * first:
                self.context.warn(
                    f"halving could decide from {first} of {steps} steps on, but validation rows are looked "
                    f"at every {train.validates_every(rows)}: set train.evaluate_every={first} to save more."
                )
                return

    def end(self, candidate: Candidate) -> Standing | None:
        """Where the candidate stood at the end of its training; None if it failed or has no value."""
        if candidate.label in self.failed:
            return None
        latest = self.latest(candidate)
        return latest if latest and latest.value is not None else None

    def pick(self, mine: Sequence[Candidate]) -> Pick | None:
        """The best of an entry's candidates; None if it was stopped early."""
        at_end = {c: end for c in mine if c not in self.stopped and (end := self.end(c))}
        if at_end:
            best = min(at_end, key=lambda c: order(at_end[c], higher_is_better=self.up))
            return Pick(best.entry, best.variant, self.tuning(mine, best))
        failed = [c for c in mine if c.label in self.failed]
        if not failed:
            return None
        middle = failed[len(failed) // 2]  # trained once more, it shows why
        return Pick(middle.entry, middle.variant)

    def at_end(self, mine: Sequence[Candidate]) -> list[Ended]:
        """Those of an entry's candidates that the choice was between."""
        ended = [c for c in mine if c not in self.stopped and self.end(c)]
        return [Ended(point_label(c.rates), c.entry, self.folder(c)) for c in ended]

    def clear(self, losers: Sequence[Candidate]) -> None:
        """Remove the states that nobody goes on from."""
        with self.team.desk():
            for candidate in losers:
                remove(self.folder(candidate) / "resume")

    def latest(self, candidate: Candidate) -> Standing | None:
        """Where the candidate stood last."""
        return max(self.known.get(candidate.label, {}).values(), key=lambda s: s.step, default=None)

    def tuning(self, mine: Sequence[Candidate], best: Candidate) -> Tuning | None:
        """Say which rates were tried for an entry, which was chosen, and what all of it cost."""
        if not best.rates:
            return None
        edges = {}
        for name, rate in best.rates.items():
            tried = sorted({c.rates[name] for c in mine})
            if rate in (tried[0], tried[-1]):
                edges[name] = rate
                what = "learning rate of the head" if name == "train.head_lr" else "learning rate"
                end = "lowest" if rate == tried[0] else "highest"
                self.context.observer.warn(
                    f"{best.entry.name}: the best {what}, {rate:g}, is the {end} of those tried; a better "
                    "one may lie beyond it."
                )
        last = [standing for c in mine if (standing := self.latest(c))]
        return Tuning(
            kind="rates",
            by=self.by,
            seed=self.seed,
            chosen=best.rates,
            at_edge=bool(edges),
            edges=edges,
            tried=[Trial(**self._tried(c)) for c in mine],
            train_seconds=sum(s.seconds for s in last),
            steps=sum(s.step for s in last),
        )

    def savings(
        self,
        recipe: Recipe,
        pools: Sequence[Sequence[Candidate]],
        picks: dict[str, Pick],
        found: Sequence[Pick] = (),
    ) -> Halving:
        """Say what was stopped early and which share of the steps that saved, all seeds counted.

        Args:
            recipe: The recipe, with a section `halving`.
            pools: Candidates that competed.
            picks: What is trained with all seeds.
            found: Those of them that a search found, some of whose trials may have been stopped.
        """
        assert recipe.halving is not None
        more_seeds = len(recipe.seeds) - 1
        planned = done = 0
        entries: dict[str, int] = {}
        for candidate in (c for pool in pools for c in pool):
            standing = self.latest(candidate)
            if standing is None:
                continue
            planned += standing.steps
            done += standing.step if candidate in self.stopped else standing.steps
            entries[candidate.entry.name] = standing.steps
        planned += more_seeds * sum(entries.values())
        done += more_seeds * sum(steps for name, steps in entries.items() if name in picks)
        stopped = [
            StoppedTrial(name=c.entry.name, method=c.entry.method, **self._tried(c))
            for pool in pools
            for c in pool
            if c in self.stopped
        ]
        for pick in found:
            tuning = pick.tuning or Tuning()
            again = more_seeds * max((trial.steps or 0 for trial in tuning.tried), default=0)
            planned += (tuning.steps_planned or 0) + again
            done += (tuning.steps or 0) + again
            stopped += [
                StoppedTrial(name=pick.entry.name, method=pick.entry.method, **trial.as_dict())
                for trial in tuning.tried
                if trial.status == "stopped"
            ]
        stages = self.journal.stages or Stages()
        return Halving(
            **recipe.halving.model_dump(mode="json"),
            budget_time=recipe.budget_time,
            foreseen_seconds=stages.seconds,
            by=self.by,
            seed=self.seed,
            decisions=self.decisions,
            stopped=stopped,
            steps_planned=planned,
            steps_done=done,
            saved_share=1 - done / planned if planned else 0.0,
            risk=RISK,
        )

    def _tried(self, candidate: Candidate) -> dict[str, Any]:
        standing = self.latest(candidate)
        failed = candidate.label in self.failed
        return {
            "label": point_label(candidate.rates),
            "settings": candidate.rates,
            "status": "failed" if failed else "stopped" if candidate in self.stopped else "done",
            "value": standing.value if standing and not failed else None,
            "step": standing.step if standing else 0,
            "steps": standing.steps if standing else None,
            "error": self.failed.get(candidate.label),
        }
