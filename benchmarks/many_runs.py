"""Eight LoRA configurations: `deltatune compare` against eight runs of peft, one after another.

Both start with the libraries imported and end with the loss of the test rows for every configuration. Each
of peft's runs reads the data, loads the base, encodes the rows and trains with the Trainer's defaults, as a
script does that is started for each configuration; four run before ours and four after it. Ours has
`together: auto`.

    python benchmarks/many_runs.py --model t5-small
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from epochs import MODELS, TARGETS, content_of, without_validation
from peft_side import peft_trainer

from deltatune.comparison.runner import compare
from deltatune.observer import Silent
from deltatune.recipe import parse_recipe
from deltatune.training import Context
from deltatune.training.given.machine import versions

ROWS = 48
TEST_ROWS = 32


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


def measure(model: str) -> dict[str, Any]:
    """Time both."""
    content = without_validation(content_of(model, methods(), epochs=1, test=TEST_ROWS, rows=ROWS))
    content |= {"together": "auto"}
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
        "rows": ROWS,
        "trained_at_once": [row.cost.raced if row.cost else None for row in board.rows],
        "configurations": [method["name"] for method in all_methods],
        "seconds": {"compare": ours, "peft": seconds, "peft_each": [run["seconds"] for run in theirs]},
        "loss": {
            "peft": [run["loss"] for run in theirs],
            "ours": {row.name: (row.metrics or {})["loss"] for row in board.rows},
        },
        "ratio": seconds / ours,
        "versions": versions(),
    }


def main() -> None:
    """Measure one model and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="t5-small")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here as well")
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.model), indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
