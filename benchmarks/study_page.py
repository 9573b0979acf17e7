"""Write what was measured into a page of docs: tables, verdict and charts of finished comparisons.

    python benchmarks/study_page.py docs/studies/chest-xrays.md xrays=out/chest-xrays

The words of a page are written by hand; between `<!-- xrays: table accuracy loss -->` and `<!-- end -->`
stands what this script makes of the comparison called `xrays`:

    verdict          the verdict in words, and what its intervals are made of
    table METRIC ... a row a method: rank, metrics, the interval of the deciding one, and what it cost
    epochs METRIC    mean over seeds of a validation metric, a column an evaluation
    said METRIC ...  what each method says of its result, such as the prompt that it found
    pairs            every pair of methods: difference, interval, p value after correction
    chart KIND ...   an SVG beside the page; kinds: training, validation, parameters, time, memory
    setting          data, steps, seeds, machine and versions
    warnings         what the comparison warns of
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from deltatune.report import display
from deltatune.report.load import Comparison, load
from deltatune.report.sheet import all_figures, sheet
from deltatune.report.verdict import caveat, verdict
from deltatune.report.words import plain

REGION = re.compile(r"<!-- (\S+): (\w+)([^>]*?) -->\n.*?<!-- end -->", re.S)
KINDS = {
    "training": "Training loss",
    "validation": "Validation loss",
    "parameters": "against trained parameters",
    "time": "against training time",
    "memory": "against memory of a step",
}


def table(comparison: Comparison, metrics: list[str]) -> str:
    """A row a method, best first."""
    labels = [display.style(key).label for key in metrics]
    head = ["rank", "method", *labels, "95 %", "trained", "share", "training", "evaluation", "memory", "file"]
    lines = [f"| {' | '.join(head)} |", f"|--:|:--|{'--:|' * (len(head) - 2)}"]
    for method in comparison.ranked:
        cost, trained = method.cost, method.cost.trained_parameters
        cells = [
            str(method.row.rank or ""),
            method.shown,
            *(display.metric(key, method.metrics.get(key)) for key in metrics),
            display.interval(comparison.primary, method.row.interval),
            f"{trained or 0:,.0f}",
            display.share(trained, cost.total_parameters),
            display.duration(cost.train_seconds),
            display.duration(cost.evaluation_seconds),
            display.size(cost.step_memory_bytes),
            display.size(cost.file_bytes),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def epochs(comparison: Comparison, metric: str) -> str:
    """Means over seeds of a validation metric at each evaluation that all runs of a method made."""
    found: dict[str, dict[int, list[float]]] = {}
    for method in comparison.ranked:
        for run in method.runs:
            for line in run.steps:
                if metric in line.get("validation", {}):
                    at = found.setdefault(method.shown, {}).setdefault(line["step"], [])
                    at.append(line["validation"][metric])
    steps = sorted({step for values in found.values() for step in values})
    lines = [f"| method | {' | '.join(f'step {step}' for step in steps)} |", f"|:--|{'--:|' * len(steps)}"]
    for name, values in found.items():
        cells = [display.metric(metric, fmean(values[step])) if step in values else "" for step in steps]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def said(comparison: Comparison, metrics: list[str]) -> str:
    """What the first run of each method says of its outcome, with metrics."""
    lines = [f"| method | {' | '.join(display.style(key).label for key in metrics)} | |"]
    lines.append(f"|:--|{'--:|' * len(metrics)}:--|")
    for method in comparison.ranked:
        cells = [display.metric(key, method.metrics.get(key)) for key in metrics]
        first = method.runs[0].finished
        words = (first and first.description) or ""
        code = f"`{words}`" if words else ""
        lines.append(f"| {method.shown} | {' | '.join(cells)} | {code} |")
    return "\n".join(lines)


def pairs(comparison: Comparison) -> str:
    """Every pair, the better one first, in the order of the ranking."""
    shown = {method.name: method.shown for method in comparison.ranked}
    order = list(shown)
    key, unit = comparison.primary, display.style(comparison.primary)
    lines = [
        f"| better | worse | difference in {unit.label} | 95 % | p (Holm) | |",
        "|:--|:--|--:|--:|--:|:--|",
    ]
    for pair in comparison.board.pairs:
        turned = order.index(pair.a) > order.index(pair.b)
        a, b, sign = (pair.b, pair.a, -1) if turned else (pair.a, pair.b, 1)
        ends = sorted(sign * end for end in (pair.low, pair.high))
        p = display.p_value(pair.p)
        lines.append(
            f"| {shown[a]} | {shown[b]} | {display.metric(key, sign * pair.difference, unit=False)} | "
            f"{display.interval(key, ends)} | {p} | {'tie' if pair.tie else 'real'} |"
        )
    return "\n".join(lines)


def setting(comparison: Comparison) -> str:
    """What the figures depend on."""
    result = comparison.first_result
    assert result is not None
    data, versions = result.data, result.versions
    steps = sorted({round(method.cost.steps) for method in comparison.ranked if method.cost.steps})
    seeds, threads = (comparison.board.recipe or {})["seeds"], int(versions["threads"])
    return (
        f"{data.train:,} training, {data.validation:,} validation and {data.test:,} test rows; "
        f"{' or '.join(map(str, steps))} steps; seed{'s' * (len(seeds) > 1)} "
        f"{', '.join(map(str, seeds))}; {threads} CPU thread{'s' * (threads > 1)}, "
        f"torch {versions['torch']}, Transformers {versions['transformers']}."
    )


def warnings(comparison: Comparison) -> str:
    """The comparison's own warnings as a list."""
    return "\n".join(f"- {text}" for text in comparison.warnings) or "None."


def chart(comparison: Comparison, kinds: list[str], path: Path) -> str:
    """Write an SVG with the charts of the given kinds, two in a row, and a legend; return its Markdown."""
    drawn = all_figures(comparison)
    chosen = [next(figure for figure in drawn if KINDS[kind] in figure.title) for kind in kinds]
    path.write_text(sheet(comparison, chosen), encoding="utf-8")
    return f"![{', '.join(figure.title.lower() for figure in chosen)}]({path.name})"


def filled(page: str, comparisons: dict[str, Comparison], path: Path) -> str:
    """The page with every region of the given comparisons made anew."""

    def region(match: re.Match[str]) -> str:
        name, kind, words = match[1], match[2], match[3].split()
        if name not in comparisons:
            return match[0]
        comparison = comparisons[name]
        made: dict[str, Callable[[], str]] = {
            "verdict": lambda: f"{plain(verdict(comparison))}\n\n{caveat(comparison)}",
            "table": lambda: table(comparison, words or [comparison.primary]),
            "epochs": lambda: epochs(comparison, words[0]),
            "pairs": lambda: pairs(comparison),
            "said": lambda: said(comparison, words),
            "setting": lambda: setting(comparison),
            "warnings": lambda: warnings(comparison),
            "chart": lambda: chart(comparison, words, path.with_name(f"{path.stem}-{name}.svg")),
        }
        return f"<!-- {name}: {kind}{match[3]} -->\n{made[kind]()}\n<!-- end -->"

    return REGION.sub(region, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="the Markdown file whose regions are filled")
    parser.add_argument("comparisons", nargs="+", metavar="NAME=FOLDER", help="finished comparisons")
    options = parser.parse_args()
    named = dict(text.split("=", 1) for text in options.comparisons)
    found = {name: load(Path(folder)) for name, folder in named.items()}
    options.page.write_text(
        filled(options.page.read_text(encoding="utf-8"), found, options.page), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
