"""A comparison by several processes that this one starts: each joins the comparison (team.py).

They share nothing but the folder, so a process that dies harms no other, and its run is gone on with. Each
has a GPU of its own, or its part of the processor's cores.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from deltatune.comparison.curve import PROGRESS
from deltatune.comparison.team import REMEDY
from deltatune.core.devices import device_of
from deltatune.errors import DeltatuneError
from deltatune.files import read_json
from deltatune.memory.fit import OVERHEAD
from deltatune.observer import Observer
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.results import Leaderboard
from deltatune.training.before.disk import runs_of
from deltatune.training.before.forecast import forecast, this_machine
from deltatune.training.given import cgroups

SHARE = 0.8
"""Of the memory that is there, what workers may take together by prediction."""
WORK = 2 * 10**12
"""Operations of training that each worker should have: about twenty seconds of a core. A start takes half
of that: eight runs of 0.8e12 operations together took 18 s in one process, 26 s in two."""
FAILED_RUNS = 2
"""The exit code of a comparison in which a run failed, or of a user's mistake."""
SHARED = ("Comparing", PROGRESS)
"""What all workers count, each its own runs and others'."""
_LINES = 20
"""Lines of a worker's stderr that are kept for a message."""


def automatic(recipe: Recipe, observer: Observer) -> int:
    """How many workers there should be: one for each GPU, else one for each core, but no more than runs.

    Without a GPU, each takes what a step takes by prediction, and its own interpreter and libraries: as many
    as have room, and as have enough to do. A thread each is what measuring says, where there is enough: two
    workers of one thread took 0.66 to 0.77 of the time of one process with two on an Intel Xeon, 0.96 to 0.99
    on an AMD EPYC (`benchmarks/workers.py`, docs/how-to/several-processes.md). A prediction takes seconds, so
    of configurations that differ in settings alone the largest stands for all.
    """
    if gpus := _gpus():
        return min(sum(runs_of(recipe, entry) for entry in recipe.methods), len(gpus))
    kinds: dict[Hashable, list[MethodEntry]] = {}
    for entry in recipe.methods:
        kinds.setdefault((entry.method, recipe.model_of(entry), recipe.data_of(entry)), []).append(entry)
    runs = {
        max(alike, key=_size).name: sum(runs_of(recipe, each) for each in alike) for alike in kinds.values()
    }
    largest = [entry for entry in recipe.methods if entry.name in runs]
    planned = forecast(
        recipe.model_copy(update={"methods": largest, "curve": None}), observer=observer
    ).planned
    steps = [entry.memory.total + OVERHEAD for entry in planned]
    room = int(this_machine(device_of(recipe.device)).memory_bytes * SHARE / max(steps)) if steps else 1
    busy = sum(entry.flops * (entry.steps or 0) * runs[entry.name] for entry in planned) // WORK
    return max(1, min(sum(runs.values()), _cores(), room, busy))


def _size(entry: MethodEntry) -> float:
    """A method's size, such as its rank; 0 for methods that have none."""
    config = entry.build_config()
    return getattr(config, config.size or "", None) or 0


def compare_by_workers(command: Sequence[str], out: Path, count: int, observer: Observer) -> Leaderboard:
    """Start workers and wait for them.

    Args:
        command: Arguments of `deltatune` that compare, without `--join`. The first worker gets all; those
            that come later none that start anew.
        out: The comparison's folder.
        count: How many workers.
        observer: Is told of the progress of all.

    Returns:
        What leaderboard.json holds.

    Raises:
        DeltatuneError: No worker came to the end; or the first one refused to begin, with its message.
        KeyboardInterrupt: Interrupted; the same call goes on.
    """
    told: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
    workers = [_Worker(number, _environment(number, count), told) for number in range(count)]
    display = Display(observer)
    try:
        workers[0].begin(command)
        later = [part for part in command if part != "--overwrite"]
        left = 1
        while left:
            worker, event = told.get()
            if event is not None:
                display.show(worker, event)
                if workers[-1].process is None and count > 1:  # the first one has the folder
                    for other in workers[1:]:
                        other.begin(later)
                    left += count - 1
                continue
            left -= 1
            display.ended(worker)
            if worker.code not in (0, FAILED_RUNS):
                observer.warn(
                    f"Worker {worker.number + 1} ended with {_said(worker.code)}; others go on with its run."
                )
    finally:
        for worker in workers:
            worker.end()
    if not any(worker.came_to_its_end for worker in workers):
        raise _failure(workers, out)
    return Leaderboard.of(
        read_json(out / "leaderboard.json", remedy=REMEDY), f"'{out}'/leaderboard.json", remedy=REMEDY
    )


