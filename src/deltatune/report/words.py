"""Sentences about a comparison, in which the names of methods are marked."""

from __future__ import annotations


class Name(str):
    """The name of a method within a sentence, so that a page can set it in bold."""

    __slots__ = ()


Sentence = list[str]


def plain(sentences: list[Sentence]) -> str:
    """The sentences as one text."""
    return " ".join("".join(sentence) for sentence in sentences)
