"""Which method to take: the cheapest of those that cannot be told apart, and what of its cost is known."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from deltatune.report import display
from deltatune.report.display import interval, metric, style
from deltatune.report.load import Comparison, Method
from deltatune.report.words import Name, Sentence


class Take(NamedTuple):
    """The line that a reader came for."""

    words: Sentence
    command: str | None
    """That uses the method's first run; None where nothing was trained."""


def best(comparison: Comparison) -> list[Method]:
    """The methods of the first rank, best first."""
    ranked = comparison.contest
    return [method for method in ranked if method.row.rank == ranked[0].row.rank]


def take(comparison: Comparison, folder: Path) -> Take | None:
    """Say which method to take, its score and cost, and how to use it; None where nothing was tested.

    Among methods that tie it is the one with the fewest trained parameters. A method of the first rank that
    trains nothing means that training was for nothing, so far as can be shown.

    Args:
        comparison: Whose methods.
        folder: The comparison's, as the command shall name it; a page names its own folder by nothing.
    """
    top = best(comparison)
    if not top or (len(comparison.ranked) > 1 and not comparison.board.pairs):
        return None
    free = [method for method in top if not method.cost.trained_parameters]
    if free and len(comparison.ranked) > 1:
        fact = ", which trains nothing: no method is shown to beat it."
        return Take(["Take ", Name(free[0].shown), fact], None)
    chosen = min(top, key=lambda method: method.cost.trained_parameters or 0)
    key = comparison.primary
    score = f"{style(key).label} {metric(key, comparison.value(chosen))} "
    score += interval(key, chosen.row.interval)
    trained = f"{display.amount(chosen.cost.trained_parameters)} trained parameters"
    facts = [score.strip(), trained, f"a file of {display.size(chosen.cost.file_bytes)}"]
    others = f" It is the smallest of the {len(top)} that tie for first place." if len(top) > 1 else ""
    words: Sentence = ["Take ", Name(chosen.shown), f": {', '.join(facts)}.{others}"]
    runs = chosen.row.runs
    command = f"deltatune predict {shlex.quote(str(folder / runs[0]))} INPUT" if runs else None
    return Take(words, command)


def cheapest(top: list[Method]) -> list[Sentence]:
    """Which of the methods that tie costs least, and how much less than the next."""
    by_size = sorted(top, key=_trained)
    fewest = _trained(by_size[0])
    if not fewest:
        return []
    sentences: list[Sentence] = []
    if _trained(by_size[-1]) != fewest:
        fewer = _times(_trained(by_size[1]) / fewest, "fewer", by_size[1])
        fact = f" has the fewest trained parameters ({display.amount(fewest)}{fewer})."
        sentences.append(["Among the best, ", Name(by_size[0].shown), fact])
    return [*sentences, *_fastest(top)]


def _trained(method: Method) -> float:
    return float(method.cost.trained_parameters or 0)


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
