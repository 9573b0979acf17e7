"""A comparison by tasks of a Ray cluster: each joins the comparison (team.py), where Ray has room for it.

Ray starts a task when a node has the memory and the GPU that are predicted, and starts it again when its
process or its node died. What a task trains is decided by the locks in the folder, as always: a task that is
started again goes on with what is left. All nodes must see the folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.comparison.runner import compare
from deltatune.comparison.team import REMEDY
from deltatune.comparison.workers import Display
from deltatune.errors import DeltatuneError
from deltatune.files import OURS, make_folder, read_json
from deltatune.memory.fit import OVERHEAD
from deltatune.observer import Observer, Telling
from deltatune.recipe import parse_recipe
from deltatune.recipe.schema import Recipe
from deltatune.results import Leaderboard
from deltatune.training.before.disk import runs_of
from deltatune.training.before.forecast import forecast

TRIES = 10
"""How often Ray starts a task again whose process or node died."""
LOOK = 0.2
"""Seconds between looks at what tasks told."""
END = 60
"""Seconds that tasks have to save their state when the comparison is interrupted."""


@dataclass(frozen=True)
class Needs:
    """What each task asks Ray for, and how many there are at most."""

    tasks: int
    memory_bytes: int
    """As a step takes by prediction, with the interpreter and its libraries."""

    def options(self, *, gpu: bool) -> dict[str, Any]:
        """In Ray's terms. With a GPU a step's memory is on it, of which a task has one to itself."""
        by_device: dict[str, Any] = {"num_gpus": 1} if gpu else {"memory": self.memory_bytes}
        return {"num_cpus": 1, "max_retries": TRIES, **by_device}

    def fitting(self, cluster: Mapping[str, float]) -> int:
        """How many of them a cluster with these resources has room for; one at least, which may wait."""
        if cluster.get("GPU"):
            return max(1, min(self.tasks, int(cluster["GPU"])))
        room = int(cluster.get("memory", 0) / self.memory_bytes)
        return max(1, min(self.tasks, int(cluster.get("CPU", 1)), room))

    def said(self) -> str:
        """The same in words."""
        return (
            f"On Ray: {self.tasks} tasks at most, each with 1 CPU and a GPU or, without GPUs, "
            f"{self.memory_bytes / 1e9:.1f} GB of memory"
        )


def needs_of(recipe: Recipe, observer: Observer) -> Needs:
    """What tasks need by prediction: any of them may train any run, so as much as the largest takes."""
    steps = [entry.memory.total for entry in forecast(recipe, observer=observer).planned]
    runs = sum(runs_of(recipe, entry) for entry in recipe.methods)
    return Needs(runs, round(max(steps, default=0) + OVERHEAD))


def compare_on_ray(recipe: Recipe, out: Path, address: str | None, observer: Observer) -> Leaderboard:
    """Compare by tasks of a cluster, and wait for them.

    Args:
        recipe: The recipe.
        out: The comparison's folder, which all nodes see.
        address: Of the cluster; None for one that Ray finds, or else starts on this machine.
        observer: Is told of the progress of all.

    Returns:
        What leaderboard.json holds.

    Raises:
        DeltatuneError: Ray is not installed or cannot be reached, a node does not see the folder, or a task
            refused to begin.
        KeyboardInterrupt: Interrupted; the same call goes on.
    """
    ray = _ray()
    needs = needs_of(recipe, observer)
    out = make_folder(out).resolve()
    mark = out / f"{OURS}seen.{secrets.token_hex(8)}"
    observer.stage("Looking for a Ray cluster")
    _begin(ray, address)
    try:
        mark.touch()
        _all_done(ray, recipe, mark, needs, observer)
    finally:
        mark.unlink(missing_ok=True)
        ray.shutdown()
    path = out / "leaderboard.json"
    return Leaderboard.of(read_json(path, remedy=REMEDY), f"'{path}'", remedy=REMEDY)


def _ray() -> Any:
    try:
        import ray
        import ray.util.queue
    except ImportError as error:
        raise DeltatuneError(
            "Ray is not installed.", field="--engine", remedy='Install it: pip install "deltatune[ray]".'
        ) from error
    return ray


def _begin(ray: Any, address: str | None) -> None:
    # Ray's own warnings are of its dashboard and of its logs, which go to its folder on each node.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        ray.init(address=address, include_dashboard=None if address else False, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DeltatuneError(
            f"no Ray cluster can be used ({' '.join(str(error).split())[:200]}).",
            field="--address",
            remedy="Give the address of its head, as `ray status` knows it, or leave it out to start one on "
            "this machine.",
        ) from error


def _all_done(ray: Any, recipe: Recipe, mark: Path, needs: Needs, observer: Observer) -> None:
    cluster = ray.cluster_resources()
    told = ray.util.queue.Queue(actor_options={"num_cpus": 0})
    task = ray.remote(work).options(**needs.options(gpu=bool(cluster.get("GPU"))))
    workers = [_Task(number) for number in range(needs.fitting(cluster))]
    pending = {task.remote(recipe.dump(), str(mark), each.number, told): each for each in workers}
    display = Display(observer)

    def show() -> None:
        for number, event in told.get_nowait_batch(told.qsize()):
            display.show(workers[number], event)

    failures = []
    try:
        while pending:
            done, _ = ray.wait(list(pending), timeout=LOOK)
            show()
            for reference in done:
                display.ended(worker := pending.pop(reference))
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    failures.append(error)
                    cause = getattr(error, "cause", None)
                    if isinstance(cause, DeltatuneError):
                        raise cause from None
                    observer.warn(f"Task {worker.number + 1} was given up: {str(error)[-300:]}")
    except BaseException:
        for reference in pending:
            ray.cancel(reference)
        with contextlib.suppress(Exception):
            ray.wait(list(pending), num_returns=len(pending), timeout=END)
        raise
    if len(failures) == len(workers):
        raise DeltatuneError(
            f"no task finished the comparison: {str(failures[0])[-500:]}",
            remedy="The same command goes on.",
        )


@dataclass(frozen=True)
class _Task:
    """One of those that train, as the display knows it."""

    number: int


def work(content: dict[str, Any], mark: str, number: int, told: Any) -> None:
    """What a task does: it joins the comparison, on whatever node.

    Args:
        content: The recipe.
        mark: A file in the comparison's folder, which tells that this node sees it.
        number: Of the task.
        told: A queue of Ray for its progress.

    Raises:
        DeltatuneError: The node does not see the folder; or as of `compare`.
    """
    out = Path(mark).parent
    if not Path(mark).exists():
        raise DeltatuneError(
            f"a node of the cluster ({os.uname().nodename}) does not see the folder '{out}' of this machine.",
            field="--out",
            remedy="Choose a folder on a file system that all nodes share.",
        )
    compare(parse_recipe(content), out, join=True, observer=Telling(lambda event: told.put((number, event))))
