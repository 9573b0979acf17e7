"""Write the measured tables into docs/measured/performance.md, each between its mark and `<!-- end -->`.

The figures are those in benchmarks/results/.

    python benchmarks/speed_page.py docs/measured/performance.md
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PROCESSORS = {"amx": "AMX, bfloat16", "avx512": "AVX512, bfloat16", "avx2": "AVX2, float32"}
"""What was measured on, as it is called in the names of results and on the page."""


def read(name: str) -> Any:
    """A result by its name."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def goals() -> str:
    """All ratios, beside what was aimed at."""
    every = [read(f"speed_cpu_{name}") for name in PROCESSORS]
    lines = [f"| what | {' | '.join(PROCESSORS.values())} | aimed at |", f"|:--|{'--:|' * len(every)}:--|"]
    for number, one in enumerate(every[0]["table"]):
        ratios = [f"{found['table'][number]['ratio']:.2f}" for found in every]
        lines.append(f"| {one['what']} | {' | '.join(ratios)} | {one['goal']} |")
    v = every[-1]["versions"]
    setting = f"torch {v['torch']}, Transformers {v['transformers']}, {v['threads']} threads"
    minutes = ", ".join(f"{found['seconds'] / 60:.0f}" for found in every)
    return "\n".join([*lines, "", f"{setting}; {minutes} minutes in all."])


FOR_USERS = {
    "an epoch of LoRA: time of peft with the Trainer as it comes, over ours": "Trainer, defaults, over ours",
    "an epoch of LoRA: time of peft with the Trainer tuned by hand, over ours": "tuned by hand, over ours",
    "memory that a step keeps for the backward pass: ours over peft's": "activations and logits, ours over",
}
"""What the page opens with -> how it is called in the results."""
MODELS = {"t5-small": "T5, 77 M", "smollm2-135m": "SmolLM2, 135 M"}


def summary() -> str:
    """The few ratios that a user feels, as ranges over the processors."""
    every = [each for name in PROCESSORS for each in read(f"speed_cpu_{name}")["table"]]
    lines = [f"| | {' | '.join(MODELS.values())} |", f"|:--|{'--:|' * len(MODELS)}"]
    for label, called in FOR_USERS.items():
        cells = []
        for model in MODELS:
            ratios = [each["ratio"] for each in every if model in each["what"] and called in each["what"]]
            cells.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def missed() -> str:
    """Which goals were met, and on which processors they were not."""
    every = {name: read(f"speed_cpu_{name}")["table"] for name in PROCESSORS}
    lines = ["| goal | met with | missed with |", "|:--|:--|:--|"]
    for number, row in enumerate(next(iter(every.values()))):
        if not row["goal"]:
            continue
        word, limit = row["goal"].rsplit(" ", 1)
        sides: dict[bool, list[str]] = {True: [], False: []}
        for name, table in every.items():
            ratio = round(table[number]["ratio"], 2)
            met = ratio >= float(limit) if word == "at least" else ratio <= float(limit)
            sides[met].append(f"{PROCESSORS[name].partition(',')[0]} ({ratio:.2f})")
        cells = " | ".join(", ".join(sides[met]) or "none" for met in (True, False))
        lines.append(f"| {row['what']}: {row['goal']} | {cells} |")
    return "\n".join(lines)


def epochs() -> str:
    """What an epoch takes, and what was learned in it."""
    lines = [
        "| on | rows, tokens | defaults | tuned | ours | loss, ours minus defaults | minus tuned |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for name, processor in PROCESSORS.items():
        for part in read(f"speed_cpu_{name}")["parts"]:
            if part["command"][0] != "epochs.py":
                continue
            found = part["found"]
            seconds = [f"{found['epoch_seconds'][side]:.1f} s" for side in ("defaults", "tuned", "ours")]
            losses = [
                f"{one['difference']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
                for one in (found["loss_ours_minus_defaults"], found["loss_ours_minus_tuned"])
            ]
            size = f"{found['rows']}, {found['tokens']:,}"
            lines.append(" | ".join([f"| {found['model']}, {processor}", size, *seconds, *losses]) + " |")
    return "\n".join(lines)


def shares() -> str:
    """What each optimization is worth."""
    every = {
        f"{found['model']}, {processor}": found["ratios"]
        for name, processor in PROCESSORS.items()
        for path in sorted(RESULTS.glob(f"step_optimizations_{name}_*.json"))
        for found in [read(path.stem)]
    }
    lines = [f"| without | {' | '.join(every)} |", f"|:--|{'--:|' * len(every)}"]
    for name in dict.fromkeys(name for ratios in every.values() for name in ratios):
        cells = []
        for found in every.values():
            ratios = found.get(name)
            of = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
            cells.append(of)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def adapters() -> str:
    """Saving, loading, switching and merging."""
    lines = ["| milliseconds | model | ours | peft | peft over ours |", "|:--|:--|--:|--:|--:|"]
    for path in sorted(RESULTS.glob("adapters_*.json")):
        found = read(path.stem)
        for action, spent in found["milliseconds"].items():
            ratio = found["peft_over_ours"][action]
            times = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}"
            lines.append(
                f"| {action} | {found['model']} | {spent['ours']:.3g} | {spent['peft']:.3g} | {times} |"
            )
    return "\n".join(lines)


def floors() -> str:
    """Steps of the smaller models over the floor."""
    lines = [
        "| model | ours over the floor | over the floor with our lean parts | peft over the floor | "
        "kept, ours over peft |",
        "|:--|--:|--:|--:|--:|",
    ]
    for path in sorted(RESULTS.glob("floor_*.json")):
        found = read(path.stem)
        names = ("ours_over_floor", "ours_over_lean_floor", "peft_over_floor", "kept_ours_over_peft")
        lines.append(f"| {found['model']} | {' | '.join(f'{found[name]:.2f}' for name in names)} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "summary": summary,
    "missed": missed,
    "goals": goals,
    "epochs": epochs,
    "shares": shares,
    "adapters": adapters,
    "floors": floors,
}


def main() -> None:
    """Fill the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path, help="the page, whose tables are written anew")
    page: Path = parser.parse_args().page
    text = page.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        mark = f"<!-- speed: {name} -->"
        if mark not in text:
            continue
        filled = f"{mark}\n{table()}\n<!-- end -->"
        text = re.sub(rf"{re.escape(mark)}\n.*?<!-- end -->", lambda _, f=filled: f, text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
