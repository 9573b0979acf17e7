"""How long it takes yet: from the seconds of the logged steps, and of what ended runs took beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import fmean, median

from deltatune.recipe.baselines import trains
from deltatune.watch.standing import AT_WORK, RunStanding, Standing

TO_DO = (*AT_WORK, "interrupted", "paused", "waiting")


class Remaining:
    """An estimate of what is left. Processes that work at once are taken to share the work evenly.

    What is not known of an entry is taken from its other runs, else from all runs.
    """

    def __init__(self, standing: Standing) -> None:
        runs = standing.runs
        self._steps = _by_name(runs, lambda run: run.steps or None, median)
        self._rate = _by_name(runs, lambda run: run.seconds / run.step if run.step and run.seconds else None)
        self._beside = _by_name(runs, _beside)
        wanted = [run for run in runs if run.phase not in ("stopped", "failed")]
        self.whole = sum(self.steps(run) or 0 for run in wanted)
        """Steps in all; those of stopped runs are left out."""
        self.done = sum(min(run.step, self.steps(run) or run.step) for run in wanted)
        """Steps that were made."""
        left = [self.of(run) for run in wanted if run.phase in TO_DO]
        known = [seconds for seconds in left if seconds is not None]
        at_once = max(1, len({run.by for run in standing.of(*AT_WORK) if run.by}))
        self.seconds = sum(known) / at_once if len(known) == len(left) else None
        """Of the work that is left; None while too little is known."""
        train = standing.plan.known.get("train")
        patient = isinstance(train, dict) and train.get("early_stopping") is not None
        self.at_most = standing.plan.halving is not None or patient
        """Whether early stopping may end it sooner."""

    @property
    def share(self) -> float:
        """Of the steps, from 0 to 1."""
        return min(1.0, self.done / self.whole) if self.whole else 0.0

    def steps(self, run: RunStanding) -> float | None:
        """Steps of a whole run."""
        if not trains(run.method):
            return 0
        return run.steps or _first(self._steps, run)

    def of(self, run: RunStanding) -> float | None:
        """Seconds that are left of a run: of its steps, and to load, check and evaluate."""
        beside = _first(self._beside, run) or 0.0
        if not trains(run.method):
            return beside
        rate = run.seconds / run.step if run.step and run.seconds else _first(self._rate, run)
        steps = self.steps(run)
        return None if rate is None or steps is None else max(0.0, steps - run.step) * rate + beside


def _beside(run: RunStanding) -> float | None:
    over = run.phase == "done" and run.wall is not None
    return max(0.0, (run.wall or 0.0) - run.seconds) if over else None


def _by_name(
    runs: Iterable[RunStanding],
    value: Callable[[RunStanding], float | None],
    middle: Callable[[list[float]], float] = fmean,
) -> dict[str | None, float]:
    """The middle of what the runs of each entry say, and, as None, of what all say."""
    found: dict[str | None, list[float]] = {}
    for run in runs:
        if (said := value(run)) is not None:
            found.setdefault(run.name, []).append(said)
            found.setdefault(None, []).append(said)
    return {name: middle(values) for name, values in found.items()}


def _first(known: dict[str | None, float], run: RunStanding) -> float | None:
    return known.get(run.name, known.get(None))
