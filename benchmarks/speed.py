"""All measurements of speed on this machine, as one table and one JSON file: what `make bench` runs.

Each part is a script of its own in a process of its own; run it alone for its details. Nothing else should
run on the machine meanwhile: sides take turns, so that a disturbance hits all alike, but a turn is short.

    python benchmarks/speed.py --out benchmarks/results/speed_cpu_avx512.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.training.given.machine import versions

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """A script, and the lines of the table that come of its JSON: (what, ratio, goal)."""

    command: tuple[str, ...]
    lines: Callable[[dict[str, Any]], Iterator[tuple[str, float, str]]]


def epoch_lines(goal: str) -> Callable[[dict[str, Any]], Iterator[tuple[str, float, str]]]:
    """Lines of epochs.py; `goal` is that against the Trainer's defaults."""

    def lines(found: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
        of = f"an epoch of LoRA on {found['model']}: "
        yield of + "peft + Trainer, defaults, over ours", found["ratio_defaults"], goal
        yield of + "peft + Trainer, tuned by hand, over ours", found["ratio_tuned"], "at least 2.5"

    return lines


def floor_lines(found: dict[str, Any]) -> Iterator[tuple[str, float, str]]:
    """Lines of floor.py."""
    of = f"a step on {found['model']}, all linear layers: "
    yield of + "ours over the floor", found["ours_over_floor"], "at most 1.08"
    yield of + "ours over the floor with our lean parts", found["ours_over_lean_floor"], ""
    yield of + "peft over the floor", found["peft_over_floor"], ""
    yield of + "kept activations and logits, ours over peft", found["kept_ours_over_peft"], "at most 0.5"


PARTS = [
    Part(("epochs.py", "--model", "t5-small"), epoch_lines("at least 7")),
    Part(("epochs.py", "--model", "smollm2-135m"), epoch_lines("at least 8")),
    Part(("floor.py", "--model", "t5-small", "--rows", "16", "--rounds", "5"), floor_lines),
    Part(("floor.py", "--model", "smollm2-135m", "--rounds", "5"), floor_lines),
    Part(
        ("many_runs.py", "--model", "t5-small"),
        lambda found: iter([("8 configurations of LoRA: peft over compare", found["ratio"], "at least 4")]),
    ),
    Part(
        ("frozen_layers_cache.py",),
        lambda found: iter(
            [
                (
                    "5 epochs, top quarter of the layers: without the cache of frozen layers over with",
                    found["ratio"],
                    "at least 1.6",
                )
            ]
        ),
    ),
    Part(
        ("start_time.py", "--rounds", "3"),
        lambda found: iter(
            [
                (
                    "start to first step, over importing and loading",
                    found["deltatune_to_floor"],
                    "at most 1.5",
                )
            ]
        ),
    ),
]


def main() -> None:
    """Run all parts, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=None, help="write all results here")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    table: list[tuple[str, float, str]] = []
    started = time.perf_counter()
    for index, part in enumerate(PARTS):
        print(f"[{index + 1}/{len(PARTS)}] {' '.join(part.command)}", file=sys.stderr, flush=True)
        found = measured(part)
        results.append({"command": list(part.command), "found": found})
        table += part.lines(found)
        if arguments.out:  # after every part, so that an interruption costs one
            text = {
                "table": [{"what": what, "ratio": ratio, "goal": goal} for what, ratio, goal in table],
                "seconds": time.perf_counter() - started,
                "versions": versions(),
                "parts": results,
            }
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    width = max(len(what) for what, *_ in table)
    for what, ratio, goal in table:
        print(f"{what:<{width}}  {ratio:6.2f}  {goal}")
    print(f"{(time.perf_counter() - started) / 60:.0f} min")


def measured(part: Part) -> dict[str, Any]:
    """Run a part in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        script, *options = part.command
        command = [sys.executable, str(HERE / script), *options, "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


if __name__ == "__main__":
    main()
