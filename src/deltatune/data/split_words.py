"""Words of a text, split as those of the training rows are.

| splitting | words | of training rows that |
|---|---|---|
| signs | letters and digits together, and every other sign for itself | are texts with spans |
| edges | what stands between blanks, without the signs at its ends, which are words; 's and n't for themselves | have signs apart, as CoNLL files do |
| blanks | what stands between blanks | have words with a comma or full stop at their end |

Scripts without blanks between words (Chinese, Japanese, Thai and their like) are always split by the character,
as their tagged data commonly are. Control characters and signs without width are no words.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable, Iterator

import regex

SIGNS, EDGES, BLANKS = "signs", "edges", "blanks"
GLUED = 0.005
"""Share of the words with a sign at their end from which on words are what stands between blanks."""
_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_OTHERS = rf"(?![{_ALONE}])"
_WORD = regex.compile(
    rf"(?=[{_ALONE}])\p{{L}}\p{{M}}*"
    rf"|(?:{_OTHERS}[\p{{L}}\p{{N}}])(?:{_OTHERS}[\p{{L}}\p{{M}}\p{{N}}])*"
    r"|[^\s\p{Z}\p{Cc}\p{Cf}]\p{M}*"
)
_CHUNK = regex.compile(rf"(?=[{_ALONE}])\p{{L}}\p{{M}}*|(?:{_OTHERS}[^\s\p{{Z}}\p{{Cc}}\p{{Cf}}])+")
_BEFORE = regex.compile(r"[\p{Ps}\p{Pi}\"'`]")
_BEHIND = regex.compile(r"(?:\.{2,}|[\p{Pe}\p{Pf}\"'`.,;:!?…]|['\u2019](?:s|S|re|ve|ll|d|m)|n['\u2019]t)$")
_ABBREVIATION = regex.compile(r"(?:\p{L}\.){2,}")
_END = regex.compile(r"[\p{L}\p{N}][.,;:!?)\]\"”]+$")


def split_words(text: str, splitting: str = SIGNS) -> list[tuple[int, int]]:
    """Where each word of a text starts and ends, in characters.

    >>> text = "Angela's car (red), 5.5 km"
    >>> [text[start:end] for start, end in split_words(text)]
    ['Angela', "'", 's', 'car', '(', 'red', ')', ',', '5', '.', '5', 'km']
    >>> [text[start:end] for start, end in split_words(text, "edges")]
    ['Angela', "'s", 'car', '(', 'red', ')', ',', '5.5', 'km']
    """
    if splitting == SIGNS:
        return [match.span() for match in _WORD.finditer(text)]
    chunks = [match.span() for match in _CHUNK.finditer(text)]
    return (
        chunks if splitting == BLANKS else [word for chunk in chunks for word in _without_edges(text, *chunk)]
    )


def _without_edges(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """What stands between blanks as a word, with the signs before and behind it as words."""
    while end - start > 1 and _BEFORE.match(text[start]):
        yield start, start + 1
        start += 1
    behind = []
    while (match := _BEHIND.search(text[start:end])) and match.start() > 0:
        if _ABBREVIATION.fullmatch(text[start:end]):
            break
        behind.append((start + match.start(), end))
        end = start + match.start()
    yield start, end
    yield from reversed(behind)


def splitting_of(words: Iterable[str]) -> str:
    """How words that are given one by one were split: with signs at their ends, or without."""
    count = glued = 0
    for word in words:
        count += 1
        # A full stop may end an abbreviation, and a word may be a sign of several, such as `:)`.
        glued += bool(_END.search(word)) and not word.endswith(".")
    return BLANKS if glued > GLUED * count else EDGES


def joined(words: list[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of words that are given one by one, with a blank between them, and where each is in it."""
    places, end = [], 0
    for word in words:
        places.append((end, end + len(word)))
        end += len(word) + 1
    return " ".join(words), tuple(places)
