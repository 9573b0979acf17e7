"""What it is worth to keep the memory that a step frees: two epochs of ours, with and without, in turns.

Each side is a process of its own that trains on the same rows; a ratio is that of neighbouring turns, without
those of the first epoch.

    python benchmarks/memory_kept.py --model t5-small
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from epochs import BATCH, MODELS, recipe_of
from turns import Side, Turns, TurnTaking, take_turns

from deltatune.recipe import Recipe
from deltatune.train import run
from deltatune.train.machine import versions


def train(turns: Turns, recipe: Recipe, folder: Path, keep: bool) -> None:
    """Train with deltatune; without `keep`, freed memory goes back as the C library has it."""
    given_back = mock.patch("deltatune.train.machine.kept_memory", contextlib.nullcontext)
    with contextlib.nullcontext() if keep else given_back:
        run(recipe, recipe.methods[0], 0, folder, observer=TurnTaking(turns))


def measure(model: str, dropout: float) -> dict[str, Any]:
    """Let both take turns of one step."""
    recipe, folder = recipe_of(model, "all-linear", dropout), Path(tempfile.mkdtemp())
    per_epoch = MODELS[model]["rows"] // BATCH
    sides: dict[str, Side] = {
        "kept": (train, (recipe, folder / "kept", True)),
        "given back": (train, (recipe, folder / "given back", False)),
    }
    seconds = take_turns(sides, 1, 2 * per_epoch)
    pairs = zip(seconds["given back"], seconds["kept"], strict=True)
    ratios = [without / kept for without, kept in pairs][per_epoch:-1]  # behind its last, a side evaluates
    results = {name: json.loads((folder / name / "result.json").read_text()) for name in sides}
    return {
        "model": model,
        "seconds_by_turn": seconds,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "peak_memory_bytes": {name: found["cost"]["peak_memory_bytes"] for name, found in results.items()},
        "test_loss": {name: found["metrics"]["test"]["loss"] for name, found in results.items()},
        "versions": versions(),
    }


def main() -> None:
    """Measure one model and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="t5-small")
    parser.add_argument("--dropout", type=float, default=0.05, help="of the LoRA input")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here as well")
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.model, arguments.dropout), indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
