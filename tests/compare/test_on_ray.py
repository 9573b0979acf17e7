"""Comparisons by tasks of Ray: they end as one process does, also when a task's process is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.cli.engines import require_engine
from deltatune.comparison.on_ray import Needs, compare_on_ray, work
from deltatune.comparison.runner import compare
from deltatune.errors import DeltatuneError
from deltatune.observer import Telling
from deltatune.recipe import Recipe
from tests.compare.test_joined import Told, logged
from tests.compare.test_runner import comparable

Make = Callable[..., Recipe]
GB = 10**9


def test_a_cluster_gets_as_many_tasks_as_it_has_room_for() -> None:
    needs = Needs(tasks=20, memory_bytes=4 * GB)
    assert needs.fitting({"CPU": 64, "memory": 100 * GB, "GPU": 8}) == 8
    assert needs.fitting({"CPU": 64, "memory": 30 * GB}) == 7
    assert needs.fitting({"CPU": 3, "memory": 300 * GB}) == 3
    assert needs.fitting({"CPU": 64, "memory": 300 * GB}) == 20
    assert needs.fitting({}) == 1
    assert needs.options(gpu=True)["num_gpus"] == 1
    assert needs.options(gpu=False)["memory"] == 4 * GB


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeltatuneError, match="does not see the folder"):
        work({}, str(tmp_path / "elsewhere/mark"), 0, None)


def test_what_a_task_tells_is_what_a_display_shows() -> None:
    told: list[Any] = []

    teller = Telling(told.append)
    teller.start("Training", 9)
    teller.advance("Training", 2)
    assert told == [
        {"do": "start", "text": "Training", "total": 9, "done": 0},
        {"do": "advance", "text": "Training", "amount": 2, "numbers": {}},
    ]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"engine": "dask"}, "--engine"),
        ({"address": "auto"}, "--address"),
        ({"engine": "ray", "workers": "2"}, "--workers"),
        ({"engine": "ray", "overwrite": True}, "--overwrite"),
    ],
)
def test_options_that_do_not_go_together(given: dict[str, Any], field: str) -> None:
    with pytest.raises(DeltatuneError, match=field):
        require_engine(**{"engine": None, "address": None, "workers": None, "overwrite": False} | given)
    require_engine("ray", "auto", workers=None, overwrite=False)


@pytest.mark.slow
def test_tasks_end_as_one_process_though_one_is_killed(make_recipe: Make, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    recipe = make_recipe(
        "train.epochs=3", "train.checkpoint_every=2", methods=["lora", "prompt"], seeds=[0, 1]
    )
    out, killed = tmp_path / "out", []

    def kill() -> None:
        while not killed:
            for state in out.glob("runs/*/resume/state.json"):
                lock = state.parents[1] / ".deltatune-lock"
                if lock.exists() and lock.read_bytes():
                    pid = json.loads(lock.read_bytes())["pid"]
                    assert pid != os.getpid()
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            time.sleep(0.02)

    threading.Thread(target=kill, daemon=True).start()
    told = Told()
    board = compare_on_ray(recipe, out, None, told)
    assert killed
    assert not ray.is_initialized()
    alone = comparable(compare(recipe, tmp_path / "alone"))
    metrics = {row["name"]: row["metrics"] for row in alone["rows"]}
    assert {row.name: row.metrics for row in board.rows} == metrics
    assert all(logged(run) == sorted(set(logged(run))) for run in out.glob("runs/*"))
    assert any(stage.startswith("[1]") for stage in told.stages)
    assert not list(out.glob(".deltatune-seen*"))
