"""How long it takes from the command to the first optimizer step, beside what no program can do without.

Every start is a process of its own, in turn with the others; files are warm, since a first round does not
count. The clock starts before the process does and stops when its first step is done, or when what it should
load is loaded; what follows is cut off.

    floor      imports torch and the model's class, and calls from_pretrained
    weights    imports torch and reads the weights with safetensors
    deltatune  `deltatune train`, to the first line of metrics.jsonl
    peft       peft and the Hugging Face Trainer on the same rows, to the end of its first step

    python benchmarks/start_time.py            # a few minutes; leave the machine alone meanwhile
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deltatune.models.bundled import resolve

RESULT = Path(__file__).parent / "results" / "start_time.json"
PATIENCE = 120
"""Seconds after which a start counts as failed."""

FLOOR = """
import sys, torch
from transformers import BertForSequenceClassification
BertForSequenceClassification.from_pretrained(sys.argv[1])
open(sys.argv[2], "w").write("loaded")
"""
WEIGHTS = """
import sys, torch
from safetensors.torch import load_file
load_file(sys.argv[1] + "/model.safetensors")
open(sys.argv[2], "w").write("loaded")
"""
PEFT = """
import csv, sys, tempfile
from peft import LoraConfig, get_peft_model
from transformers import (AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer,
                          TrainerCallback, TrainingArguments)

class FirstStep(TrainerCallback):
    def on_step_end(self, args, state, control, **rest):
        open(sys.argv[2], "w").write("step")

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
rows = list(csv.DictReader(open(sys.argv[3], newline="")))
names = sorted({row["label"] for row in rows})
features = [
    {**tokenizer(row["text"], truncation=True, max_length=64), "labels": names.index(row["label"])}
    for row in rows[: len(rows) * 8 // 10]
]
base = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=len(names))
model = get_peft_model(base, LoraConfig(r=8, target_modules=["query", "value"], task_type="SEQ_CLS"))
arguments = TrainingArguments(tempfile.mkdtemp(), per_device_train_batch_size=32, max_steps=1000,
                              report_to=[], disable_tqdm=True, use_cpu=True)
Trainer(model, arguments, train_dataset=features, callbacks=[FirstStep()],
        data_collator=DataCollatorWithPadding(tokenizer)).train()
"""
RECIPE = """
task: text-classification
model: bundled:minilm
data:
  source: reviews.csv
  split: {validation: 0.1, test: 0.1, seed: 0}
  columns: {input: text, target: label}
  max_input_tokens: 64
methods:
  - lora: {r: 8, targets: [query, value]}
train: {max_steps: 1000, batch_size: 32}
"""


def write_inputs(folder: Path, rows: int) -> None:
    """A recipe, and made-up reviews of 8 to 40 words."""
    draw = random.Random(0)
    common = "the film story actors plot scene music a with and of this that was it very long night man city"
    own = {"good": ["moving", "bright", "funny", "warm"], "bad": ["dull", "flat", "lazy", "grim"]}
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as handle:
        lines = csv.writer(handle)
        lines.writerow(["text", "label"])
        for number in range(rows):
            label = ("bad", "good")[number % 2]
            words = draw.choices(common.split(), k=draw.randint(6, 38)) + draw.choices(own[label], k=2)
            draw.shuffle(words)
            lines.writerow([" ".join(words), label])
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")


def seconds_until(command: list[str], sign: Path) -> float:
    """Start a process, wait until the file `sign` has content, and end the process.

    Raises:
        RuntimeError: It ended before, or took too long.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        try:
            while not (sign.exists() and sign.stat().st_size):
                ended = process.poll() is not None and not sign.exists()
                if ended or time.perf_counter() - started > PATIENCE:
                    said.seek(0)
                    raise RuntimeError(f"{command[:4]} did not start:\n{said.read().decode()[-2000:]}")
                time.sleep(0.002)
            return time.perf_counter() - started
        finally:
            process.kill()
            process.wait()


def commands(model: Path, inputs: Path, out: Path, *, with_peft: bool) -> dict[str, tuple[list[str], Path]]:
    """Each thing to start, and the file that tells that it is there."""
    python, sign = sys.executable, out / "sign"
    found = {
        "floor": ([python, "-c", FLOOR, str(model), str(sign)], sign),
        "weights": ([python, "-c", WEIGHTS, str(model), str(sign)], sign),
        "deltatune": (
            [python, "-m", "deltatune", "train", str(inputs / "recipe.yaml"), "--out", str(out / "run")],
            out / "run" / "metrics.jsonl",
        ),
    }
    if with_peft:
        found["peft"] = ([python, "-c", PEFT, str(model), str(sign), str(inputs / "reviews.csv")], sign)
    return found


def measure(model: Path, inputs: Path, rounds: int, *, with_peft: bool) -> dict[str, list[float]]:
    """Seconds of every start; the first round warms the files and is left out."""
    seconds: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name in commands(model, inputs, inputs, with_peft=with_peft):
            with tempfile.TemporaryDirectory() as out:
                took = seconds_until(*commands(model, inputs, Path(out), with_peft=with_peft)[name])
            if number:
                seconds.setdefault(name, []).append(took)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1000, help="rows of the data, training rows being 80 %%")
    parser.add_argument("--without-peft", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), arguments.rows)
        model = Path(resolve("bundled:minilm"))
        seconds = measure(model, Path(folder), arguments.rounds, with_peft=not arguments.without_peft)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'':12}{'median':>9}{'least':>9}{'to floor':>10}")
    for name, values in seconds.items():
        ratio = medians[name] / medians["floor"]
        print(f"{name:12}{medians[name]:7.2f} s{min(values):7.2f} s{ratio:10.2f}")
    found: dict[str, Any] = {
        "rows": arguments.rows,
        "seconds": seconds,
        "medians": medians,
        "deltatune_to_floor": medians["deltatune"] / medians["floor"],
        "versions": {"python": platform.python_version(), **_versions()},
        "cores": os.cpu_count(),
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {}
    for package in ("torch", "transformers", "peft"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


if __name__ == "__main__":
    main()
