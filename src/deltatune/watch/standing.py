"""Where the runs of a folder stand, read from their files again and again; only what changed is read."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltatune.checkpoint.manifest import NAME as MANIFEST
from deltatune.recipe.baselines import trains
from deltatune.recipe.curve_section import axis_of
from deltatune.report.display import LOWER_FIRST
from deltatune.watch.files import Kept, folders, json_object, signature
from deltatune.watch.halved import Journal, entry_of, journal_of, stopped
from deltatune.watch.holders import Holder, holder, is_gone
from deltatune.watch.log import Log, number
from deltatune.watch.plan import Entry, Plan, count, plan_of

OVER = ("done", "failed")
AT_WORK = ("starting", "training", "evaluating")
PHASES = (*AT_WORK, "failed", "interrupted", "paused", "waiting", "stopped", "tried", "done")
"""In the order in which a page lists them. `tried`: trained to its end as one of several, and not chosen yet;
`paused`: it waits for its turn."""
_FOLDER = re.compile(r"(?P<slug>.+?)(?:--(?P<variant>.+))?-s(?P<seed>-?\d+)")
_LONGEST = 300
"""Letters of a name that are kept, and of an error."""


@dataclass(frozen=True)
class Result:
    """What of a result.json is needed here."""

    status: str = ""
    name: str = ""
    method: str = ""
    seed: int | None = None
    error: str = ""
    step: int = 0
    steps: int | None = None
    seconds: float = 0.0
    wall: float | None = None
    """Seconds from its start to its end."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the test rows."""


