"""A search for settings with Optuna: trials are runs that never see a test row.

In the comparison's folder (search.db) a trial that was interrupted goes on as the same trial, from its
run's saved state, and the sampler is seeded by the number of the trial: so an interrupted search ends as an
undisturbed one. In a database that several machines share, each trial beats like a heart, and one that
fell silent is queued again; no more trials are begun than asked for, and all machines wait for the last one,
so that they choose the same settings.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatune.checkpoint.folders import remove
from deltatune.comparison.again import Ended, weighed
from deltatune.comparison.attempt import Pick, attempt, run_folder
from deltatune.comparison.halving import Standing
from deltatune.comparison.study import PERCENT, POLL, open_study
from deltatune.comparison.team import Team
from deltatune.evaluation import higher_is_better
from deltatune.methods import METHODS
from deltatune.recipe.axes import SECTIONS, by_section, point_label
from deltatune.recipe.choosing import SearchSpec
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.spaces import section_given
from deltatune.results import FailedRun, Trial, Tuning
from deltatune.training import Context
from deltatune.training.loop.steps import Progress

if TYPE_CHECKING:
    import optuna

FAILED = "failed"
PRUNED = "pruned"


class _Failed(Exception):
    """The trial's run failed."""


class _Surplus(Exception):
    """There are trials enough."""


def search(context: Context, team: Team, entry: MethodEntry, space: Mapping[str, Any]) -> Pick:
    """Try settings for an entry and give the best, by validation rows and the first seed.

    Args:
        context: Data and bases of the comparison.
        team: The processes at it. In our own database one of them makes the trials of an entry, one after
            another, so that each rests on all before.
        entry: The entry.
        space: Field -> list of values, or `{from, to, scale}`.

    Raises:
        InUseError: Another process makes them.
        RecipeError: Optuna is not installed, or the storage cannot be used.
        KeyboardInterrupt: Interrupted; the same call goes on.
    """
    spec = context.recipe.search
    assert spec is not None
    shared = spec.storage is not None
    with contextlib.nullcontext() if shared else team.claim(f"search-{entry.slug}"):
        study = _Search(context, team, entry, space, spec, open_study(context, entry, team.out, spec))
        study.run()
    return study.pick()


def apply_settings(recipe: Recipe, entry: MethodEntry, settings: Mapping[str, Any]) -> MethodEntry:
    """Return an entry of the recipe with some settings changed, of its method or (`train.X`) of a section."""
    changes: dict[str, Any] = {}
    for section, own in by_section(settings).items():
        if section is None:
            method = METHODS.get(entry.method).model_validate({**entry.config, **own})
            changes["config"] = method.model_dump(mode="json")
        else:
            given = section_given(recipe, entry, section)
            changes[section] = SECTIONS[section].model_validate({**given, **own})
    return entry.model_copy(update=changes)


