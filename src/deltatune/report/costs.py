"""Which method to take: the cheapest of those that cannot be told apart, and what of its cost is known."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from deltatune.report import display
from deltatune.report.display import interval, metric, style
from deltatune.report.load import Comparison, Method
from deltatune.report.words import Name, Sentence

PER = "trained_parameters"


class Take(NamedTuple):
    """The line that a reader came for."""

    words: Sentence
    command: str | None
    """That uses the method's first run; None where nothing was trained."""


def best(comparison: Comparison) -> list[Method]:
    """The methods of the first rank, best first."""
    ranked = comparison.ranked
    return [method for method in ranked if method.row.get("rank") == ranked[0].row.get("rank")]


def take(comparison: Comparison, folder: Path) -> Take | None:
    """Say which method to take, its score and cost, and how to use it; None where nothing was tested.

    Among methods that tie it is the one with the fewest trained parameters. A method of the first rank that
    trains nothing means that training was for nothing, so far as can be shown.

    Args:
        comparison: Whose methods.
        folder: The comparison's, as the command shall name it; a page names its own folder by nothing.
    """
    top = best(comparison)
    if not top or (len(comparison.ranked) > 1 and not comparison.board.get("pairs")):
        return None
    free = [method for method in top if not method.cost.get(PER)]
    if free and len(comparison.ranked) > 1:
        fact = ", which trains nothing: no method is shown to beat it."
        return Take(["Take ", Name(free[0].shown), fact], None)
    chosen = min(top, key=lambda method: method.cost.get(PER) or 0)
    key = comparison.primary
    score = f"{style(key).label} {metric(key, comparison.value(chosen))} "
    score += interval(key, chosen.row.get("interval"))
    trained = f"{display.amount(chosen.cost.get(PER))} trained parameters"
    facts = [score.strip(), trained, f"a file of {display.size(chosen.cost.get('file_bytes'))}"]
    others = f" It is the smallest of {len(top)} that cannot be told apart." if len(top) > 1 else ""
    words: Sentence = ["Take ", Name(chosen.shown), f": {', '.join(facts)}.{others}"]
    runs = chosen.row.get("runs") or []
    command = f"deltatune predict {shlex.quote(str(folder / runs[0]))} INPUT" if runs else None
    return Take(words, command)


def cheapest(top: list[Method]) -> list[Sentence]:
    """Which of the methods that tie costs least, and how much less than the next."""
    if any(not method.cost.get(PER) for method in top):
        return []
    by_size = sorted(top, key=lambda method: float(method.cost[PER]))
    smallest, parameters = by_size[0], by_size[0].cost[PER]
    sentences: list[Sentence] = []
    if by_size[-1].cost[PER] != parameters:
        fewer = _times(float(by_size[1].cost[PER]) / float(parameters), "fewer", by_size[1])
        fact = f" has the fewest trained parameters ({display.amount(parameters)}{fewer})."
        sentences.append(["Among the best, ", Name(smallest.shown), fact])
    return [*sentences, *_fastest(top)]


def _fastest(top: list[Method]) -> list[Sentence]:
    """The method all of whose runs trained faster than any run of the others.

    A machine's load changes within a comparison, so one run of each tells nothing of times. Runs of several
    seeds take turns, and are a repetition.
    """
    times = [method.times for method in top]
    if any(len(seconds) < 2 for seconds in times):
        return []
    first, second = sorted(top, key=lambda method: sum(method.times) / len(method.times))[:2]
    if any(max(first.times) >= min(method.times) for method in top if method is not first):
        return []
    mean = sum(first.times) / len(first.times)
    faster = _times(sum(second.times) / len(second.times) / mean, "faster", second)
    return [["Among the best, ", Name(first.shown), f" trains fastest ({display.duration(mean)}{faster})."]]


def _times(ratio: float, word: str, other: Method) -> str:
    """`, 1.3x faster than prefix`; nothing where the next costs hardly more."""
    return f", {display.times(ratio)} {word} than {other.shown}" if ratio >= 1.05 else ""