@dataclass(frozen=True)
class RunStanding:
    """How far a run came."""

    folder: str
    """Within the folder that is watched."""
    name: str
    method: str
    seed: int | None
    variant: str
    """What tells it from other runs of its entry and seed."""
    phase: str
    step: int = 0
    steps: int | None = None
    """Of the whole run; None: not known yet."""
    seconds: float = 0.0
    """Of training so far."""
    wall: float | None = None
    """Seconds that it took in all, once it is over."""
    loss: float | None = None
    """Of the latest step."""
    validation: float | None = None
    """The latest, by the key that chooses."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    by: Holder | None = None
    """Who is at it."""

    @property
    def of_curve(self) -> bool:
        """Whether it is a point of a curve, and in no ranking."""
        return axis_of(self.folder.rpartition("/")[2]) is not None


@dataclass(frozen=True)
class Standing:
    """How far all came."""

    kind: str
    """`nothing` (yet), `run` or `comparison`."""
    plan: Plan
    runs: list[RunStanding]
    over: bool
    """Whether all is written that will be."""
    changed: float | None
    """When a file was last written, in seconds since 1970."""
    holders: set[Holder]
    """Who is at work, as far as is known."""
    gone: set[Holder]
    """Who was at work and has ended without a word."""
    problem: str = ""
    """Why nothing can be read."""

    def of(self, *phases: str) -> list[RunStanding]:
        """The runs in these phases."""
        return [run for run in self.runs if run.phase in phases]


class Watched:
    """A folder that is looked at again and again.

    Args:
        path: The folder; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._plan, self._result = Kept(plan_of), Kept(_result)
        self._vouched = Kept(_vouched)
        self._journal = Kept(lambda data: journal_of(json_object(data)))
        self._logs: dict[Path, Log] = {}
        self._ended: dict[Path, tuple[int, RunStanding, float]] = {}

    def log(self, folder: str) -> Log:
        """The log of a run, read as far as it goes."""
        root = self.path.resolve()
        path = root / folder / "metrics.jsonl"
        log = self._logs.setdefault(path, Log(path, root))
        log.renew()
        return log

    def look(self) -> Standing:
        """Read what has changed."""
        try:
            root = self.path.resolve()
            there = root.is_dir()
            if there:
                next(root.iterdir(), None)
        except (OSError, RuntimeError) as error:
            problem = f"The folder cannot be read ({getattr(error, 'strerror', None) or error})."
            return Standing("nothing", Plan(), [], False, None, set(), set(), problem)
        runs = folders(root / "runs", root) if there else []
        single = not runs and signature(root / "leaderboard.json", root) is None
        if single and not any(signature(root / n, root) for n in ("metrics.jsonl", "result.json")):
            return self._nothing(root)
        plan = self._plan.of(root / "recipe.yaml", root)
        if single:
            run, changed = self._run(root, root, plan, 0)
            over = run.phase in OVER
            return Standing("run", plan, [run], over, changed, *_sorted_out({run.by} if run.by else set()))
        return self._comparison(root, plan, runs)

    def _nothing(self, root: Path) -> Standing:
        """Nothing is there yet; a comparison may be reading its data."""
        by = holder(root, root)
        plan = self._plan.of(root / "recipe.yaml", root)
        return Standing("nothing", plan, [], False, None, *_sorted_out({by} if by else set()))

    def _comparison(self, root: Path, plan: Plan, folders_: list[tuple[Path, int]]) -> Standing:
        found, times = [], [0.0]
        slugs = {entry.slug: entry for entry in plan.entries}
        for path, changed_ns in folders_:
            run, changed = self._run(path, root, plan, changed_ns, slugs)
            found.append(run)
            times.append(changed)
        found = _judged(found, plan, self._journal.of(root / "choosing.json", root))
        by = {run.by for run in found if run.by} | ({whole} if (whole := holder(root, root)) else set())
        board = signature(root / "leaderboard.json", root)
        times.append(board[2] / 1e9 if board else 0.0)
        holders, gone = _sorted_out(by)
        # By no times, which copying changes: whoever begins to work takes back what vouches for the files.
        over = board is not None and not holders and self._vouched.of(root / MANIFEST, root)
        if not over:
            found += _to_come(found, plan)
        for path in self._ended.keys() - {path for path, _ in folders_}:
            del self._ended[path]
        return Standing("comparison", plan, found, over, max(times) or None, holders, gone)

    def _run(
        self, path: Path, root: Path, plan: Plan, changed_ns: int, slugs: Mapping[str, Entry] | None = None
    ) -> tuple[RunStanding, float]:
        """A run, and when it was last written. One that is done is read again if its folder changed."""
        if changed_ns and path in self._ended and self._ended[path][0] == changed_ns:
            return self._ended[path][1:]
        run, changed = self._read(path, root, plan, slugs or {})
        if run.phase == "done" and changed_ns:
            self._ended[path] = (changed_ns, run, changed)
        return run, changed

    def _read(
        self, path: Path, root: Path, plan: Plan, slugs: Mapping[str, Entry]
    ) -> tuple[RunStanding, float]:
        result = self._result.of(path / "result.json", root)
        by = holder(path, root)
        named = _FOLDER.fullmatch(path.name) if path != root else None
        entry = slugs.get(named["slug"]) if named else (plan.entries[0] if plan.entries else None)
        seed = result.seed
        if seed is None and named:
            seed = int(named["seed"][:18])
        elif seed is None and plan.seeds:
            seed = plan.seeds[0]
        working = by is not None and not is_gone(by)
        marks = [signature(path / name, root) for name in ("metrics.jsonl", "result.json", "manifest.json")]
        changed = max((mark[2] for mark in marks if mark), default=0) / 1e9
        method = result.method or (entry.method if entry else "")
        run = RunStanding(
            folder=path.relative_to(root).as_posix(),
            name=(result.name or (entry.name if entry else path.name))[:_LONGEST],
            method=method[:_LONGEST],
            seed=seed,
            variant=(named["variant"] or "")[:_LONGEST] if named else "",
            phase=result.status,
            step=result.step, steps=result.steps, seconds=result.seconds, wall=result.wall,
            metrics=result.metrics, error=result.error, by=by,
        )  # fmt: skip
        at_rest = not working and (run.phase != "paused" or self.log(run.folder).step <= run.step)
        if run.phase == "done" or (run.phase in ("failed", "paused") and at_rest):
            return run, changed
        return self._under_way(run, path, root, plan, entry, working=working), changed

    def _under_way(
        self, run: RunStanding, path: Path, root: Path, plan: Plan, entry: Entry | None, *, working: bool
    ) -> RunStanding:
        log = self.log(run.folder)
        steps = run.steps or (entry.steps(log.per_epoch) if entry else None)
        begun = signature(path / "metrics.jsonl", root) is not None
        ended = begun and (not trains(run.method) or (steps is not None and log.step >= steps))
        phase = "evaluating" if ended else "training" if log.step else "starting"
        validation = log.validations.get(plan.select_by) or log.validations.get("loss")
        return RunStanding(
            run.folder, run.name, run.method, run.seed, run.variant,
            phase=phase if working else "interrupted",
            step=log.step, steps=steps, seconds=log.seconds,
            loss=log.losses[-1][1] if log.losses else None,
            validation=validation[-1][1] if validation else None,
            by=run.by,
        )  # fmt: skip


