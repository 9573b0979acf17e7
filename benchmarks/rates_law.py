"""What would a rule for learning rates have lost, on bases that had no part in making it?

    python benchmarks/rates_law.py benchmarks/results/rates.json benchmarks/results/record_grids_*.npz

Reads what `rates.py` measured, and grids that `record_grids.py` recorded. A case is one method on one task
with one number of steps: the mean loss over seeds at each rate. Between two rates half a decade apart the
loss is interpolated over the logarithm of the rate; behind the last rate nothing is known, and the last one
counts.

For each case: the loss at the method's own rate (`default_lr`), at that of `train.lr: auto`, and of the
best of three rates around either (`tune: {lr: 3}`), each over the lowest of the whole grid, in per cent of
it. Then the rule is fitted anew without each base in turn, on cases of texts, as the rule is for these
alone: the exponent and the number of steps from which on it is off, alike for all methods, and how many
times its own rate a method bears (the least that loses no more than 2 % over the best, since too high a
rate costs more than one that is too low). What that loses on the base left out is `held out`. Written as
JSON with --out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deltatune.files import write_json
from deltatune.methods import METHODS
from deltatune.recipe.rates import Course, auto_rate
from deltatune.tasks import TASKS

NARROW = 512
"""A width that the rule holds for."""
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
LONGS = (128, 256, 512, 1024)
TIMES = (1.0, 2.0, 3.0, 5.0, 10.0)
SLACK = 2.0
"""Per cent of loss."""


class Case(NamedTuple):
    """One method on one task."""

    task: str
    model: str
    reads: str
    """`text` or `images`."""
    series: str
    """The method, and its settings where they are not the defaults."""
    steps: int
    losses: Mapping[float, float]
    """By rate."""

    @property
    def method(self) -> str:
        """Its name."""
        return self.series.split()[0]

    @property
    def own(self) -> float:
        """The method's rate for long runs."""
        return METHODS.get(self.method).default_lr

    @property
    def best(self) -> float:
        """The lowest loss of the grid."""
        return min(self.losses.values())

    def loss(self, rate: float) -> float:
        """At a rate, interpolated."""
        rates = sorted(self.losses)
        logs = [math.log(each) for each in rates]
        return float(np.interp(math.log(rate), logs, [self.losses[each] for each in rates]))

    def behind(self, rates: Iterable[float]) -> float:
        """By how many per cent the best of these rates is behind the best of the grid."""
        return 100 * (min(map(self.loss, rates)) / self.best - 1)


