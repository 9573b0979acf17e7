"""Several processes at one comparison: each run is trained once, and a killed one's is gone on with."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from deltatune.checkpoint.lock import Lock
from deltatune.checkpoint.manifest import mark
from deltatune.comparison import runner, workers
from deltatune.comparison.runner import compare
from deltatune.comparison.team import Team
from deltatune.errors import InUseError, RecipeError
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from tests.compare.test_runner import comparable
from tests.faults.test_lock import holder

Make = Callable[..., Recipe]


class Told(Silent):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.waits = threading.Event()

    def stage(self, text: str) -> None:
        self.stages.append(text)
        if text.startswith("Waiting"):
            self.waits.set()


@pytest.fixture(params=["locks", pytest.param("leases", marks=pytest.mark.slow)])
def kept_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What keeps folders apart."""
    if request.param == "leases":
        monkeypatch.setenv("DELTATUNE_LOCKS", "lease")
        monkeypatch.setenv("DELTATUNE_LEASE", "3")
    return str(request.param)


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process is at work in the folder until the block ends, or it is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.parent.name == "runs":
        mark(folder.parents[1], "comparison")
    process = holder(folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def logged(run: Path) -> list[int]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    return [line["step"] for line in lines if "lr" in line]


def test_who_does_not_join_has_the_folder_alone(make_recipe: Make, tmp_path: Path) -> None:
    recipe, out = make_recipe("train.max_steps=1", methods=["untuned"]), tmp_path / "out"
    with held(out), pytest.raises(InUseError, match="--join"):
        compare(recipe, out, join=True)
    compare(recipe, out)
    joined = Lock(out, print, join=True)
    joined.share()
    with pytest.raises(InUseError, match=r"--join"):
        compare(recipe, out)
    compare(recipe, out, join=True)
    assert (out / ".deltatune-lock").exists()  # one is still there
    with pytest.raises(InUseError, match="--overwrite"):
        compare(recipe, out, join=True, overwrite=True)
    with pytest.raises(RecipeError, match="another recipe"):
        compare(make_recipe("train.max_steps=2", methods=["untuned"]), out, join=True)
    joined.release()
    assert not (out / ".deltatune-lock").exists()
    compare(recipe, out, overwrite=True)


@pytest.mark.usefixtures("kept_by")
def test_what_another_is_at_is_left_to_it_and_taken_over_when_it_dies(
    make_recipe: Make, tmp_path: Path
) -> None:
    recipe = make_recipe("train.epochs=1", methods=["lora", "prompt"], seeds=[0, 1])
    told, boards = Told(), []
    out = tmp_path / "joined"
    with held(out / "runs/lora-s0") as other:
        work = threading.Thread(target=lambda: boards.append(compare(recipe, out, join=True, observer=told)))
        work.start()
        assert told.waits.wait(120)
        others = [folder for folder in (out / "runs").iterdir() if (folder / "result.json").exists()]
        assert sorted(folder.name for folder in others) == ["lora-s1", "prompt-s0", "prompt-s1"]
        assert not any("lora, seed 0" in stage for stage in told.stages)
        other.send_signal(signal.SIGKILL)
        work.join(120)
    alone = compare(recipe, tmp_path / "alone")
    assert comparable(boards[0]) == comparable(alone)
    assert any("other processes" in warning for warning in boards[0].warnings)
    assert all(len(logged(run)) == len(set(logged(run))) for run in (out / "runs").iterdir())


@pytest.mark.slow
def test_a_choice_by_two_that_take_turns_is_the_choice_of_one(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(
        "train.epochs=2",
        methods=[{"lora": {}, "grid": {"r": [1, 2, 4]}}, "prompt"],
        halving={},
        tune={"lr": 2},
    )
    alone = comparable(compare(recipe, tmp_path / "alone"))
    tried = sorted(folder.name for folder in (tmp_path / "alone/runs").glob("prompt--*-s0"))
    out, told = tmp_path / "joined", Told()
    boards: list[Any] = []
    with held(out / "runs" / tried[0]) as other:
        work = threading.Thread(target=lambda: boards.append(compare(recipe, out, join=True, observer=told)))
        work.start()
        waited = told.waits.wait(120)
        other.kill()
        work.join(200)
    assert waited
    assert comparable(boards[0]) == alone


def test_a_failure_is_tried_once_by_all(make_recipe: Make, tmp_path: Path) -> None:
    recipe, out = (
        make_recipe("train.epochs=1", "methods.0.lora.targets=[nothing]", methods=[{"lora": {}}]),
        tmp_path / "out",
    )
    board = compare(recipe, out, join=True)
    assert board.rows[0].status == "failed"
    before = (out / "runs/lora-s0/result.json").stat().st_mtime_ns
    first = Lock(out, print, join=True)
    first.share()
    assert compare(recipe, out, join=True).rows[0].status == "failed"
    assert (out / "runs/lora-s0/result.json").stat().st_mtime_ns == before
    first.release()
    compare(recipe, out, join=True)  # a new start tries it again
    assert (out / "runs/lora-s0/result.json").stat().st_mtime_ns != before


@pytest.mark.slow
@pytest.mark.usefixtures("kept_by")
def test_two_commands_one_of_them_killed_end_as_one(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(
        "train.epochs=4",
        "train.checkpoint_every=2",
        methods=["lora", "adalora", "prefix", "prompt"],
        seeds=[0, 1],
    )
    path, out = tmp_path / "recipe.yaml", tmp_path / "joined"
    path.write_text(yaml.safe_dump(recipe.dump()), "utf-8")

    def begin() -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "deltatune",
            "compare",
            str(path),
            "--out",
            str(out),
            "--join",
            "--quiet",
        ]
        return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})

    first, second = begin(), begin()
    while not any((run / "resume/state.json").exists() for run in out.glob("runs/*")):
        time.sleep(0.05)
    first.kill()
    first.wait()
    assert second.wait(timeout=280) == 0
    board = json.loads((out / "leaderboard.json").read_bytes())
    alone = comparable(compare(recipe, tmp_path / "alone"))
    assert {row["name"]: row["metrics"] for row in board["rows"]} == {
        row["name"]: row["metrics"] for row in alone["rows"]
    }
    for run in out.glob("runs/*"):
        assert logged(run) == sorted(set(logged(run)))
        of_alone = tmp_path / "alone" / "runs" / run.name / "adapter"
        for file in ("delta.safetensors", "adapter_model.safetensors"):
            if (of_alone / file).exists():
                assert (run / "adapter" / file).read_bytes() == (of_alone / file).read_bytes()


