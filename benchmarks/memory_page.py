"""Write docs/measured/memory.md and its figure from memory_accuracy.json and predictions.

Bundled models are measured, published ones up to 540B are predicted.

    python benchmarks/memory_accuracy.py      # its table is in the page
    python benchmarks/memory_page.py          # about two minutes on two cores

Needs the bundled models, and bitsandbytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from memory_accuracy import RESULT, measured_step

from deltatune.core.attention import EAGER_UP_TO
from deltatune.data.encode import Encoded, EncodeReport
from deltatune.memory.base import is_untied
from deltatune.memory.batch import largest_micro_batch
from deltatune.memory.predict import Setup, predict
from deltatune.memory.scale import predict_scaled
from deltatune.memory.shapes import SHAPES, shape_named, shape_recipe
from deltatune.methods import METHODS
from deltatune.models.load import load_base
from deltatune.recipe import parse_recipe
from deltatune.recipe.base_sections import ModelSpec, QuantizationSpec
from deltatune.recipe.train_section import TrainSpec
from deltatune.report import display
from deltatune.report.stacked import NOTES, PARTS, Bar, standalone
from deltatune.tasks.shapes import BatchShape
from deltatune.training.before.forecast import forecast

DOCS = Path(__file__).parents[1] / "docs" / "measured"
TEMPLATE = Path(__file__).parent / "memory_page.md"
BUNDLED = (("bundled:t5-small", "text-to-text"), ("bundled:smollm2-135m", "causal-lm"))
LLAMAS = ("llama-7b", "llama-13b", "llama-33b", "llama-65b")
STUDIED = (
    "gpt-3-175b", "pangu-alpha-207b", "opt-175b", "palm-540b", "bloom-176b", "mt-nlg-530b", "gopher-280b",
    "chinchilla-70b", "galactica-120b", "lamda-137b", "jurassic-1-178b", "llama-65b", "glm-130b", "t5-11b",
)  # fmt: skip
"""The models of a table of large language models that a study of these methods prints."""
ROWS, LENGTH = 4, 96
NF4 = QuantizationSpec(format="nf4")


def methods(rank: int) -> dict[str, tuple[Any, QuantizationSpec | None]]:
    """Full fine-tuning, LoRA of all linear layers, and the same on four bits."""
    lora = METHODS.get("lora")(r=rank, targets=("all-linear",))
    return {"full": (METHODS.get("full")(), None), "LoRA": (lora, None), "QLoRA": (lora, NF4)}


def rows_of(task: str) -> Encoded:
    """Three batches of rows of up to `LENGTH` tokens, of which a quarter are learned."""
    features: list[dict[str, Any]] = []
    for index in range(3 * ROWS):
        n = LENGTH - index % 8
        ids = [3 + (index + place) % 900 for place in range(n)]
        extra = {"labels": ids[: n // 4]} if task == "text-to-text" else {"prompt_length": n - n // 4}
        features.append({"input_ids": ids, **extra})
    lengths = [len(f["input_ids"]) + len(f.get("labels", [])) for f in features]
    return Encoded(features, lengths, EncodeReport(len(features), 0, 0, 0))


def bundled(name: str, task: str) -> list[dict[str, Any]]:
    """Measured and predicted memory of each method."""
    found = []
    train, encoded = TrainSpec(epochs=1, batch_size=ROWS), rows_of(task)
    largest = largest_micro_batch(encoded, task, train, 0, after_first=True)
    for label, (method, bits) in methods(8).items():
        base = load_base(ModelSpec(name=name), task, None, dtype="bfloat16", quantization=bits).model
        setup = Setup(
            base.config, task, method, largest.shape, exact=largest.step, dtype="bfloat16", quantization=bits,
            untied=is_untied(base), eager_up_to=EAGER_UP_TO,
        )  # fmt: skip
        predicted = predict(setup).memory.as_dict()
        measured = measured_step(base, method, task, encoded, train)
        found.append({"model": name, "method": label, "predicted": predicted, "measured": measured})
        print(name, label, predicted["total"], measured["total"], flush=True)
    return found


def published(name: str) -> list[dict[str, Any]]:
    """Predicted memory of each method, a row of 512 tokens with checkpointing."""
    config, found = shape_named(name), []
    for label, (method, bits) in methods(64).items():
        setup = Setup(
            config, "causal-lm", method, BatchShape(1, 512, 0, 128), dtype="bfloat16", quantization=bits,
            checkpointing=True,
        )  # fmt: skip
        memory = predict_scaled(setup).memory.as_dict()
        found.append({"model": name, "method": label, "predicted": memory})
        print(name, label, memory["total"], flush=True)
    return found


def table(rows: list[dict[str, Any]], key: str) -> str:
    """A Markdown table of parts."""
    lines = [f"| model | method | {' | '.join(PARTS)} | total |", f"|---|---|{'---:|' * (len(PARTS) + 1)}"]
    for row in rows:
        cells = [display.size(row[key][part]) for part in (*PARTS, "total")]
        lines.append(f"| {row['model']} | {row['method']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def studied(names: tuple[str, ...] = STUDIED) -> str:
    """A Markdown table of what `deltatune plan --shape NAME` says, and of the shapes."""
    lines = [
        "| shape | published | counted | layers x width | full | LoRA | QLoRA | planned as | source |",
        "|---|---:|---:|---|---:|---:|---:|---|---|",
    ]
    for name in names:
        shape, config = SHAPES[name], shape_named(name)
        plan = forecast(parse_recipe(shape_recipe(name)), shape=name, memory=10**15)
        sizes = [display.size(entry.memory.total) for entry in plan.planned]
        count = f"{plan.planned[0].total_parameters / 1e9:.1f}B"
        count += f" and {shape.lacks / 1e9:.1f}B that it lacks" if shape.lacks else ""
        size = f"{config.num_hidden_layers} x {config.hidden_size:,}"
        published = shape.published + ("" if shape.embeddings_counted else " beside embeddings")
        cells = [name, published, count, size, *sizes, shape.stands_for or "itself", shape.source]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def accuracy() -> tuple[str, dict[str, Any]]:
    """The table of memory_accuracy.py."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    lines = ["| case | predicted | measured | error |", "|---|---:|---:|---:|"]
    for row in found["rows"]:
        totals = [f"{row[key]['total'] / 1e6:.2f} MB" for key in ("predicted", "measured")]
        lines.append(f"| {row['case']} | {' | '.join(totals)} | {row['error']:+.3%} |")
    return "\n".join(lines), found


