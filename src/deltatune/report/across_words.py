"""Which method, in words that claim no more than data sets show: for these, and for tasks like these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deltatune.phrasing import listing
from deltatune.report import display
from deltatune.report.words import Name, Sentence, plain
from deltatune.results.across import Across, Critical, MethodAcross

NAME = "across.json"
FEWEST = 3
"""Data sets of which something is said about tasks like these."""
MOST_NAMES = 4
"""More methods than these are counted, not listed."""
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def is_across(folder: Path) -> bool:
    """Whether a folder holds what a comparison over several data sets came to."""
    return (folder / NAME).is_file()


def answer(result: Across) -> str:
    """The answer as one text."""
    return plain(sentences(result))


def sentences(result: Across) -> list[Sentence]:
    """The answer: for these data sets, for tasks like these, and what takes no part in it."""
    contest = [row for row in result.rows if row.iqm is not None]
    if not contest:
        return [[f"No method finished on all {_count(len(result.sets))} data sets, so none can be named."]]
    return [_here(result, contest), *_on_tasks(result, contest), *_left_out(result)]


def normalised(value: float | None, bounds: Sequence[float] | None = None) -> str:
    """A normalised score, with its interval: `93.1 [88.0, 97.2]`."""
    text = display.metric("normalised", value)
    if not bounds:
        return text
    return (
        f"{text} [{display.metric('normalised', bounds[0])},\u00a0{display.metric('normalised', bounds[1])}]"
    )


def zero_of(result: Across) -> str:
    """What 0 stands for."""
    return f"what {result.yardstick} scores" if result.yardstick else "the worst of the methods"


def caveat(result: Across) -> str:
    """What the numbers are made of."""
    runs = len(result.sets) * (result.seeds or 1)
    trimmed = (
        "leaves out the lowest and the highest quarter of all its runs"
        if runs >= 4
        else "is the mean of its runs, of which there are too few to leave any out"
    )
    text = (
        f"On each data set 0 is {zero_of(result)} and 100 the best method's score. The interquartile mean of "
        f"a method {trimmed} (data sets times seeds). Brackets are 95\u202f% intervals for other test rows"
        f"{' and seeds' if (result.seeds or 1) > 1 else ''} of these data sets. Rank: 1 + the number of "
        "methods that are significantly better over these data sets."
    )
    if (result.seeds or 1) == 1:
        text += (
            " Each method was trained with one seed: the intervals leave out the luck of training, and "
            "another seed may turn what is said of these data sets."
        )
    return text


def _here(result: Across, contest: Sequence[MethodAcross]) -> Sentence:
    """Which method is best on these data sets."""
    sets = f"these {_count(len(result.sets))} data sets"
    first = contest[0]
    if result.yardstick and (first.iqm or 0) <= 0:
        return [f"Over {sets}, no method is better than ", Name(result.yardstick), "."]
    top = [row for row in contest if row.rank == 1]
    if len(contest) == 1:
        return [
            Name(first.name),
            f" alone finished on all of {sets}: interquartile mean {_mean(first)}.",
        ]
    if len(top) == 1:
        second = contest[1]
        ahead = "is best" if (result.seeds or 1) > 1 else "is ahead"  # of one run each (claims.py)
        return [
            f"Over {sets}, ", Name(first.name), f" {ahead}: its interquartile mean is {_mean(first)}, "
            f"that of ", Name(second.name), f" {_mean(second)}.",
        ]  # fmt: skip
    if len(top) <= MOST_NAMES:
        return [
            f"Over {sets}, ", *_names(top), " cannot be told apart: their interquartile means are "
            f"{listing([_mean(row) for row in top])}.",
        ]  # fmt: skip
    return [
        f"Over {sets}, {len(top)} of {len(contest)} methods cannot be told apart; ", Name(first.name),
        f" has the highest interquartile mean, {_mean(first)}.",
    ]  # fmt: skip


def _on_tasks(result: Across, contest: Sequence[MethodAcross]) -> list[Sentence]:
    """Which method is best on tasks like these, by the ranks over sets."""
    critical = result.critical
    if critical is None:
        return []
    if reason := _nothing(critical, len(result.sets), len(contest)):
        return [[f"Of tasks like these nothing can be said: {reason}."]]
    assert critical.difference is not None
    ranked = sorted(contest, key=lambda row: row.mean_rank or 0)
    best = ranked[0]
    beaten = [row for row in ranked if _gap(best, row) >= critical.difference - 1e-9]
    level = [row for row in ranked[1:] if row not in beaten]
    if not beaten:
        told: Sentence = [
            "On tasks like these no method is shown to be better than another: mean ranks differ by "
            f"{display.tick(_rounded(_gap(best, ranked[-1])))} at most, and the critical difference is "
            f"{display.tick(_rounded(critical.difference))} (Friedman {display.p_value(critical.p)})."
        ]
        return [told, *_needed(critical, ranked)]
    told = [
        "On tasks like these, ", Name(best.name), f" (mean rank {_rank(best)}) is shown to be better than ",
        *_names(beaten), ".",
    ]  # fmt: skip
    if not level:
        return [told]
    return [told, [*_names(level), " cannot be told from it there."], *_needed(critical, ranked)]


def _nothing(critical: Critical, sets: int, methods: int) -> str:
    """Why the sets say nothing of tasks like these; nothing if they do."""
    if sets < FEWEST:
        return f"{_count(sets)} data sets are too few, and {_count(critical.least)} are the least"
    if critical.difference is not None:
        return ""
    if sets >= critical.least:
        return "methods score alike on too many of these data sets"
    return (
        f"even {_count(sets)} data sets that all agree cannot tell two of {_count(methods)} methods apart; "
        f"it takes {_count(critical.least)}"
    )


def _needed(critical: Critical, ranked: Sequence[MethodAcross]) -> list[Sentence]:
    if critical.needed is None or critical.needed <= critical.sets:
        return []
    return [
        [
            f"About {display.two_digits(critical.needed)} data sets would tell ", Name(ranked[0].name),
            " and ", Name(ranked[1].name), " apart, if their mean ranks stay as they are.",
        ]
    ]  # fmt: skip


def _left_out(result: Across) -> list[Sentence]:
    """What failed somewhere."""
    failed = [row for row in result.rows if any(each.error is not None for each in row.on_sets)]
    if not failed:
        return []
    where = {each.set: None for row in failed for each in row.on_sets if each.error is not None}
    return [[*_names(failed), f" failed on {listing(list(where))}, and takes no part in this."]]


def _names(rows: Sequence[MethodAcross]) -> Sentence:
    """Names in a sentence, or how many there are."""
    if len(rows) > MOST_NAMES:
        return [f"{len(rows)} methods"]
    parts: Sentence = []
    for place, row in enumerate(rows):
        if place:
            parts.append(" and " if place == len(rows) - 1 else ", ")
        parts.append(Name(row.name))
    return parts


def _mean(row: MethodAcross) -> str:
    return normalised(row.iqm, row.interval)


def _gap(best: MethodAcross, row: MethodAcross) -> float:
    return (row.mean_rank or 0) - (best.mean_rank or 0)


def _rank(row: MethodAcross) -> str:
    return display.tick(_rounded(row.mean_rank or 0))


def _rounded(value: float) -> float:
    return round(value, 2)


def _count(number: int) -> str:
    return _WORDS[number] if number < len(_WORDS) else str(number)