def _failure(workers: Sequence[_Worker], out: Path) -> DeltatuneError:
    for worker in workers:
        if worker.error:
            told = worker.error
            return DeltatuneError(told["message"], field=told.get("field"), remedy=told.get("remedy"))
    said = "\n".join(workers[0].stderr)
    return DeltatuneError(
        f"no worker finished the comparison in '{out}'. The first one said:\n{said}",
        remedy="Compare with fewer --workers if memory was short; the same command goes on.",
    )


@dataclass(eq=False)
class _Worker:
    """A process that joins the comparison."""

    number: int
    environment: dict[str, str]
    told: queue.Queue[tuple[_Worker, dict[str, Any] | None]]
    code: int | None = None
    error: dict[str, Any] | None = None
    stderr: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))
    process: subprocess.Popen[str] | None = None

    def begin(self, command: Sequence[str]) -> None:
        """Start it, and listen to it."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deltatune", *command, "--join", "--events", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=self.environment,
        )
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        reader = threading.Thread(target=self._keep, args=(process,), daemon=True)
        reader.start()
        for event in _events(process):
            if "error" in event:
                self.error = event["error"]
            else:
                self.told.put((self, event))
        self.code = process.wait()
        reader.join()
        self.told.put((self, None))

    def _keep(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.stderr.append(line.rstrip())

    @property
    def came_to_its_end(self) -> bool:
        """Whether it compared all; a run may have failed."""
        return self.code == 0 or (self.code == FAILED_RUNS and self.error is None)

    def end(self) -> None:
        """Let it save its state and end, if it is still there."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def _events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.keys() & {"do", "error"}:
            yield event


class Numbered(Protocol):
    """One of several workers."""

    @property
    def number(self) -> int:
        """Which of them, from 0 on."""


class Display:
    """The progress of all workers in one display."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.compared = dict.fromkeys(SHARED, 0)
        """Runs that are known to be done."""
        self.counts: dict[str, dict[Numbered, int]] = {text: {} for text in SHARED}
        self.tasks: dict[Numbered, set[str]] = {}
        self.said: set[str] = set()

    def show(self, worker: Numbered, event: dict[str, Any]) -> None:
        """Show what a worker told."""
        do, text = event["do"], event.get("text", "")
        if do in ("warn", "log"):
            if text not in self.said:  # each worker reads the data, and warns of them
                self.said.add(text)
                getattr(self.observer, do)(text)
        elif do == "stage":
            self.observer.stage(f"[{worker.number + 1}] {text}")
        elif text in SHARED:
            self._compare(worker, event)
        else:
            self._task(worker, f"[{worker.number + 1}] {text}", event)

    def _compare(self, worker: Numbered, event: dict[str, Any]) -> None:
        """Each worker counts all runs, its own and others': the one that knows most is shown."""
        text = event["text"]
        counts = self.counts[text]
        if event["do"] == "start":
            if not counts:
                self.observer.start(text, event["total"])
            counts[worker] = 0
        elif event["do"] == "advance":
            counts[worker] += event["amount"]
            if (most := max(counts.values())) > self.compared[text]:
                self.observer.advance(text, most - self.compared[text])
                self.compared[text] = most

    def _task(self, worker: Numbered, name: str, event: dict[str, Any]) -> None:
        tasks = self.tasks.setdefault(worker, set())
        if event["do"] == "start":
            tasks.add(name)
            self.observer.start(name, event["total"], event["done"])
        elif name in tasks and event["do"] == "advance":
            self.observer.advance(name, event["amount"], event["numbers"])
        elif name in tasks:
            tasks.remove(name)
            self.observer.finish(name)

    def ended(self, worker: Numbered) -> None:
        """Take the bars of a worker away."""
        for name in self.tasks.pop(worker, set()):
            self.observer.finish(name)


def _environment(number: int, count: int) -> dict[str, str]:
    """What a worker may take of the machine."""
    environment = dict(os.environ)
    if gpus := _gpus():
        return environment | {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
    return environment | {"OMP_NUM_THREADS": str(max(1, _cores() // count))}


def _gpus() -> list[str]:
    """The GPUs that may be used, by the names that CUDA gives them."""
    import torch

    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name for name in visible.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def _cores() -> int:
    return cgroups.processors()


def _said(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
