"""Names of methods in sentences, and the verbs that agree with them."""

from __future__ import annotations

from collections.abc import Sized

from deltatune.report.load import Method
from deltatune.report.words import Name, Sentence

MOST_NAMES = 4  # more than these are counted, not listed
MOST_TIED = 8  # a tie of more is not listed in full


def names_of(methods: list[Method]) -> Sentence:
    """`a`, `a and b`, `a, b and c`, with the names marked; many are `a, b, c, d and 17 others`."""
    if len(methods) > MOST_TIED:
        first: Sentence = [word for method in methods[:MOST_NAMES] for word in (Name(method.shown), ", ")]
        return [*first[:-1], f" and {len(methods) - MOST_NAMES} others"]
    return joined([[Name(method.shown)] for method in methods])


def joined(items: list[Sentence]) -> Sentence:
    """`a, b and c`, of parts of a sentence."""
    words: Sentence = []
    for index, item in enumerate(items):
        if index:
            words.append(" and " if index == len(items) - 1 else ", ")
        words += item
    return words


def verb(subjects: Sized, singular: str, plural: str) -> str:
    """The form of a verb that agrees with so many subjects."""
    return singular if len(subjects) == 1 else plural
