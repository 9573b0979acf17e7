"""What becomes of each method in each form that a run can be exported to, on tiny bases.

Each method is trained for a few steps on a tiny Llama, which continues texts, and on a tiny BERT, which tells
classes apart, and is exported to every target of the registry. A cell says whether the export is exact; or
how much of the update's energy it keeps (at rank 8 of 32), with the largest difference of a logit as a share
of what the delta does; or that it is refused. What is trained has no meaning; forms do not depend on that.

    python benchmarks/exports.py --out benchmarks/results/exports.json --page docs/how-to/export.md
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

from deltatune.errors import DeltatuneError
from deltatune.exporting import TARGETS
from deltatune.exporting.export import export
from deltatune.exporting.target import Settings
from deltatune.methods import METHODS
from deltatune.recipe import parse_recipe
from deltatune.results import Exported
from deltatune.testing.folders import save_tiny
from deltatune.training import run as train_run
from deltatune.training.given.machine import versions

BASES: dict[Literal["llama", "bert"], str] = {"llama": "causal-lm", "bert": "text-classification"}
CAPTIONS = {"llama": "A tiny Llama that continues texts", "bert": "A tiny BERT that tells classes apart"}
RANK, ROWS = 8, 40
WORDS = ("medals", "goals", "songs", "ships", "stars", "rivers", "books", "trains")
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "peft": {"peft_type": "LOHA", "r": 4},
    "prefix": {"n_tokens": 4},
    "prompt": {"n_tokens": 4},
    "p_tuning": {"n_tokens": 4},
    "p_tuning_v2": {"n_tokens": 4},
    "lora": {"r": 4},
    "dora": {"r": 4},
    "pissa": {"r": 4},
    "lora_plus": {"r": 4},
    "lora_fa": {"r": 4},
    "vera": {"r": 32},
    "diff_pruning": {"density": 0.05},
    "shira": {"r": 4},
    "miss": {"r": 8},
}
"""Of the methods that are trained otherwise than by default."""
LEFT_OUT = {
    "untuned": "trains nothing",
    "majority": "trains nothing",
    "loftq": "needs a quantized base; what it saves is lora",
    "hard_prompt": "finds a text, which any program can be given",
}
MARK = "<!-- exports: table -->"


def recipe(folder: Path, base: Literal["llama", "bert"], method: str) -> Any:
    """A recipe of a few steps."""
    data = {
        "source": str(folder / "rows.jsonl"),
        "columns": {"input": "text", "target": "title", "id": "id"},
        "split": {"validation": 0.2, "test": 0.3},
    }
    return parse_recipe(
        {
            "task": BASES[base],
            "model": str(folder / base),
            "data": data,
            "methods": [{method: SETTINGS.get(method, {})}],
            "train": {"max_steps": 30, "batch_size": 8, "lr": 0.02, "precision": "fp32"},
            "evaluation": {"batch_size": 12, "max_new_tokens": 4},
        }
    )


def cell(run: Path, out: Path, target: str) -> dict[str, Any]:
    """What becomes of a run."""
    options = TARGETS.get(target).options
    settings = Settings(rank=RANK if "rank" in options else None)
    try:
        done = export(run, out, target=target, settings=settings)
    except DeltatuneError as error:
        return {"found": "refused", "why": error.what}
    return {"found": "exact" if done.exact else "cut", **measured(done)}


def measured(done: Exported) -> dict[str, Any]:
    """The numbers of an export."""
    numbers: dict[str, Any] = {"kept": done.kept, "left_out": [part.parameter for part in done.left_out]}
    for each in done.compared:
        program = each.computed_by.split()[0]
        numbers |= {f"difference_in_{program}": each.largest_difference, "effect": each.effect}
    if done.metric is not None:
        numbers["metric"] = done.metric.as_dict()
    return numbers


def measure(folder: Path) -> dict[str, Any]:
    """All cells, by base, method and target."""
    rows = [{"id": f"{i}", "text": f"{i} of the {WORDS[i % 8]}", "title": WORDS[i % 8]} for i in range(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    begin = importlib.import_module("deltatune.training.single.begin")
    vars(begin)["predicted_run"] = lambda *_: None  # which takes longer than a run
    cells: dict[str, Any] = {}
    for base in BASES:
        save_tiny(base, folder / base)
        for method in METHODS.names():
            if method in LEFT_OUT:
                continue
            run = folder / "runs" / f"{base}-{method}"
            made = recipe(folder, base, method)
            try:
                train_run(made, made.methods[0], 0, run)
            except DeltatuneError as error:
                print(f"{base} {method}: {error.what}")
                continue
            found = {name: cell(run, folder / f"{base}-{method}-{name}", name) for name in TARGETS.names()}
            cells.setdefault(base, {})[method] = found
            print(base, method, {name: each["found"] for name, each in found.items()}, flush=True)
    return cells


def words(found: dict[str, Any]) -> str:
    """A cell of the table."""
    if found["found"] != "cut":
        return "exact" if found["found"] == "exact" else "\u2013"
    off = max(value for name, value in found.items() if name.startswith("difference_in_"))
    off_by = f"off by {percents(off / found['effect'])}"
    return off_by if found["kept"] == 1 else f"{percents(found['kept'])}, {off_by}"


def percents(share: float) -> str:
    """Percents without decimals, but where that would read as none or as all."""
    if 0.995 <= share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def table(results: dict[str, Any]) -> str:
    """Both tables in Markdown."""
    lines: list[str] = []
    for base, methods in results["cells"].items():
        targets = list(next(iter(methods.values())))
        head = [f"`{target}`" for target in targets]
        lines += [
            f"**{CAPTIONS[base]}**",
            "",
            f"| method | {' | '.join(head)} |",
            f"|:--|{':--|' * len(head)}",
        ]
        for method, found in methods.items():
            lines.append(f"| `{method}` | {' | '.join(words(found[target]) for target in targets)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--out", type=Path, help="JSON file to write; what is there is read with --page alone"
    )
    parser.add_argument("--page", type=Path, help="Markdown page to write the tables into")
    parser.add_argument("--read", action="store_true", help="write the page from what --out holds already")
    options = parser.parse_args()
    if options.read:
        results = json.loads(options.out.read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = {"rank": RANK, "versions": versions(), "cells": measure(Path(folder))}
    if options.out and not options.read:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.page:
        text, filled = options.page.read_text(encoding="utf-8"), f"{MARK}\n{table(results)}\n<!-- end -->"
        text = re.sub(rf"{re.escape(MARK)}\n.*?<!-- end -->", lambda _: filled, text, flags=re.DOTALL)
        options.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
