"""Train every configuration of a grid to its end and keep what a rule of stopping early may be tried on.

    python benchmarks/record_grids.py benchmarks/grids/*.yaml --work out/grids --out benchmarks/results

A grid is a recipe; where its data are no package, they lie in `data/` beside it. `record_grids_NAME.npz`
holds, for C runs, P validations, V validation rows and T test rows:

    about          JSON: task, model, primary metric, steps, the steps of the validations, how many labels
                   the validation rows have, what failed, and of each run its label, method, settings, seed,
                   seconds, parameters and test results
    losses         [C, P, V] float16: what each validation row (the same for all) adds to the loss, in nats
    test_losses    [C, T] float16: the same of test rows, of which each has test_tokens [T] labels
    test_scores    [C, T] float16: the primary metric of each test row; NaN where it has no value for one row

A call that was killed goes on behind the last run that is finished: each is a line of `NAME.jsonl` in the
work folder.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from deltatune.errors import DeltatuneError
from deltatune.evaluation.keys import primary_metric
from deltatune.observer import Silent
from deltatune.recipe import MethodEntry, Recipe, load_recipe
from deltatune.results import RunResult
from deltatune.training import Context, run

LARGEST = 6e4
"""Of float16, nearly: a loss that diverged is cut off there."""
ABOUT = ("name", "method", "config", "lr", "seed", "seconds", "parameters", "test")


def record(recipe: Recipe, lines: Path, folder: Path) -> list[dict[str, Any]]:
    """Run what has no line yet; give all lines.

    Args:
        recipe: The grid.
        lines: The file of lines.
        folder: Where a run may be while it is under way.
    """
    done = _whole_lines(lines)
    known = {(line["name"], line["seed"]) for line in done}
    runs = [(entry, seed) for seed in recipe.seeds for entry in recipe.methods]
    left = [(entry, seed) for entry, seed in runs if (entry.name, seed) not in known]
    context = Context.open(recipe, Silent()) if left else None
    for entry, seed in left:
        line = _recorded(recipe, entry, seed, folder, context)
        with lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        done.append(line)
        took = line["error"] if "error" in line else f"{line['seconds']:.0f} s"
        print(f"{lines.stem}, {len(done)} of {len(runs)}: {entry.name}, seed {seed}: {took}", flush=True)
    return done


def _recorded(
    recipe: Recipe, entry: MethodEntry, seed: int, folder: Path, context: Context | None
) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    about = {"name": entry.name, "method": entry.method, "config": entry.config, "seed": seed}
    about["lr"] = entry.train.lr
    try:
        result = run(recipe, entry, seed, folder, context=context)
    except DeltatuneError as error:
        return {**about, "error": str(error)}
    assert isinstance(result, RunResult)
    validations = [line for line in _jsonl(folder / "metrics.jsonl") if "validation" in line]
    tested, primary = _jsonl(folder / "predictions.jsonl"), _primary(recipe)
    return {
        **about,
        "seconds": result.cost.train_seconds,
        "parameters": result.cost.trained_parameters,
        "test": dict(result.metrics.test),
        "points": [line["step"] for line in validations],
        "labels": validations[-1]["validation"]["tokens"],
        "losses": [line["rows"] for line in validations],
        "test_losses": [row["nll"] for row in tested],
        "test_tokens": [row["tokens"] for row in tested],
        "test_scores": [(row.get("scores") or {}).get(primary) for row in tested],
    }


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, without one that a kill cut off."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def _jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _primary(recipe: Recipe) -> str:
    return primary_metric(recipe.evaluation, recipe.task, targets=recipe.has_targets)


def pack(recipe: Recipe, lines: list[dict[str, Any]], path: Path) -> None:
    """Write a grid's record."""
    done = [line for line in lines if "error" not in line]
    first = done[0]
    about = {
        "task": recipe.task,
        "model": recipe.models[0].name,
        "primary": _primary(recipe),
        "steps": first["points"][-1],
        "points": first["points"],
        "labels": first["labels"],
        "failed": [line for line in lines if "error" in line],
        "runs": [{key: line[key] for key in ABOUT} for line in done],
    }

    def numbers(key: str) -> Any:
        found = np.array([line[key] for line in done], dtype=np.float64)
        return np.minimum(found, LARGEST).astype(np.float16)

    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        about=np.array(json.dumps(about)),
        losses=numbers("losses"),
        test_losses=numbers("test_losses"),
        test_tokens=np.array(first["test_tokens"], dtype=np.int16),
        test_scores=numbers("test_scores"),
    )


def main() -> None:
    """Record the grids that are named, one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grids", nargs="+", type=Path, help="recipes")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is under way")
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    options = parser.parse_args()
    # Memory is not what is measured here, and its prediction takes as long as some of the runs.
    importlib.import_module("deltatune.training.single.begin").predicted_run = lambda *_: None
    options.work.mkdir(parents=True, exist_ok=True)
    for path in options.grids:
        recipe = load_recipe(path)
        lines = record(recipe, options.work / f"{path.stem}.jsonl", options.work / path.stem)
        pack(recipe, lines, options.out / f"record_grids_{path.stem}.npz")


if __name__ == "__main__":
    main()