def cases_of(content: Mapping[str, Any]) -> list[Case]:
    """The cases of a file that rates.py wrote."""
    found = []
    for task, setting in content.items():
        model = setting["model"]
        model = model if isinstance(model, str) else model["name"]
        by: dict[tuple[str, int], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for series, rate, steps, _, loss, _ in setting["runs"]:
            by[series, steps][rate].append(math.inf if loss is None else loss)
        for (series, steps), rates in by.items():
            found.append(Case(task, model, TASKS.get(setting["task"]).reads, series, steps, _means(rates)))
    return [case for case in found if len(case.losses) > 2]


def recorded(path: Path) -> list[Case]:
    """The cases of a recorded grid: its entries that differ in nothing but the rate."""
    with np.load(path) as record:
        about = json.loads(str(record["about"]))
        last = record["losses"][:, -1].astype(np.float64).sum(axis=1) / about["labels"]
    by: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run_, loss in zip(about["runs"], last, strict=True):
        if run_["lr"] is not None:
            settings = " ".join(part for part in run_["name"].split() if not part.startswith("lr="))
            by[settings][run_["lr"]].append(float(loss))
    task = path.stem.removeprefix("record_grids_")
    model, reads = about["model"], TASKS.get(about["task"]).reads
    found = [Case(task, model, reads, name, about["steps"], _means(by[name])) for name in by]
    return [case for case in found if len(case.losses) > 2]


def _means(rates: Mapping[float, Sequence[float]]) -> dict[float, float]:
    """Mean losses; a run that failed has the worst loss of its case."""
    known = {rate: statistics.fmean(losses) for rate, losses in rates.items()}
    worst = max((loss for loss in known.values() if math.isfinite(loss)), default=math.inf)
    return {rate: loss if math.isfinite(loss) else worst for rate, loss in known.items()}


Rule = Callable[[Case], float]


def own(case: Case) -> float:
    """The rate for long runs, at any number of steps."""
    return case.own


def auto(case: Case) -> float:
    """The rate of `train.lr: auto`."""
    return auto_rate(METHODS.get(case.method), Course(case.steps, case.reads, NARROW))


def around(rate: float) -> list[float]:
    """Those of `tune: {lr: 3}`."""
    return [rate / 3, rate, rate * 3]


def fitted(cases: Sequence[Case]) -> Rule:
    """The rule that loses least on these cases; a method that has none learns at its own rate."""
    shapes = list(itertools.product(EXPONENTS, LONGS))

    def rule(exponent: float, long: int, times: float) -> Rule:
        def rate(case: Case) -> float:
            return case.own * (1.0 if case.reads == "images" else max(1.0, min(times, _far(case))))

        def _far(case: Case) -> float:
            return float((long / case.steps) ** exponent)

        return rate

    def lost(of: Sequence[Case], each: Rule) -> float:
        return statistics.fmean(case.behind([each(case)]) for case in of)

    texts = [case for case in cases if case.reads == "text"]
    methods = {case.method: [other for other in texts if other.method == case.method] for case in texts}
    best: tuple[float, tuple[float, int], dict[str, float]] | None = None
    for exponent, long in shapes:
        times = {}
        for name, of in methods.items():
            losses = {each: lost(of, rule(exponent, long, each)) for each in TIMES}
            times[name] = min(each for each in TIMES if losses[each] <= min(losses.values()) + SLACK)
        total = sum(lost(of, rule(exponent, long, times[name])) for name, of in methods.items())
        if best is None or total < best[0]:
            best = total, (exponent, long), times
    assert best is not None
    _, (exponent, long), times = best
    print(f"  fitted: (LONG {long} / steps) ^ {exponent}, at most {times}")
    return lambda case: rule(exponent, long, times.get(case.method, 1.0))(case)


def main() -> None:
    """Print the table, by case and by base."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="of rates.py (json), of record_grids.py (npz)")
    parser.add_argument("--out", type=Path, help="file of the results")
    options = parser.parse_args()
    cases: list[Case] = []
    for path in options.files:
        read = recorded(path) if path.suffix == ".npz" else cases_of(json.loads(path.read_text()))
        cases += read
    models = sorted({case.model for case in cases})
    held_out = {}
    for model in models:
        if rest := [case for case in cases if case.model != model and case.reads == "text"]:
            print(f"without {model}")
            held_out[model] = fitted(rest)
    rows = []
    for case in sorted(cases):
        rules: dict[str, Rule] = {"own": own, "auto": auto}
        if case.model in held_out:
            rules["held out"] = held_out[case.model]
        row: dict[str, Any] = {"task": case.task, "series": case.series, "steps": case.steps}
        row |= {"best rate": min(case.losses, key=case.losses.__getitem__), "best loss": round(case.best, 4)}
        for name, rule in rules.items():
            rate = rule(case)
            row[name] = [float(f"{rate:.2g}"), round(case.behind([rate]), 1)]
            row[f"3 around {name}"] = round(case.behind(around(rate)), 1)
        rows.append(row)
        print(row)
    summary = {}
    names = sorted({case.method for case in cases})
    for method, model in itertools.product([*names, None], [*models, None]):
        of = [
            row
            for case, row in zip(sorted(cases), rows, strict=True)
            if model in (None, case.model) and method in (None, case.method)
        ]
        if of:
            found = {name: _summary(of, name) for name in ("own", "auto", "held out")}
            summary[f"{method or 'all'}, {model or 'all'}"] = {"cases": len(of)} | found
    for name, line in summary.items():
        print(name, line)
    if options.out:
        write_json(options.out, {"cases": rows, "summary": summary})


def _summary(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    alone = [row[name][1] for row in rows if name in row]
    three = [row[f"3 around {name}"] for row in rows if name in row]
    if not alone:
        return {}
    return {
        "mean": round(statistics.fmean(alone), 1),
        "worst": max(alone),
        "mean of 3": round(statistics.fmean(three), 1),
        "worst of 3": max(three),
    }


if __name__ == "__main__":
    main()
