"""All that a GPU has to tell, in one command whose pieces take less than ten minutes each.

    python benchmarks/gpu.py --out out/gpu               go on with what is not measured yet, for nine minutes
    python benchmarks/gpu.py --out out/gpu memory steps   these sections
    python benchmarks/gpu.py --out out/gpu --dry-run     tiny shapes on the CPU: does the script itself work?

Every finding is a line of JSON in OUT/gpu.jsonl. Sections come in the order in which one would make the next
worthless: first whether the device computes the same as the CPU, then what it waits for, then how fast it is.
If `place` finds anything that is not the same, nothing after it is begun. Called again, finished sections are
left out.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from gpu_bench import Bench, clear
from gpu_compile import compiled_layers
from gpu_correct import env, place, resume, waits
from gpu_kernels import attention, low_rank_kernels, step_kernels
from gpu_speed import (
    dropout,
    frozen_layers,
    generation,
    loss_rows,
    memory,
    multi_run,
    quantized,
    rate,
    steps,
)  # fmt: skip

from deltatune.core.devices import device_of

_IN_ORDER = (
    env, place, waits, resume, rate, steps, memory, loss_rows, dropout, low_rank_kernels, step_kernels,
    attention, compiled_layers, multi_run, frozen_layers, generation, quantized,
)  # fmt: skip
SECTIONS: dict[str, Callable[[Bench], None]] = {section.__name__: section for section in _IN_ORDER}


def main(arguments: list[str] | None = None) -> None:
    """Measure; see above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", choices=[[], *SECTIONS], help=f"default: all: {', '.join(SECTIONS)}"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=9.0, help="no section is begun after so many")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(device_of("cpu" if given.dry_run else given.device), given.out, given.dry_run)
    finished = _finished(given.out / "gpu.jsonl")
    begun = time.monotonic()
    for name in given.sections or [name for name in SECTIONS if name not in finished]:
        if time.monotonic() - begun > 60 * given.minutes:
            print(f"{name} and what follows is for the next call.")
            return
        bench.section, started = name, time.monotonic()
        try:
            SECTIONS[name](bench)
            bench.say(finished=True, seconds=round(time.monotonic() - started, 1))
        except Exception as error:  # one section that fails must not end the session
            at = traceback.format_exc().splitlines()[-3:]
            bench.say(error=f"{type(error).__name__}: {error}"[:400], at=at)
        clear(bench)


def _finished(path: Path) -> set[str]:
    if not path.exists():
        return set()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["section"] for line in lines if line.get("finished")}


if __name__ == "__main__":
    main()
