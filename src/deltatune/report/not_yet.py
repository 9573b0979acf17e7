"""What a comparison cannot tell yet, and what lies within the smallest difference that matters."""

from __future__ import annotations

import math

from deltatune.report import display
from deltatune.report.leads import Lead, find_pair
from deltatune.report.load import Comparison, Method
from deltatune.report.naming import names_of, verb
from deltatune.report.words import Name, Sentence


def needs(pair: Lead) -> str:
    """`1,200 test examples in all or 9 seeds of each`: what would part a tie, if that is known.

    In two digits, rounded up: more would pretend to know the true difference.
    """
    counts = (
        (pair.examples_needed, "test examples in all"),
        (pair.seeds_needed, "seeds of each"),
    )
    return " or ".join(f"{display.two_digits(count):,} {what}" for count, what in counts if count)


def margin(comparison: Comparison) -> str:
    """`1.0 accuracy points`: the smallest difference that the recipe calls worth anything; else nothing."""
    worth = comparison.board.worth
    return "" if worth is None else display.difference(comparison.primary, worth, None)


def equivalents(comparison: Comparison, first: Method) -> list[Sentence]:
    """Methods that are shown to differ from the best by less than matters."""
    pairs = [(other, find_pair(comparison, first, other)) for other in comparison.contest]
    alike = [other for other, pair in pairs if pair and pair.equivalent]
    if not alike:
        return []
    within = f": the difference is less than {margin(comparison)}."
    return [[*names_of(alike), verb(alike, " is", " are"), " equivalent to ", Name(first.shown), within]]


def needed(comparison: Comparison, top: list[Method]) -> list[Sentence]:
    """How much more data would tell of the best method and one that it ties with, of several the easiest.

    Where none is known, and a smallest difference is given, that it is not known yet.
    """
    pairs = [(other, find_pair(comparison, top[0], other)) for other in top[1:]]
    known = [(other, pair) for other, pair in pairs if pair and needs(pair)]
    least = margin(comparison)
    if not known:
        unknown = [other for other, pair in pairs if pair and pair.tie and pair.equivalent is False]
        if not unknown:
            return []
        return [
            [
                "Whether ",
                Name(top[0].shown),
                " and ",
                *names_of(unknown),
                f" differ by {least} is not known yet.",
            ]
        ]
    other, pair = min(known, key=lambda one: one[1].examples_needed or math.inf)
    words = f"It would take about {needs(pair)} to tell "
    if least:
        words = f"{words}whether "
    apart = f" {f'differ by {least}' if least else 'apart'}, if they differ as much as they seem to."
    return [[words, Name(top[0].shown), " and ", Name(other.shown), apart]]
