"""Eight LoRA configurations: `deltatune compare` against eight runs of peft, one after another.

Both start with the libraries imported and end with the loss of the test rows for every configuration. Each
of peft's runs reads the data, loads the base, encodes the rows and trains with the Trainer's defaults, as a
script does that is started for each configuration; four run before ours and four after it. Ours has
`together: auto`. With `--ways` it is timed in more ways, each apart, and with the loss of its best:
`workers` is a command with `--workers auto`, whose processes import the libraries in that time; `halving` is
one process with `halving: auto`, which looks at 32 validation rows twelve times and stops what is behind. It
stops nobody within eight steps, so it needs `--rows 384` or more. Rows of baselines, which peft does not
make, are left out. The goals are 2, 2.7 and 4 times peft's speed.

    python benchmarks/many_runs.py --model t5-small --ways workers
    python benchmarks/many_runs.py --model minilm --rows 384 --ways workers halving
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from epochs import MODELS, TARGETS, content_of, without_validation
from peft_side import peft_trainer

from deltatune.comparison.runner import compare
from deltatune.errors import RecipeError
from deltatune.observer import Silent
from deltatune.recipe import parse_recipe
from deltatune.results import Leaderboard
from deltatune.training import Context
from deltatune.training.given.machine import versions

ROWS = 48
VALIDATION_ROWS, VALIDATIONS = 32, 12
"""Of `halving`."""
TEST_ROWS = 32
GOALS = {"compare": 2.0, "workers": 2.7, "halving": 4.0}
"""Times peft's speed."""


def methods() -> list[Any]:
    """Eight configurations."""
    return [
        {
            "lora": {"r": r, "dropout": 0.05, "targets": TARGETS[targets]},
            "name": f"r{r} lr{lr:g} {targets}",
            "train": {"lr": lr},
        }
        for r in (4, 16)
        for lr in (5e-4, 2e-3)
        for targets in TARGETS
    ]


def one_of_peft(content: dict[str, Any], method: Any, folder: Path) -> dict[str, float]:
    """A run of peft from the data to the loss of the test rows: seconds and loss."""
    started = time.perf_counter()
    recipe = parse_recipe(content | {"methods": [method]})
    context = Context.open(recipe, Silent())
    entry = recipe.methods[0]
    trainer = peft_trainer(context, entry, folder)
    trainer.train()
    test = context.data(entry, context.base(entry)).encoded("test")
    loss = trainer.evaluate([dict(feature) for feature in test.features])["eval_loss"]
    return {"seconds": time.perf_counter() - started, "loss": loss}


def by_workers(content: dict[str, Any], folder: Path) -> Leaderboard:
    """The comparison by one process for each core, as a command."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    command = [sys.executable, "-m", "deltatune", "compare", recipe, "--out", folder / "workers"]
    done = subprocess.run(
        [*map(str, command), "--workers", "auto", "--quiet", "--json"], capture_output=True, check=True
    )
    return Leaderboard.of(json.loads(done.stdout), "the command's output", remedy="")


def by_halving(content: dict[str, Any], folder: Path) -> Leaderboard:
    """The comparison in this process, in which what is behind is stopped."""
    data = content["data"] | {
        "split": content["data"]["split"] | {"validation": 0.05},
        "limit": content["data"]["limit"] | {"validation": VALIDATION_ROWS},
    }
    train = content["train"] | {"evaluate_every": max(1, content["train"]["checkpoint_every"] // VALIDATIONS)}
    halving = {"halving": {"rungs": "auto", "among": "all"}, "data": data, "train": train}
    return compare(parse_recipe(content | halving), folder / "halving")


WAYS = {"workers": by_workers, "halving": by_halving}


def best_loss(board: Leaderboard) -> dict[str, Any]:
    """Which configuration is best, and its loss with its interval."""
    first = board.rows[0]
    return {"name": first.name, "loss": (first.metrics or {}).get("loss"), "interval": first.interval}


def timed_way(name: str, content: dict[str, Any], folder: Path, peft: float) -> dict[str, Any]:
    """Seconds, times peft's speed, and the best; or why it is not there."""
    started = time.perf_counter()
    try:
        board = WAYS[name](content, folder)
    except RecipeError as error:
        return {"error": str(error)}
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "ratio": peft / seconds, "goal": GOALS[name], "best": best_loss(board)}


def measure(model: str, ways: Sequence[str] = (), rows: int = ROWS) -> dict[str, Any]:
    """Time peft, one process of ours, and further ways."""
    content = without_validation(content_of(model, methods(), epochs=1, test=TEST_ROWS, rows=rows))
    content |= {"together": "auto", "baselines": False}
    folder = Path(tempfile.mkdtemp())
    all_methods = methods()
    half = len(all_methods) // 2
    theirs = [one_of_peft(content, method, folder) for method in all_methods[:half]]
    started = time.perf_counter()
    board = compare(parse_recipe(content), folder / "compare")
    ours = time.perf_counter() - started
    theirs += [one_of_peft(content, method, folder) for method in all_methods[half:]]
    seconds = sum(run["seconds"] for run in theirs)
    return {
        "model": model,
        "rows": rows,
        "trained_at_once": [row.cost.raced if row.cost else None for row in board.rows],
        "configurations": [method["name"] for method in all_methods],
        "seconds": {"compare": ours, "peft": seconds, "peft_each": [run["seconds"] for run in theirs]},
        "loss": {
            "peft": [run["loss"] for run in theirs],
            "ours": {row.name: (row.metrics or {})["loss"] for row in board.rows},
        },
        "ratio": seconds / ours,
        "goal": GOALS["compare"],
        "best": best_loss(board),
        "ways": {name: timed_way(name, content, folder, seconds) for name in ways},
        "timeline": [phase.as_dict() for phase in board.timeline or []],
        "versions": versions(),
    }


def main() -> None:
    """Measure one model and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="t5-small")
    parser.add_argument("--rows", type=int, default=ROWS, help="training rows, of which eight make a step")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=[], help="time these as well")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here as well")
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.model, arguments.ways, arguments.rows), indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
