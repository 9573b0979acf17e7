"""Words of a text, as tagged data have them: letters and digits together, and every other sign for itself.

Control characters and signs without width are none.

Scripts without blanks between words (Chinese, Japanese, Thai and their like) are split by the character, as
their tagged data commonly are.
"""

from __future__ import annotations

import regex

_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(
    rf"(?=[{_ALONE}])\p{{L}}\p{{M}}*|(?:(?![{_ALONE}])[\p{{L}}\p{{N}}])(?:(?![{_ALONE}])[\p{{L}}\p{{M}}\p{{N}}])*"
    r"|[^\s\p{Z}\p{Cc}\p{Cf}]\p{M}*"
)


def split_words(text: str) -> list[tuple[int, int]]:
    """Where each word of a text starts and ends, in characters.

    >>> text = "Angela's car (red), 5.5 km"
    >>> [text[start:end] for start, end in split_words(text)]
    ['Angela', "'", 's', 'car', '(', 'red', ')', ',', '5', '.', '5', 'km']
    """
    return [match.span() for match in _WORD.finditer(text)]


def joined(words: list[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of words that are given one by one, with a blank between them, and where each is in it."""
    places, end = [], 0
    for word in words:
        places.append((end, end + len(word)))
        end += len(word) + 1
    return " ".join(words), tuple(places)
