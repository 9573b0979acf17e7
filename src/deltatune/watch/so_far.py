"""What a report can say of a comparison that is under way: its files, read as those of one that has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from deltatune import units
from deltatune.errors import DeltatuneError
from deltatune.report.display import LOWER_FIRST
from deltatune.report.load import Comparison, Method, load, mean_step_memory
from deltatune.report.run import Run
from deltatune.results import Leaderboard, LeaderboardRow, MeanCost, RunResult
from deltatune.tasks import TASKS
from deltatune.watch.files import signature
from deltatune.watch.log import Log
from deltatune.watch.standing import AT_WORK, RunStanding, Standing, Watched

MOST_METHODS = 100
"""Methods on a page."""
READS = ("result.json", "certificate.json", "predictions.jsonl", "tasks.jsonl", "adapter/deltatune.json")
"""Files of a run that a report reads, beside its log."""


@dataclass(frozen=True)
class Seen(Run):
    """A run whose log is read on, instead of anew."""

    log: Log

    def training_loss(self) -> list[tuple[float, float]]:
        """(step, loss) of training."""
        return self.log.losses

    def validation(self, key: str) -> list[tuple[float, float]]:
        """(step, metric) on the validation rows."""
        return self.log.validations.get(key, [])


def so_far(standing: Standing, watched: Watched) -> Comparison:
    """What there is, at most `MOST_METHODS` methods. Those that are not at their end are under way."""
    root, plan = watched.path.resolve(), standing.plan
    of: dict[str, list[RunStanding]] = {entry.name: [] for entry in plan.entries}
    for run in standing.runs:
        if not run.of_curve:
            of.setdefault(run.name, []).append(run)
    of = {name: runs for name, runs in of.items() if runs}
    shown = [_method(name, of[name], standing, watched, root) for name in list(of)[:MOST_METHODS]]
    key = _primary(standing)
    board = Leaderboard(
        primary_metric=key,
        higher_is_better=key not in LOWER_FIRST,
        rows=[method.row for method in shown],
        task=plan.task,
        model=plan.model,
        recipe=dict(plan.known),
    )
    return Comparison(root, board, shown, "")


def whole(standing: Standing, watched: Watched) -> Comparison:
    """The comparison, which has ended.

    Raises:
        DeltatuneError: It cannot be read, or a link leads out of its folder.
    """
    root = watched.path.resolve()
    paths = [root / "leaderboard.json", root / "curve.json"]
    for run in standing.runs:
        paths += [root / run.folder / name for name in (*READS, "metrics.jsonl", "manifest.json")]
    for path in paths:
        if (path.is_symlink() or path.exists()) and not _is_inside(path, root):
            raise DeltatuneError(f"'{path}' is no file of this folder, and is not read.")
    return load(root)


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root) and signature(path, root) is not None
    except (OSError, RuntimeError):
        return False


def _method(
    name: str, runs: Sequence[RunStanding], standing: Standing, watched: Watched, root: Path
) -> Method:
    """A method with the runs that its row is of: of each seed the one that came furthest."""
    by_seed: dict[int | None, RunStanding] = {}
    for run in runs:
        if run.phase not in ("waiting", "stopped") and _rank(run) > _rank(by_seed.get(run.seed)):
            by_seed[run.seed] = run
    seeds: list[int | None] = list(standing.plan.seeds) or sorted(by_seed, key=str)
    picked = [by_seed[seed] for seed in seeds if seed in by_seed] or list(by_seed.values())
    seen: list[Run] = [Seen(root / run.folder, watched.log(run.folder)) for run in picked]
    done = [run for run in picked if run.phase == "done"]
    failed = [run for run in picked if run.phase == "failed"]
    ended = len(done) + len(failed) == max(len(seeds), len(picked))
    sound = [each for each in seen if _is_sound(each, root)]
    results = [result for each in sound if (result := each.finished)]
    row = LeaderboardRow(
        name=name,
        method=next((run.method for run in runs), ""),
        error=next((run.error for run in failed), None),
        seeds=[seed for seed in seeds if seed is not None],
        runs=[run.folder for run in picked],
    )
    if ended and not failed and len(results) == len(picked):
        return Method(_finished(row, results), seen)
    words = "" if failed and ended else _words(runs, len(done), len(seeds))
    return Method(row, sound, under_way=words)


def _finished(row: LeaderboardRow, results: Sequence[RunResult]) -> LeaderboardRow:
    cost = _means([result.cost.as_dict() for result in results])
    return row.model_copy(
        update={
            "status": "done",
            "metrics": _means([result.metrics.test for result in results]),
            "cost": MeanCost(**cost, step_memory_bytes=mean_step_memory(results)),
            "random_head": row.method == "untuned" and any(result.new_heads for result in results),
        }
    )


def _means(of_runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = {}
    for key in of_runs[0]:
        values = [run.get(key) for run in of_runs]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        means[key] = fmean(numbers) if len(numbers) == len(values) else values[0]
    return means


def _is_sound(run: Run, root: Path) -> bool:
    """Whether what a report reads of a run can be read, and lies in the folder; what is read is kept."""
    places = [run.folder / name for name in READS]
    try:
        if any(path.parent.is_symlink() or path.is_symlink() for path in places if path.parent != run.folder):
            return False
        if any(path.exists() and signature(path, root) is None for path in places):
            return False
        _ = run.result, run.certificate, run.delta
    except (DeltatuneError, OSError):
        return False
    return True


def _rank(run: RunStanding | None) -> tuple[int, int]:
    """The further a run came the higher."""
    if run is None:
        return (-1, 0)
    order = ("tried", "paused", "interrupted", *AT_WORK, "failed", "done")
    return (order.index(run.phase) if run.phase in order else -1, run.step)


def _words(runs: Sequence[RunStanding], done: int, seeds: int) -> str:
    """How far a method came."""
    parts = [f"{done} of {seeds} seeds done"] if seeds > 1 else []
    at_work = [run for run in runs if run.phase in AT_WORK]
    failed, stopped = (sum(run.phase == phase for run in runs) for phase in ("failed", "stopped"))
    if failed:
        parts.append(f"{failed} failed")
    for run in at_work[:2]:
        steps = f" of {units.number(run.steps)}" if run.steps else ""
        parts.append(f"{run.phase}, step {units.number(run.step)}{steps}" if run.step else run.phase)
    if stopped:
        parts.append(f"{stopped} stopped by halving")
    return ", ".join(parts) or "waiting"


def _primary(standing: Standing) -> str:
    """The metric that decides, as far as it can be told before the end."""
    plan = standing.plan
    if plan.primary != "auto":
        return plan.primary
    key = TASKS.get(plan.task).primary if plan.task else "loss"
    measured = [run.metrics for run in standing.runs if run.metrics]
    return key if not measured or key in measured[0] else "loss"
