"""A comparison that is killed goes on with the same command, and ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deltatune.recipe import Recipe

Make = Callable[..., Recipe]
METHODS = [
    "untuned",
    {"lora": {"dropout": 0.1}, "grid": {"r": [2, 4, 8], "targets": [["query"], ["query", "value"]]}},
    {"adalora": {"interval": 2}},
    {"prefix": {"projection": True}},
    {"diff_pruning": {"density": 0.1}},
    "prompt",
    "ia3",
    "full",
]
"""Thirteen configurations."""
STEPS = 12
MEASURED = {
    "created",
    "train_seconds",
    "energy_joules",
    "evaluation_seconds",
    "tokens_per_second",
    "peak_memory_bytes",
    "seconds",
}
"""What two runs of the same thing may differ in."""


def without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_measured(item) for key, item in value.items() if key not in MEASURED}
    return [without_measured(item) for item in value] if isinstance(value, list) else value


def started(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "deltatune", "compare", str(recipe), "--out", str(out), "--quiet"]
    log = (out.parent / f"{out.name}.log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


def finish(recipe: Path, out: Path) -> None:
    process = started(recipe, out)
    assert process.wait(timeout=600) == 0, (out.parent / f"{out.name}.log").read_text()


def logged_steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b'"lr"') if path.exists() else 0


def is_done(run: Path) -> bool:
    path = run / "result.json"
    return path.exists() and json.loads(path.read_bytes())["status"] == "done"


def in_training(run: Path) -> bool:
    """Between two checkpoints, with steps in the log that the saved state does not know."""
    log = logged_steps(run)
    return (run / "resume/state.json").exists() and log % 4 != 0 and log < STEPS


def in_evaluation(run: Path) -> bool:
    """The delta is saved, and its scores are not."""
    return (run / "adapter/deltatune.json").exists() and not is_done(run)


def kill(recipe: Path, out: Path, when: Callable[[Path], bool], behind: int) -> str:
    """Start the comparison and kill it in a run that stands so, with `behind` runs done; name that run."""
    process = started(recipe, out)
    try:
        while process.poll() is None:
            time.sleep(0.002)
            runs = list(out.glob("runs/*"))
            if not any(map(when, runs)) or sum(map(is_done, runs)) < behind:
                continue
            process.send_signal(signal.SIGSTOP)  # looked at again, since it went on meanwhile
            hit = [run.name for run in out.glob("runs/*") if when(run)]
            if hit:
                return hit[0]
            process.send_signal(signal.SIGCONT)
    finally:
        process.kill()
        process.wait()
    raise AssertionError((out.parent / f"{out.name}.log").read_text())


def finished(out: Path) -> dict[str, bytes]:
    """result.json of each run that is done, which holds when it began and ended."""
    return {run.name: (run / "result.json").read_bytes() for run in out.glob("runs/*") if is_done(run)}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("choosing", [{}, {"tune": {"lr": [0.003, 0.01]}, "halving": {"factor": 2}}])
def test_killed_twice_and_finished(make_recipe: Make, tmp_path: Path, choosing: dict[str, Any]) -> None:
    train = {"epochs": 3, "batch_size": 8} | ({} if choosing else {"lr": 0.01})
    content = make_recipe(methods=METHODS, train=train, seeds=[0], **choosing).dump()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(recipe, whole)
    kill(recipe, parts, in_training, behind=0 if choosing else 3)  # while choosing, none is done
    first = finished(parts)
    kill(recipe, parts, in_evaluation, behind=6)
    kept = finished(parts)
    assert len(kept) >= 6
    assert first.items() <= kept.items()
    finish(recipe, parts)
    assert kept.items() <= finished(parts).items()  # not run again

    boards = [json.loads((out / "leaderboard.json").read_text(encoding="utf-8")) for out in (whole, parts)]
    assert len(boards[0]["rows"]) >= 12
    assert all(row["status"] == "done" for row in boards[0]["rows"])
    assert without_measured(boards[1]) == without_measured(boards[0])
    files = [sorted(path.relative_to(out) for path in out.rglob("*")) for out in (whole, parts)]
    assert files[0] == files[1]
    results = ("adapter_model.safetensors", "certificate.json", "predictions.jsonl")
    same = [file for file in files[0] if file.name in results]
    assert len(same) >= 4 * 12
    for file in same:
        assert (parts / file).read_bytes() == (whole / file).read_bytes()
