"""A comparison under way, as files: one run done, one training, one stopped by halving, others to come."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import yaml

HOSTILE = "<script>document.title='ran'</script>\u202e"
RECIPE: dict[str, Any] = {
    "task": "text-to-text",
    "model": {"name": "bundled:t5-small"},
    "data": {},
    "methods": [
        {"untuned": {}, "name": "untuned", "train": {"epochs": 4, "max_steps": None}},
        {"lora": {"r": 8}, "name": "lora", "train": {"epochs": 4, "max_steps": None}},
        {"ia3": {}, "name": HOSTILE, "train": {"epochs": 4, "max_steps": None}},
    ],
    "train": {"epochs": 4},
    "evaluation": {"select_by": "loss", "primary": "auto"},
    "seeds": [0, 1],
}
STEPS, PER_EPOCH, SECONDS = 400, 100, 0.5


def write_recipe(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | changes), encoding="utf-8")


def write_log(folder: Path, steps: int, *, first: int = 1, rest: str = "") -> None:
    """Steps of `SECONDS` each, whose loss falls, with a validation every 50."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for step in range(first, steps + 1):
        lines.append(
            {
                "step": step,
                "epoch": step / PER_EPOCH,
                "loss": 4 / step,
                "seconds": SECONDS * step,
                "tokens": 9,
            }
        )
        if step % 50 == 0:
            lines.append({"step": step, "epoch": step / PER_EPOCH, "validation": {"loss": 5 / step}})
    text = "".join(json.dumps(line) + "\n" for line in lines) + rest
    with (folder / "metrics.jsonl").open("a" if first > 1 else "w", encoding="utf-8") as handle:
        handle.write(text)


def hold(folder: Path, pid: int | None = None) -> None:
    """As a process that is at work there."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {"pid": pid or os.getpid(), "host": socket.gethostname(), "joins": False}
    (folder / ".deltatune-lock").write_text(json.dumps(named))


def write_done(folder: Path, name: str, method: str, seed: int, score: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    trained = 0 if method == "untuned" else 1000
    result = {
        "schema": 1, "status": "done", "error": None,
        "name": name, "method": method, "config": {}, "seed": seed,
        "model": {"name": "bundled:t5-small", "fingerprint": "ab" * 32, "parameters": 76_961_152},
        "data": {
            "fingerprint": "cd" * 32, "labels": None, "train": 1600, "validation": 9, "test": 9,
            "warnings": [],
        },
        "metrics": {"validation": {"loss": 1.0}, "test": {"rougeL_f": score, "loss": 1.0}},
        "cost": {
            "trained_parameters": trained, "stored_parameters": trained, "total_parameters": 76_961_152,
            "trained_share": 0.0, "peak_memory_bytes": 10**9,
            "train_seconds": SECONDS * STEPS * bool(trained), "evaluation_seconds": 20.0,
            "file_bytes": 4 * trained, "steps": STEPS * bool(trained), "epochs": 4.0,
        },
        "certificate": [{"check": "base unchanged", "passed": True, "detail": f"hash {HOSTILE}"}],
        "selected": {"step": STEPS, "by": "loss", "stopped_early": False},
        "started": "2026-11-30T10:00:00+00:00", "finished": "2026-11-30T10:04:00+00:00",
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def write_paused(folder: Path, name: str, step: int, value: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "schema": 1, "status": "paused", "name": name, "method": "lora", "seed": 0,
        "metrics": {"validation": {"loss": value}},
        "cost": {
            "train_seconds": SECONDS * step, "peak_memory_bytes": 1, "steps": step, "planned_steps": STEPS,
        },
        "selected": {"step": step, "by": "loss", "value": value},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def write_failed(folder: Path, name: str, method: str, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    error = {"kind": "TargetError", "message": f"nothing matches {HOSTILE}"}
    result = {"schema": 1, "status": "failed", "error": error, "name": name, "method": method, "seed": seed}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def write_under_way(folder: Path) -> Path:
    """untuned is done with seed 0, lora trains at step 120 of 400; all else is to come."""
    write_recipe(folder)
    hold(folder)
    write_done(folder / "runs" / "untuned-s0", "untuned", "untuned", 0, 0.2)
    (folder / "runs" / "untuned-s0" / "metrics.jsonl").write_text("")
    write_log(folder / "runs" / "lora-s0", 120, rest='{"step": 121, "lo')
    hold(folder / "runs" / "lora-s0")
    return folder
