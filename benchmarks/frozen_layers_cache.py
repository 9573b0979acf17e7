"""Training with the outputs of frozen layers kept between epochs, against training without.

LoRA on the top quarter of the layers, five epochs; both sides are the same run but for `train.cache_trunk`,
and take turns. The training time of a run counts, with the recording of the outputs.

    python benchmarks/frozen_layers_cache.py --model smollm2-135m
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from epochs import BATCH, content_of

from deltatune.observer import Silent
from deltatune.recipe import parse_recipe
from deltatune.training import Context, run
from deltatune.training.given.machine import versions

EPOCHS = 5
ROWS = {"smollm2-135m": 24, "minilm": 320}
TOP = {
    "smollm2-135m": [f"model.layers.{layer}.*_proj" for layer in range(22, 30)],  # of 30; globs reach below
    "minilm": ["*.layer.5.*.query", "*.layer.5.*.value", "*.layer.4.*.query", "*.layer.4.*.value"],  # of 6
}


def measure(model: str, rounds: int) -> dict[str, Any]:
    """Time both sides in turn."""
    methods = [{"lora": {"r": 8, "targets": TOP[model]}}]
    content = content_of(model, methods, epochs=EPOCHS, test=1)
    steps = EPOCHS * ROWS[model] // BATCH
    content["data"]["limit"]["train"] = ROWS[model]
    content["train"] |= {"evaluate_every": steps, "checkpoint_every": steps}
    recipe = parse_recipe(content)
    context, [entry] = Context.open(recipe, Silent()), recipe.methods
    seconds: dict[str, list[float]] = {"kept": [], "without": []}
    losses: dict[str, float] = {}
    for index in range(rounds):
        for name, kept in (("kept", True), ("without", False)):
            train = entry.train.model_copy(update={"cache_trunk": kept})
            out = Path(tempfile.mkdtemp()) / f"{name}{index}"
            result = run(recipe, entry.model_copy(update={"train": train}), 0, out, context=context)
            seconds[name].append(result.cost.train_seconds)
            losses[name] = result.metrics.validation["loss"]
    return {
        "model": model,
        "epochs": EPOCHS,
        "rows": ROWS[model],
        "targets": TOP[model],
        "seconds": seconds,
        "validation_loss": losses,
        "ratio": statistics.median(
            without / kept for without, kept in zip(seconds["without"], seconds["kept"], strict=True)
        ),
        "versions": versions(),
    }


def main() -> None:
    """Measure one model and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=TOP, default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here as well")
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.model, arguments.rounds), indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
