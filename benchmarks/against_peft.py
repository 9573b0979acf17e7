"""LoRA on a T5, ours against peft with the Hugging Face Trainer: quality on the test rows, and wall time.

Both train the same base with the same LoRA settings, optimizer, learning rate, batch size and number of steps
on the same rows, each with its own defaults otherwise. Both deltas are evaluated by the same code: peft's is
loaded from its files. The difference in ROUGE-L gets a paired bootstrap.

    python benchmarks/against_peft.py --train T.jsonl --validation V.jsonl --test E.jsonl --steps 100

The files are JSON lines with `table` and `title`. The two trainings take turns of `--turn` optimizer steps,
each in a process of its own, and each counts only the time of its own turns: what else the machine does hits
both alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from alternating_trainings import Turns, TurnTaking, take_turns

from deltatune.checkpoint.store import load_adapter
from deltatune.comparison.statistics import bootstrap_interval, paired_bootstrap
from deltatune.evaluation import evaluate
from deltatune.observer import Silent
from deltatune.recipe import Recipe, parse_recipe
from deltatune.results import RunResult
from deltatune.training import Context, run
from deltatune.training.given.machine import versions

LORA = {"r": 8, "alpha": 32, "dropout": 0.1, "targets": ["query", "value"]}


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that both sides follow; the study's settings, cut to `--steps`."""
    return parse_recipe(
        {
            "task": "text-to-text",
            "model": arguments.model,
            "data": {
                **{part: str(getattr(arguments, part)) for part in ("train", "validation", "test")},
                "columns": {"input": "table", "target": "title"},
                "template": arguments.template,
                "max_input_tokens": arguments.max_input_tokens,
                "max_target_tokens": 64,
                "limit": {"train": arguments.rows, "validation": 100},
            },
            "methods": ["untuned", {"lora": LORA, "name": "ours"}],
            "train": {
                "epochs": 1000, "max_steps": arguments.steps, "batch_size": 16, "lr": 1e-3, "warmup": 0.0,
                "evaluate_every": arguments.steps,
            },
            "evaluation": {"max_new_tokens": 48},
        }
    )  # fmt: skip


def with_ours(turns: Turns, recipe: Recipe, out: Path) -> None:
    """Train and evaluate with deltatune."""
    run(recipe, recipe.methods[1], 0, out / "ours", observer=TurnTaking(turns))


def with_peft(turns: Turns, recipe: Recipe, out: Path) -> None:
    """Train with peft and the Trainer's defaults; save the adapter."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import (
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        TrainerCallback,
    )

    from deltatune.models.load import load_base

    base = load_base(recipe.model, recipe.task, None)
    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM, r=8, lora_alpha=32, lora_dropout=0.1, target_modules=["q", "v"]
    )
    model = get_peft_model(base.model, config)
    context, entry = Context.open(recipe, Silent()), recipe.methods[0]
    features = context.data(entry, context.base(entry)).encoded("train").features
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(out / "trainer"), max_steps=recipe.train.max_steps or 0, learning_rate=1e-3,
        per_device_train_batch_size=16, save_strategy="no", report_to=[], logging_steps=10, seed=0,
        use_cpu=not torch.cuda.is_available(), disable_tqdm=True,
    )  # fmt: skip

    class TakeTurns(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.step()

    trainer = Seq2SeqTrainer(
        model,
        arguments,
        train_dataset=features,
        data_collator=DataCollatorForSeq2Seq(base.processor, model),
        callbacks=[TakeTurns()],
    )
    turns.begin()
    trainer.train()
    model.save_pretrained(out / "peft")


def main() -> None:
    """Run both sides and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for part in ("train", "validation", "test"):
        parser.add_argument(f"--{part}", type=Path, required=True)
    parser.add_argument("--model", default="bundled:t5-small")
    parser.add_argument("--template", default="title: {table}")
    parser.add_argument("--rows", type=int, default=None, help="training rows; default all")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--turn", type=int, default=10, help="optimizer steps of a turn")
    parser.add_argument("--max-input-tokens", type=int, default=512)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here as well")
    arguments = parser.parse_args()
    recipe = recipe_of(arguments)
    folder = Path(tempfile.mkdtemp())
    context = Context.open(recipe, Silent())
    found: dict[str, Any] = {"recipe": recipe.dump(), "versions": versions()}
    untuned = run(recipe, recipe.methods[0], 0, folder / "untuned", context=context)
    assert isinstance(untuned, RunResult)  # nothing pauses it
    seconds = take_turns(
        {"peft": (with_peft, (recipe, folder)), "ours": (with_ours, (recipe, folder))},
        arguments.turn,
        arguments.steps,
    )
    ours = json.loads((folder / "ours" / "result.json").read_text(encoding="utf-8"))
    entry = recipe.methods[1]
    base = context.base(entry)
    model = base.adapted()
    load_adapter(model, folder / "peft", "peft")
    model.eval()
    data = context.data(entry, base)
    test = data.encoded("test")
    theirs = evaluate(model, data.dataset.test, test, data.encoder, recipe.evaluation)
    scores = {
        name: [
            json.loads(line)["scores"]["rougeL_f"] for line in (folder / name / "predictions.jsonl").open()
        ]
        for name in ("untuned", "ours")
    }
    scores["peft"] = [p.scores["rougeL_f"] for p in theirs.predictions]
    found["metrics"] = {
        "untuned": untuned.metrics.test, "ours": ours["metrics"]["test"], "peft": theirs.metrics,
    }  # fmt: skip
    found["rougeL_f"] = {name: list(bootstrap_interval(values)) for name, values in scores.items()}
    found["ours_minus_peft"] = paired_bootstrap(scores["ours"], scores["peft"])._asdict()
    found["seconds_by_turn"] = seconds
    found["train_seconds"] = {name: sum(values) for name, values in seconds.items()}
    found["ratio_peft_over_ours"] = statistics.median(
        theirs / own for theirs, own in zip(seconds["peft"], seconds["ours"], strict=True)
    )
    found["examples"] = [{"reference": p.reference, "peft": p.prediction} for p in theirs.predictions[:10]]
    text = json.dumps(found, indent=2, ensure_ascii=False)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