def test_who_joins_does_not_read_again_what_others_have_finished(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = make_recipe("train.max_steps=1", methods=["bitfit"]), tmp_path / "out"
    board = compare(recipe, out, join=True)
    first = Lock(out, print, join=True)
    first.share()
    folder = importlib.import_module("deltatune.training.given.folder")
    monkeypatch.setattr(folder, "read_adapter", lambda _: pytest.fail("a delta is read again"))
    made: list[int] = []
    real = runner.leaderboard
    monkeypatch.setattr(runner, "leaderboard", lambda *given: made.append(1) or real(*given))
    assert comparable(compare(recipe, out, join=True)) == comparable(board)
    assert len(made) == 1  # it was there before: of another version of deltatune, perhaps
    release, waits = Team._at_desk, []

    @contextmanager
    def at_desk(team: Team) -> Iterator[None]:
        if not waits:  # another is there first, and does the same
            waits.append(1)
            compare(recipe, out, join=True)
        with release(team):
            yield

    monkeypatch.setattr(Team, "_at_desk", at_desk)
    made.clear()
    assert comparable(compare(recipe, out, join=True)) == comparable(board)
    assert len(made) == 1
    first.release()


@pytest.mark.slow
def test_workers_end_as_one_process_and_refuse_as_one(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.epochs=1", methods=["lora", "prompt", "bitfit"], seeds=[0, 1])
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(recipe.dump()), "utf-8")
    command = [sys.executable, "-m", "deltatune", "compare", str(path), "--out", str(out), "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    assert "[1]" in done.stderr
    assert "Comparing: 6/6" in done.stderr
    board = json.loads((out / "leaderboard.json").read_bytes())
    alone = comparable(compare(recipe, tmp_path / "alone"))
    metrics = {row["name"]: row["metrics"] for row in alone["rows"]}
    assert {row["name"]: row["metrics"] for row in board["rows"]} == metrics
    command += ["--set", "train.lr=0.5"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert refused.returncode == 2
    assert "differs in train" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr


def test_the_progress_of_workers_is_shown_once() -> None:
    class Heard(Silent):
        def __init__(self) -> None:
            self.lines: list[Any] = []

        def warn(self, text: str) -> None:
            self.lines.append(text)

        def start(self, task: str, total: int, done: int = 0) -> None:
            self.lines.append((task, total))

        def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
            self.lines.append((task, "+", amount))

        def finish(self, task: str) -> None:
            self.lines.append((task, "over"))

    heard: Any = Heard()
    display, told = workers.Display(heard), workers.queue.Queue()
    first, second = (workers._Worker(number, {}, told) for number in (0, 1))
    for worker in (first, second):
        display.show(worker, {"do": "warn", "text": "few rows"})
        display.show(worker, {"do": "start", "text": "Comparing", "total": 3, "done": 0})
    display.show(first, {"do": "start", "text": "Training", "total": 9, "done": 2})
    for worker in (first, second, second, first):
        display.show(worker, {"do": "advance", "text": "Comparing", "amount": 1})
    display.show(first, {"do": "advance", "text": "Training", "amount": 4, "numbers": {"loss": 1.0}})
    display.ended(first)
    assert heard.lines == [
        "few rows",
        ("Comparing", 3),
        ("[1] Training", 9),
        ("Comparing", "+", 1),
        ("Comparing", "+", 1),
        ("[1] Training", "+", 4),
        ("[1] Training", "over"),
    ]


@pytest.mark.parametrize(
    ("memory", "cores", "gpus", "steps", "count"),
    [
        *((15, 8, 0, 100, 4), (1000, 8, 0, 100, 6), (1000, 2, 0, 100, 2), (1, 8, 0, 100, 1)),
        *((1000, 8, 0, 5, 3), (1000, 8, 0, 1, 1), (1000, 8, 0, None, 1)),
        *((15, 8, 2, 1, 2), (15, 8, 8, 1, 6)),
    ],
)
def test_as_many_workers_as_have_a_core_a_run_room_and_work(
    make_recipe: Make, monkeypatch: pytest.MonkeyPatch, *, memory: int, cores: int, gpus: int,
    steps: int | None, count: int,
) -> None:  # fmt: skip
    """A step of 2 GiB takes 3 with the libraries, and four fifths of the memory may be taken.

    Three runs of five steps are 7.5e12 operations for each method.
    """
    step = {"memory": SimpleNamespace(total=2 << 30), "flops": 25 * 10**10, "steps": steps}
    plan = SimpleNamespace(planned=[SimpleNamespace(name=name, **step) for name in ("lora", "prefix")])
    monkeypatch.setattr(workers, "forecast", lambda *_, **__: plan)
    monkeypatch.setattr(workers, "this_machine", lambda _: SimpleNamespace(memory_bytes=memory << 30))
    monkeypatch.setattr(workers, "_cores", lambda: cores)
    monkeypatch.setattr(workers, "_gpus", lambda: [str(number) for number in range(gpus)])
    recipe = make_recipe(methods=["lora", "prefix"], seeds=[0, 1, 2])
    assert workers.automatic(recipe, Silent()) == count


def test_the_largest_configuration_of_a_method_is_predicted_for_all(
    make_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def forecast(recipe: Recipe, **_: object) -> SimpleNamespace:
        asked.extend(entry.name for entry in recipe.methods)
        memory = SimpleNamespace(total=2 << 30)
        plans = [SimpleNamespace(name=name, memory=memory, flops=10**12, steps=1) for name in map(str, asked)]
        return SimpleNamespace(planned=plans)

    monkeypatch.setattr(workers, "forecast", forecast)
    monkeypatch.setattr(workers, "this_machine", lambda _: SimpleNamespace(memory_bytes=1000 << 30))
    monkeypatch.setattr(workers, "_cores", lambda: 8)
    monkeypatch.setattr(workers, "_gpus", list)
    grid = {"lora": {}, "grid": {"r": [2, 8, 4]}}
    assert workers.automatic(make_recipe(methods=[grid, "bitfit"]), Silent()) == 2  # 4e12 operations
    assert asked == ["lora r=8", "bitfit"]


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", "1001", ""])
def test_a_number_of_workers_is_a_number(make_recipe: Make, tmp_path: Path, given: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(make_recipe().dump()), "utf-8")
    from typer.testing import CliRunner

    from deltatune.cli.app import app

    done = CliRunner().invoke(app, ["compare", str(path), "--out", str(tmp_path / "out"), "--workers", given])
    assert done.exit_code == 2
    assert not (tmp_path / "out").exists()