def main() -> None:
    """Write the page and the figure."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(min(torch.get_num_threads(), 2))
    small = [row for name, task in BUNDLED for row in bundled(name, task)]
    large = [row for name in LLAMAS for row in published(name)]
    groups = [
        (f"{title}", [Bar(row["method"], row[key]) for row in rows if row["model"] == name])
        for rows, key, names, how in (
            (small, "measured", [name for name, _ in BUNDLED], f"measured, {ROWS} rows of {LENGTH} tokens"),
            (large, "predicted", LLAMAS, "predicted, a row of 512 tokens, checkpointing"),
        )
        for name in names
        for title in [f"{name} ({how})"]
    ]
    (DOCS / "memory.svg").write_text(standalone(groups, "What the memory of a training step is for"), "utf-8")
    cases, found = accuracy()
    errors = [abs(row["predicted"]["total"] / row["measured"]["total"] - 1) for row in small]
    page = TEMPLATE.read_text(encoding="utf-8").format(
        cases=cases, count=found["cases"], median=f"{found['median_error']:.3%}",
        worst=f"{found['worst_error']:.3%}", torch=found["torch"], small=table(small, "measured"),
        large=table(large, "predicted"), studied=studied(), bundled=f"{max(errors):.3%}",
        rows=ROWS, length=LENGTH,
        notes="\n".join(f"- **{part}**: {note}." for part, note in NOTES.items()),
    )  # fmt: skip
    (DOCS / "memory.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
