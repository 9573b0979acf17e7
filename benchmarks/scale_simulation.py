"""A comparison of thousands of runs: how long, how much memory and how large a page its end takes.

The runs are made up, from a real one of each method with a tiny base: folders with all files, in which the
answers to the test rows are drawn anew. Then the ordinary comparison finds them finished and makes the
leaderboard and the report.

    python benchmarks/scale_simulation.py --entries 100 --seeds 5 --out /tmp/scale
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deltatune.checkpoint.manifest import checksums, mark, vouch
from deltatune.comparison import runner
from deltatune.comparison.attempt import run_folder
from deltatune.comparison.folder import KIND as COMPARISON
from deltatune.files import write_text
from deltatune.observer import Silent
from deltatune.recipe import Recipe, parse_recipe
from deltatune.recipe.baselines import with_baselines
from deltatune.recipe.written import as_written
from deltatune.testing.folders import save_tiny
from deltatune.training.given.folder import KIND, WRITES

LABELS = "abcd"
TRAINED = 200
STAGES = ("require_sound", "require_same_inputs", "attempt_all", "leaderboard", "write_json", "write_report")


def recipe_of(folder: Path, entries: int, seeds: int, rows: int) -> Recipe:
    """LoRA with so many learning rates, over a base that is made on the spot."""
    source = folder / "rows.jsonl"
    random, count = np.random.default_rng(0), TRAINED + rows
    if not source.exists():
        save_tiny("bert", folder / "bert")
        lines = [
            {"id": str(i), "text": f"row {i}: {random.integers(1 << 40)}", "label": LABELS[i % len(LABELS)]}
            for i in range(count)
        ]
        source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return parse_recipe(
        {
            "task": "text-classification",
            "model": str(folder / "bert"),
            "data": {
                "source": str(source),
                "columns": {"input": "text", "target": "label", "id": "id"},
                "split": {"validation": 50 / count, "test": rows / count},
            },
            "methods": [
                {"lora": {"r": 1 + i % 64}, "name": f"lora {i}", "train": {"lr": 1e-4 * 1.002**i}}
                for i in range(entries)
            ],
            "train": {"epochs": 10, "batch_size": 16},
            "seeds": list(range(seeds)),
        }
    )


def make_runs(recipe: Recipe, template: Path, out: Path) -> None:
    """Write a folder for each run."""
    random = np.random.default_rng(1)
    mark(out, COMPARISON)
    recipe_with = with_baselines(recipe)
    hard = None
    for entry in recipe_with.methods:
        source = next(path for path in template.glob("runs/*") if path.name.startswith(entry.method))
        result = json.loads((source / "result.json").read_bytes())
        certificate = json.loads((source / "certificate.json").read_bytes())
        lines = [json.loads(line) for line in (source / "predictions.jsonl").read_bytes().splitlines()]
        right, wrong = ([_answered(line, right=right) for line in lines] for right in (True, False))
        hard = random.normal(0, 1, len(lines)) if hard is None else hard
        skill = random.normal(1, 0.2)
        for seed in recipe.seeds:
            folder = out / run_folder(entry, seed)
            shutil.copytree(source, folder, copy_function=os.link)
            answers = hard + random.normal(0, 0.7, len(lines)) < skill + random.normal(0, 0.05)
            texts = [a if good else b for good, a, b in zip(answers, right, wrong, strict=True)]
            result |= {"name": entry.name, "seed": seed, "config": entry.config}
            result["metrics"]["test"]["accuracy"] = float(answers.mean())
            write_text(folder / "predictions.jsonl", "".join(texts))
            write_text(folder / "result.json", json.dumps(result))
            write_text(
                folder / "certificate.json", json.dumps(certificate | {"name": entry.name, "seed": seed})
            )
            write_text(folder / "recipe.yaml", as_written(recipe_with.alone(entry, seed).dump()))
            vouch(folder, KIND, checksums(folder, WRITES))


def _answered(line: dict[str, Any], *, right: bool) -> str:
    prediction = line["reference"] if right else LABELS[(LABELS.index(line["reference"]) + 1) % len(LABELS)]
    chances = {label: 0.7 if label == prediction else 0.1 for label in LABELS}
    told = {
        "prediction": prediction,
        "scores": {"accuracy": float(right)},
        "nll": 0.36 if right else 2.3,
        "probabilities": chances,
    }
    return json.dumps(line | told) + "\n"


def timed(name: str, seconds: dict[str, float]) -> None:
    """Have a step of a comparison measured."""
    real: Callable[..., Any] = getattr(runner, name)

    def measured(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return real(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0) + time.process_time() - started

    setattr(runner, name, measured)


def main() -> None:
    """Make the folders unless they are there, compare, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(folder, given.entries, given.seeds, given.rows)
    out = folder / f"{given.entries}x{given.seeds}x{given.rows}"
    if not out.exists():
        template = folder / f"template-{given.rows}"
        if not template.exists():
            alone = recipe.model_copy(update={"methods": recipe.methods[:1], "seeds": [0]})
            runner.compare(alone, template, observer=Silent())
        out.mkdir()
        started = time.perf_counter()
        make_runs(recipe, template, out)
        print(f"made in {time.perf_counter() - started:.0f} s", flush=True)
    seconds: dict[str, float] = {}
    for stage in STAGES:
        timed(stage, seconds)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started, worked = time.perf_counter(), time.process_time()
    board = runner.compare(recipe, out, observer=Silent())
    found = {
        "runs": len(board.rows) * given.seeds,
        "entries": len(board.rows),
        "pairs": len(board.pairs),
        "seconds": round(time.perf_counter() - started, 1),
        "processor seconds": round(time.process_time() - worked, 1),
        "of these": {name: round(value, 1) for name, value in seconds.items()},
        "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "before MB": round(before),
        "leaderboard MB": round((out / "leaderboard.json").stat().st_size / 1e6, 2),
        "report MB": round((out / "report.html").stat().st_size / 1e6, 2),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
