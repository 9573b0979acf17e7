"""The folder of a run: made ready, found finished, and what is written when a run fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from deltatune.checkpoint.folders import settle
from deltatune.errors import RecipeError
from deltatune.files import make_folder
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.written import require_written

SCHEMA = 1


def prepare_folder(out: Path, own: Recipe, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Make the folder ready, or return the result of a run that is finished.

    With `overwrite` nothing is removed yet: `clear_folder` does so once data and base are there.

    Raises:
        RecipeError: The folder holds a run that the user did not say what to do with, or another recipe's; or
            a comparison, or a recipe that a person wrote.
        DeltatuneError: The folder cannot be written to.
    """
    settle(make_folder(out))
    result, state = out / "result.json", out / "resume"
    require_written(out)
    for name in ("leaderboard.json", "runs"):
        if (out / name).exists():
            raise RecipeError(
                f"'{out}' holds a comparison.", field="--out", remedy="Choose another folder for the run."
            )
    if overwrite:
        return None
    done = is_done(out)
    if (done or state.exists()) and not resume:
        what, flags = (
            ("a finished run", "--overwrite") if done else ("an interrupted run", "--resume or --overwrite")
        )
        raise RecipeError(
            f"'{out}' holds {what}.", field="--out", remedy=f"Choose another folder, or add {flags}."
        )
    stored = out / "recipe.yaml"
    if (done or state.exists()) and stored.exists():
        before = yaml.safe_load(stored.read_text(encoding="utf-8"))
        changed = sorted(key for key, value in own.dump().items() if before.get(key) != value)
        if changed:
            raise RecipeError(
                f"the run in '{out}' has another recipe; it differs in {', '.join(changed)}.",
                field="--resume",
                remedy="Use the recipe it was started with, another folder, or --overwrite.",
            )
    return json.loads(result.read_text(encoding="utf-8")) if done else None


def clear_folder(out: Path) -> None:
    """Remove what an earlier run left, and nothing that a run does not write."""
    for name in ("recipe.yaml", "metrics.jsonl", "predictions.jsonl", "result.json"):
        (out / name).unlink(missing_ok=True)
    for name in ("resume", "adapter"):
        shutil.rmtree(out / name, ignore_errors=True)


def is_done(out: Path) -> bool:
    """Whether the folder holds a finished run."""
    result = out / "result.json"
    return result.exists() and bool(json.loads(result.read_text(encoding="utf-8"))["status"] == "done")


def peak_before(out: Path) -> int:
    """Peak memory of the part of this run that was trained before it paused."""
    path = out / "result.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return int(before["cost"]["peak_memory_bytes"]) if before.get("status") == "paused" else 0


def failed_result(entry: MethodEntry, seed: int, error: Exception) -> dict[str, Any]:
    """The content of result.json for a run that failed."""
    return {
        "schema": SCHEMA,
        "status": "failed",
        "error": {"kind": type(error).__name__, "message": str(error) or type(error).__name__},
        "name": entry.name,
        "method": entry.method,
        "config": entry.config,
        "seed": seed,
    }