def _judged(runs: list[RunStanding], plan: Plan, journal: Journal) -> list[RunStanding]:
    """The runs, of which those that paused are told apart: stopped, tried to the end, or waiting."""
    by_label = {_label(run): run for run in runs if plan.seeds[:1] == [run.seed] or not plan.seeds}
    labels = {}
    for label in journal.reached:
        if entry := entry_of(label, plan.entries):
            variant = "-".join(part.replace("=", "-") for part in label[len(entry.name) :].split())
            labels[label] = by_label.get((entry.name, variant))
    up = plan.select_by not in LOWER_FIRST
    ended = stopped(plan, journal, lambda label: run.step if (run := labels.get(label)) else 0, up=up)
    lost = {run.folder: ended[label] for label, run in labels.items() if run and label in ended}
    found = []
    for run in runs:
        phase, at = run.phase, lost.get(run.folder)
        if phase == "paused":
            whole = run.steps is not None and run.step >= run.steps
            phase = "stopped" if at else "tried" if whole else "paused"
        found.append(run if phase == run.phase else _with(run, phase, at.value if at else None))
    return found


def _with(run: RunStanding, phase: str, validation: float | None) -> RunStanding:
    return RunStanding(**{**vars(run), "phase": phase, "validation": validation})


def _label(run: RunStanding) -> tuple[str, str]:
    return run.name, run.variant


def _to_come(runs: list[RunStanding], plan: Plan) -> list[RunStanding]:
    """Runs of the recipe that have no folder yet."""
    there: dict[tuple[str, int | None], list[RunStanding]] = {}
    for run in runs:
        if not run.of_curve:
            there.setdefault((run.name, run.seed), []).append(run)
    found: list[RunStanding] = []
    for index, seed in enumerate(plan.seeds):
        for entry in plan.entries:
            first = there.get((entry.name, plan.seeds[0]), [])
            if index and first and all(run.phase == "stopped" for run in first):
                continue
            missing = (1 if index else entry.tries) - len(there.get((entry.name, seed), []))
            waiting = RunStanding("", entry.name, entry.method, seed, "", "waiting")
            found += [waiting] * max(0, min(missing, 10_000 - len(found)))
    return found


def _sorted_out(by: set[Holder]) -> tuple[set[Holder], set[Holder]]:
    gone = {each for each in by if is_gone(each)}
    return by - gone, gone


def _result(data: bytes | None) -> Result:
    value = json_object(data)
    if value is None or value.get("status") not in ("done", "failed", "paused"):
        return Result()
    cost, error = _part(value, "cost"), _part(value, "error")
    metrics = _part(_part(value, "metrics"), "test")
    said = f"{error.get('kind')}: {error.get('message')}" if error else ""
    steps = count(cost.get("planned_steps")) or count(cost.get("steps"))
    seed = value.get("seed")
    return Result(
        status=str(value["status"]),
        name=str(value.get("name") or ""),
        method=str(value.get("method") or ""),
        seed=seed if isinstance(seed, int) else None,
        error=said[:_LONGEST],
        step=count(cost.get("steps")) or 0,
        steps=steps,
        seconds=number(cost.get("train_seconds")) or 0.0,
        wall=_wall(value.get("started"), value.get("finished")),
        metrics={str(k): n for k, v in list(metrics.items())[:100] if (n := number(v)) is not None},
    )


def _vouched(data: bytes | None) -> bool:
    """Whether a manifest vouches for the files, as it does at the end; version 0.1 left none."""
    manifest = json_object(data)
    return data is None or bool(manifest and manifest.get("files"))


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = value.get(key)
    return part if isinstance(part, dict) else {}


def _wall(started: Any, finished: Any) -> float | None:
    try:
        between = datetime.datetime.fromisoformat(finished) - datetime.datetime.fromisoformat(started)
    except (TypeError, ValueError):
        return None
    return max(0.0, between.total_seconds())
