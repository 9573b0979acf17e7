"""A comparison of eight LoRA configurations: one process with all threads, and workers with a share each.

Both sides are whole commands, from their start to the leaderboard: `deltatune compare` with as many threads
as there are cores, and `deltatune compare --workers N`, whose workers get their part of the cores. They take
turns, and every second round begins with the other side. Times are wall time; the ratio of a model is the
median of its rounds' ratios. The test losses of both sides are compared: they differ by rounding, since sums
of other numbers of threads do.

A round takes about two minutes (T5), four (SmolLM2) and one (MiniLM) on two idle cores. What has been timed
is in the file at once: the same command goes on behind it, and `--rounds` may grow.

    python benchmarks/workers.py --rounds 5 --out benchmarks/results/workers.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from epochs import MODELS, content_of, without_validation
from many_runs import ROWS, TEST_ROWS, methods

from deltatune.files import write_json
from deltatune.training.given.machine import versions

SIDES = ("threads", "workers")


def one_side(recipe: Path, side: str, cores: int, workers: int) -> dict[str, Any]:
    """Run a side's command: its seconds, and the test losses by configuration."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "deltatune", "compare", str(recipe), "--out", str(out), "--json"]
        command += ["--workers", str(workers)] if side == "workers" else []
        environment = os.environ | {"OMP_NUM_THREADS": str(cores)}
        started = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-2000:]}")
        rows = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))["rows"]
    return {"seconds": seconds, "losses": {row["name"]: row["metrics"]["loss"] for row in rows}}


def measure(model: str, found: dict[str, Any], arguments: argparse.Namespace, cores: int) -> None:
    """Time what a model's rounds lack, and write the file after each command."""
    content = without_validation(
        content_of(
            model, methods()[: arguments.configurations], epochs=1, test=TEST_ROWS, rows=arguments.rows
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
        rounds = found["models"].setdefault(model, {"rounds": []})["rounds"]
        for number in range(arguments.rounds):
            if number == len(rounds):
                rounds.append({})
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                if side not in rounds[number]:
                    rounds[number][side] = one_side(recipe, side, cores, arguments.workers)
                    seconds = rounds[number][side]["seconds"]
                    print(f"{model}, round {number + 1}, {side}: {seconds:.1f} s", flush=True)
                    found["models"][model] |= summary(rounds)
                    write_json(arguments.out, found)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the rounds that are complete, and how far the losses of the two sides are apart."""
    whole = [both for both in rounds if len(both) == len(SIDES)]
    if not whole:
        return {}
    ratios = [both["workers"]["seconds"] / both["threads"]["seconds"] for both in whole]
    apart = [
        abs(both["workers"]["losses"][name] - loss) / loss
        for both in whole
        for name, loss in both["threads"]["losses"].items()
    ]
    return {
        "seconds": {side: statistics.median(both[side]["seconds"] for both in whole) for side in SIDES},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "losses_apart": max(apart),
    }


def processor() -> str:
    """Its name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    """Measure the models, and print their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--configurations", type=int, default=len(methods()), help="fewer, for a trial")
    parser.add_argument("--rows", type=int, default=ROWS, help="training rows; fewer, for a trial")
    parser.add_argument("--out", type=Path, default=Path("out/workers.json"))
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    about = {
        "processor": processor(), "cores": cores, "workers": arguments.workers, "rows": arguments.rows,
        "configurations": arguments.configurations, "versions": versions(),
    }  # fmt: skip
    found = {"about": about, "models": {}}
    if arguments.out.exists():
        found = json.loads(arguments.out.read_text(encoding="utf-8"))
        if other := [key for key in about if key != "versions" and found["about"][key] != about[key]]:
            raise SystemExit(
                f"{arguments.out} was measured with other {', '.join(other)}: name another --out."
            )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for model in arguments.models:
        measure(model, found, arguments, cores)
    for model, about_model in found["models"].items():
        print(f"{model}: workers take {about_model['ratio']:.2f} of the time of threads")


if __name__ == "__main__":
    main()
