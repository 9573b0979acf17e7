"""Settings chosen again on resampled validation rows: how far the choice moves what a method scores.

The losses of single validation rows are in each candidate's metrics.jsonl. The rows are drawn again, those
that belong together at once, and each draw chooses the candidate whose loss is least. Of those that are
chosen now and then the metric that decides is measured on the validation rows too, which takes a pass of
each; test rows are for what was chosen in truth. How far apart these scores are widens the intervals
(chance.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltatune.comparison.attempt import Pick, attempt, run_folder
from deltatune.comparison.team import Team
from deltatune.errors import DeltatuneError
from deltatune.evaluation import primary_metric
from deltatune.files import is_intact, read_json, sealed, write_json
from deltatune.recipe.schema import MethodEntry
from deltatune.report.run import lines_of
from deltatune.results import ChosenAgain, PausedRun, RunResult
from deltatune.training import Context
from deltatune.training.given.folder import ANEW, read_result
from deltatune.training.loop.steps import Progress

JOURNAL = "again.json"
DRAWS = 2_000
WITHOUT = (
    "Restore it; or remove it, and what can be is measured again: where states are gone, intervals leave the "
    "choosing out, and the report says so."
)
LEAST = 0.01
"""Share of the draws from which on a candidate counts: rarer ones move next to nothing."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ended:
    """A configuration of an entry that was trained to the end of its steps, and has seen no test row."""

    label: str
    """What sets it apart, in words."""
    entry: MethodEntry
    folder: Path


def weighed(context: Context, team: Team, pick: Pick, candidates: Sequence[Ended]) -> Pick:
    """The same pick, with what would have been chosen on other validation rows.

    Args:
        context: Data and bases of the comparison.
        team: The processes at it.
        pick: What was chosen.
        candidates: All that the choice was between; their saved states are still there.
    """
    if pick.tuning is None:
        return pick
    chosen = team.out / run_folder(pick.entry, context.recipe.seeds[0], pick.variant)
    again = _choose_again(context, team, candidates, chosen)
    return replace(pick, tuning=pick.tuning.model_copy(update={"again": again}))


def _choose_again(
    context: Context, team: Team, candidates: Sequence[Ended], chosen: Path
) -> list[ChosenAgain] | None:
    """How often each candidate is chosen on other validation rows, and its score on those that there are.

    None if it cannot be known: candidates are not judged by their loss, or files are gone.
    """
    if context.recipe.evaluation.select_by != "loss":
        return None
    losses = [each for candidate in candidates if (each := _losses(candidate.folder, context.warn))]
    if not losses or len(losses) < len(candidates):
        return None
    rows = context.dataset.validation
    if any(len(each) != len(rows) for each in losses):
        return None
    groups = [row.group if row.group is not None else row.input_bytes() for row in rows]
    shares = shares_of(np.array(losses, dtype=np.float64), groups)
    now_and_then = [
        (candidate, share)
        for candidate, share in zip(candidates, shares, strict=True)
        if share >= LEAST or candidate.folder == chosen
    ]
    if len(now_and_then) == 1:
        return []
    scores = _Scores(context, team)
    found = []
    for candidate, share in now_and_then:
        score = scores.of(candidate)
        if score is None or not math.isfinite(score):
            return None
        found.append(ChosenAgain(label=candidate.label, share=share, score=score))
    return found


def shares_of(losses: Floats, groups: Sequence[Hashable], draws: int = DRAWS, seed: int = 0) -> list[float]:
    """In which share of resamples each candidate has the least loss.

    All have the same targets, so sums of losses stand in the order of means.

    Args:
        losses: Of each candidate and row, [candidates, rows]; one that is not finite loses always.
        groups: Rows with the same one are drawn together.
        draws: How many.
        seed: Of the draws.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(losses), len(numbers)))
    np.add.at(sums.T, [numbers[group] for group in groups], losses.T)
    out = ~np.isfinite(sums).all(axis=1)
    sums[out] = 0.0
    count = len(numbers)
    weights = np.random.default_rng((seed, 7)).multinomial(count, np.full(count, 1 / count), size=draws)
    totals = weights @ sums.T
    totals[:, out] = math.inf
    won = np.bincount(totals.argmin(axis=1), minlength=len(losses))
    return [float(wins) / draws for wins in won]


def _losses(folder: Path, warn: Callable[[str], None]) -> list[float] | None:
    """Losses of the validation rows at the state that a run keeps; None if they are not known."""
    try:
        result = read_result(folder, remedy=ANEW)
    except DeltatuneError:
        return None
    if not isinstance(result, PausedRun | RunResult):
        return None
    lines = [line for line in _logged(folder) if line.get("step") == result.selected.step]
    if not any("validation" in line for line in lines):
        log = folder / "metrics.jsonl"
        warn(f"'{log}' was cut short or changed since: intervals leave the choosing of settings out.")
    found = None
    for line in lines:
        if line.get("rows"):
            found = [math.nan if value is None else float(value) for value in line["rows"]]
    return found


def latest_validation(folder: Path) -> dict[str, float]:
    """The latest results on the validation rows that a run wrote down, by key; nothing before the first."""
    results = [line["validation"] for line in _logged(folder) if line.get("validation")]
    return results[-1] if results else {}


def _logged(folder: Path) -> list[dict[str, Any]]:
    """Lines of a run's log that can be read: files may be damaged, and states do not hang on them."""
    return list(lines_of(folder / "metrics.jsonl"))


class _Scores:
    """What candidates score on the validation rows by the metric that decides; written down as it comes."""

    def __init__(self, context: Context, team: Team) -> None:
        self.context, self.team = context, team
        self.path = team.out / JOURNAL
        recipe = context.recipe
        self.metric = primary_metric(recipe.evaluation, recipe.task, targets=recipe.has_targets)
        self.known: dict[str, float] = {}
        self._read()

    def of(self, candidate: Ended) -> float | None:
        """The score of one; None if its state is gone."""
        result = read_result(candidate.folder, remedy=ANEW)
        if isinstance(result, PausedRun | RunResult) and self.metric in result.metrics.validation:
            return result.metrics.validation[self.metric]
        name = candidate.folder.name
        self.team.each([candidate], self._measure, "configurations")
        return self.known.get(name)

    def _measure(self, candidate: Ended) -> None:
        folder = candidate.folder
        self._read()
        if folder.name in self.known or not (folder / "resume").exists():
            return
        self.team.require_free(folder)
        self.context.observer.stage(f"{candidate.entry.name}: {candidate.label}, on the validation rows")
        seed = self.context.recipe.seeds[0]
        result = attempt(self.context, self.team, candidate.entry, seed, folder, _at_end, measure=self.metric)
        if not isinstance(result, PausedRun) or self.metric not in result.metrics.validation:
            return
        with self.team.desk():
            self._read()
            self.known[folder.name] = result.metrics.validation[self.metric]
            write_json(self.path, sealed({"metric": self.metric, "scores": self.known}))

    def _read(self) -> None:
        """Know what was written down; a file of another metric is as good as none.

        Raises:
            DeltatuneError: It is damaged. Most states that it was measured from are gone: without a word,
                intervals would become narrower.
        """
        if not self.path.exists():
            return
        content = read_json(self.path, remedy=WITHOUT)
        if not is_intact(content):
            raise DeltatuneError(f"'{self.path}' is damaged: its checksum differs.", remedy=WITHOUT)
        if content.get("metric") == self.metric:
            self.known.update({str(name): float(score) for name, score in content["scores"].items()})


def _at_end(progress: Progress, steps: int) -> bool:
    return progress.stopped or progress.evaluated >= steps
