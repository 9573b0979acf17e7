"""Which tokens the words of a text become, whatever kind of tokenizer makes them.

The text is tokenised as a whole, as in pretraining, and each token knows its characters in it. So a
byte-level tokenizer (RoBERTa's, GPT-2's) sees the blank before a word, SentencePiece its mark, and BERT's
neither, without options of each. The tokenizers of Transformers that are written in Python do not tell
characters; they get word after word instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Places = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Pieces:
    """A text with special tokens, and its words in it."""

    ids: list[int]
    firsts: list[int]
    """Of each word its first token's place among `ids`; -1 of one that has none."""
    ends: list[int]
    """Of each word the place behind its last token; 0 of one that has none."""
    cut: int
    """Words at the end that found no room."""
    least: int
    """Tokens that the first word would have needed, with special ones."""


def pieces_of(tokenizer: Any, text: str, places: Places, limit: int) -> Pieces:
    """Tokenise a text with special tokens; of one that is too long, as many whole words as find room.

    Args:
        tokenizer: Of Transformers.
        text: The text.
        places: Where its words start and end, in order.
        limit: Largest number of ids.
    """
    split = _by_characters if tokenizer.is_fast else _word_by_word
    ids, firsts, ends = split(tokenizer, text, places)
    kept, least = len(places), len(ids)
    if len(ids) > limit:
        least = len(ids) - max(ends, default=0) + min((end for end in ends if end), default=0)
    while len(ids) > limit and kept:
        room = limit - (len(ids) - max(ends, default=0))  # what stands behind the last word is kept
        fitting = next((word for word, end in enumerate(ends) if end > room), kept)
        kept = min(fitting, kept - 1)
        ids, firsts, ends = split(tokenizer, text[: places[kept - 1][1]] if kept else "", places[:kept])
    cut = len(places) - kept
    return Pieces(ids, firsts + [-1] * cut, ends + [0] * cut, cut, least)


def _by_characters(tokenizer: Any, text: str, places: Places) -> tuple[list[int], list[int], list[int]]:
    """Ids, the first one of each word (-1: none), and the place behind its last one (0: none)."""
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
    firsts, ends = [-1] * len(places), [0] * len(places)
    word = 0
    for place, (begin, end) in enumerate(offsets):
        covered = text[begin:end]  # of byte-level tokens the blank before a word is a part
        start = end - len(covered.lstrip())
        if start >= end:
            continue  # a special token, or a blank
        while word < len(places) and places[word][1] <= start:
            word += 1
        if word == len(places):
            break
        if places[word][0] < end:
            if firsts[word] < 0:
                firsts[word] = place
            ends[word] = place + 1
    return ids, firsts, ends


def _word_by_word(tokenizer: Any, text: str, places: Places) -> tuple[list[int], list[int], list[int]]:
    """The same, of a tokenizer that does not tell characters."""
    body: list[int] = []
    before = _with_specials(tokenizer, [_MARK]).index(_MARK)
    firsts, ends, last = [-1] * len(places), [0] * len(places), 0
    for word, (start, end) in enumerate(places):
        gap = " " if start > last and body else ""
        made = tokenizer(f"{gap}{text[start:end]}", add_special_tokens=False, verbose=False)["input_ids"]
        if made:
            firsts[word], ends[word] = before + len(body), before + len(body) + len(made)
        body += made
        last = end
    return _with_specials(tokenizer, body), firsts, ends


_MARK = -1
"""No token's id."""


def _with_specials(tokenizer: Any, ids: list[int]) -> list[int]:
    return list(tokenizer.build_inputs_with_special_tokens(ids))