@dataclass
class _Search:
    context: Context
    team: Team
    entry: MethodEntry
    space: Mapping[str, Any]
    spec: SearchSpec
    study: optuna.Study

    def run(self) -> None:
        """Run trials until there are enough; several machines may be at it."""
        shared = self.spec.storage is not None
        while (done := sum(map(_counts, self.study.get_trials(deepcopy=False)))) < self.spec.trials:
            if shared and done + len(self._under_way()) >= self.spec.trials:
                self._wait()
                continue
            self.context.observer.stage(f"{self.entry.name}: trial {done + 1} of {self.spec.trials}")
            if shared:
                self.study.optimize(self._shared_trial, n_trials=1, catch=(_Failed, _Surplus))
            else:
                self._seed_sampler(done)  # by what is known, so that an interrupted search suggests the same
                self._go_on()

    def _seed_sampler(self, number: int) -> None:
        from optuna.samplers import TPESampler

        self.study.sampler = TPESampler(seed=(self.spec.seed * 1_000_003 + number) % 2**32)

    def _under_way(self) -> list[optuna.trial.FrozenTrial]:
        """Trials that other machines are at."""
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _wait(self) -> None:
        """Others are at the last trials. One of them may fall silent, and its trial is to be done again."""
        from optuna.storages import fail_stale_trials

        self.context.observer.stage(f"{self.entry.name}: waiting for trials of other machines")
        time.sleep(POLL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental, since version 2.9
            fail_stale_trials(self.study)

    def _go_on(self) -> None:
        """One trial in our own database: the one that was interrupted, or the next."""
        from optuna import TrialPruned
        from optuna.trial import Trial as Asked
        from optuna.trial import TrialState

        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        trial = Asked(self.study, running[0]._trial_id) if running else self.study.ask()
        try:
            value = self._objective(trial)
        except TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except _Failed:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, value)

    def _shared_trial(self, trial: optuna.Trial) -> float:
        """One trial in a shared database; if it is interrupted, it is queued for whoever comes next."""
        from optuna.trial import TrialState

        earlier = self.study.get_trials(deepcopy=False)[: trial.number]
        open_ = [other for other in earlier if other.state in (TrialState.RUNNING, TrialState.WAITING)]
        if sum(map(_counts, earlier)) + len(open_) >= self.spec.trials:
            raise _Surplus  # several machines saw room for one more
        # Machines that begin at once know the same, so the number of the trial must tell them apart.
        self._seed_sampler(trial.number)
        try:
            return self._objective(trial)
        except KeyboardInterrupt:
            self.study.enqueue_trial(trial.params)
            raise

    def _objective(self, trial: optuna.Trial) -> float:
        """Train with the trial's settings; give the best validation result."""
        from optuna import TrialPruned

        settings = {field: _suggest(trial, field, axis) for field, axis in self.space.items()}
        entry, folder = self._with(settings), self._folder(settings)
        result = attempt(
            self.context, self.team, entry, self.context.recipe.seeds[0], folder, self._pause(trial)
        )
        if isinstance(result, FailedRun):
            trial.set_user_attr(FAILED, result.message)
            raise _Failed(result.message)
        standing = Standing.of(result)
        value = standing.value
        trial.set_user_attr("step", standing.step)
        trial.set_user_attr("steps", standing.steps)
        trial.set_user_attr("seconds", standing.seconds)
        if PRUNED in trial.user_attrs:
            remove(folder / "resume")
            raise TrialPruned
        if value is None:
            trial.set_user_attr(FAILED, "no validation result: the method's schedule never came to its end")
            raise _Failed
        return value

    def _pause(self, trial: optuna.Trial) -> Callable[[Progress, int], bool]:
        """Report each validation to the pruner; pause where it says so, and at the end."""
        reported = set(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def pause(progress: Progress, steps: int) -> bool:
            if progress.stopped or progress.evaluated >= steps or PRUNED in trial.user_attrs:
                return True
            if progress.best is None:
                return False  # a schedule is under way; this is not what the method will come to
            step = PERCENT * progress.evaluated // steps
            if step not in reported:
                reported.add(step)
                trial.report(progress.best, step)
                if self.context.recipe.halving and trial.should_prune():
                    trial.set_user_attr(PRUNED, True)
                    return True
            return False

        return pause

    def _with(self, settings: Mapping[str, Any]) -> MethodEntry:
        return apply_settings(self.context.recipe, self.entry, settings)

    def _folder(self, settings: Mapping[str, Any]) -> Path:
        return self.team.out / run_folder(self.entry, self.context.recipe.seeds[0], _variant(settings))

    def pick(self) -> Pick:
        """The best trial's settings and what the search cost; the entry as it is if no trial succeeded."""
        from optuna.trial import TrialState

        trials = [trial for trial in self.study.get_trials(deepcopy=False) if _counts(trial)]
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        by = self.context.recipe.evaluation.select_by
        record = Tuning(
            kind="search",
            by=by,
            seed=self.context.recipe.seeds[0],
            chosen=None,
            at_edge=None,
            tried=[self._tried(trial) for trial in trials],
            train_seconds=sum(trial.user_attrs.get("seconds", 0) for trial in trials),
            steps=sum(trial.user_attrs.get("step", 0) for trial in trials),
            steps_planned=sum(trial.user_attrs.get("steps", 0) for trial in trials),
        )
        if not complete:
            return Pick(self.entry, tuning=record)
        sign = -1 if higher_is_better(by) else 1
        best = min(complete, key=lambda trial: sign * float(trial.value or 0))
        chosen = self._settings(best)
        pick = Pick(self._with(chosen), _variant(chosen), record.model_copy(update={"chosen": chosen}))
        ended = {_variant(settings): settings for settings in map(self._settings, complete)}
        pick = weighed(
            self.context,
            self.team,
            pick,
            [Ended(point_label(each), self._with(each), self._folder(each)) for each in ended.values()],
        )
        for variant, settings in ended.items():
            if variant != pick.variant:
                remove(self._folder(settings) / "resume")
        return pick

    def _settings(self, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        return {field: _decoded(trial.params[field], axis) for field, axis in self.space.items()}

    def _tried(self, trial: optuna.trial.FrozenTrial) -> Trial:
        from optuna.trial import TrialState

        states = {TrialState.COMPLETE: "done", TrialState.PRUNED: "stopped"}
        last = trial.intermediate_values[trial.last_step] if trial.last_step is not None else None
        settings = self._settings(trial)
        return Trial(
            label=point_label(settings),
            settings=settings,
            status=states.get(trial.state, "failed"),
            value=trial.value if trial.state == TrialState.COMPLETE else last,
            step=trial.user_attrs.get("step", 0),
            steps=trial.user_attrs.get("steps"),
            error=trial.user_attrs.get(FAILED),
        )


def _suggest(trial: optuna.Trial, field: str, axis: Any) -> Any:
    if isinstance(axis, list):
        # Optuna's categories are plain values; a list of roles is one of them as text.
        return _decoded(trial.suggest_categorical(field, [json.dumps(value) for value in axis]), axis)
    low, high, log = axis["from"], axis["to"], axis.get("scale") == "log"
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(field, low, high, log=log)
    return _decoded(trial.suggest_float(field, low, high, log=log), axis)


def _decoded(value: Any, axis: Any) -> Any:
    """From Optuna's value to the setting: three significant digits say all that there is to say."""
    if isinstance(axis, list):
        return json.loads(value)
    return value if isinstance(value, int) else float(f"{value:.3g}")


def _variant(settings: Mapping[str, Any]) -> str:
    """A short name of the settings; the same settings are the same run."""
    return "trial-" + hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial is over. One that was interrupted is not; another stands in its place."""
    from optuna.trial import TrialState

    over = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return over or (trial.state == TrialState.FAIL and FAILED in trial.user_attrs)
