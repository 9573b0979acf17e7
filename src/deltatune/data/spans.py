"""Spans of characters, as annotation tools write entities, and the tags of the words that they cover."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from deltatune.errors import DataError
from deltatune.tasks.tags import OUTSIDE

_STARTS = ("start", "start_offset", "begin")
_ENDS = ("end", "end_offset")
_LABELS = ("label", "labels", "type", "tag", "entity", "entity_group")
_TEXTS = ("text", "word", "value")


class Span(NamedTuple):
    """An entity in a text."""

    start: int
    """Its first character."""
    end: int
    """The one behind its last."""
    label: str
    where: str
    """For messages."""


def span_of(item: Any, text: str, where: str) -> Span:
    """Read a span: an object with start, end and label, or a list of the three.

    Blanks at its ends are left out.

    Raises:
        DataError: It is none, lies out of the text, is empty, or says another text than stands there.
    """
    said = None
    if isinstance(item, dict):
        values = [_first(item, names) for names in (_STARTS, _ENDS, _LABELS)]
        said = _first(item, _TEXTS)
    else:
        values = list(item) if isinstance(item, list | tuple) else []
    labels = values[2] if len(values) == 3 else None
    if isinstance(labels, list) and len(labels) == 1:  # as Label Studio writes them
        values[2] = labels[0]
    if len(values) != 3 or not all(type(place) is int for place in values[:2]):
        raise DataError(
            f"is no span but {str(item)[:60]}.",
            field=where,
            remedy='Write {"start": 0, "end": 6, "label": "PER"}, in characters from 0.',
        )
    start, end, label = values
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"has the label {label!r}.", field=where, remedy="Name its class, such as PER.")
    if not 0 <= start < end <= len(text):
        raise DataError(
            f"reaches from {start} to {end}, and the text has {len(text)} characters.",
            field=where,
            remedy="Count characters from 0; the end is the place behind the last one. Offsets in bytes or "
            "in UTF-16 differ where a text has letters beyond ASCII.",
        )
    if isinstance(said, str) and said.strip() != text[start:end].strip():
        raise DataError(
            f"says {said[:40]!r}, and from {start} to {end} the text has {text[start:end][:40]!r}.",
            field=where,
            remedy="Count characters from 0, with the end behind the last one.",
        )
    covered = text[start:end]
    start, end = start + len(covered) - len(covered.lstrip()), end - len(covered) + len(covered.rstrip())
    if start >= end:
        raise DataError("covers blanks alone.", field=where, remedy="Mend or remove it.")
    return Span(start, end, "_".join(label.split()), where)


def tags_of(
    text: str, places: Sequence[tuple[int, int]], spans: Sequence[Span], where: str
) -> tuple[list[str], int]:
    """The tags of a text's words in IOB2, and how many spans begin or end within a word.

    Args:
        text: The text.
        places: Where its words start and end, in order.
        spans: What is in it.
        where: The row, for messages.

    Raises:
        DataError: Two spans overlap, or lie in one word; or a span covers no word.
    """
    tags, owner, widened = [OUTSIDE] * len(places), [-1] * len(places), 0
    ordered = sorted(spans)
    for before, span in pairwise(ordered):
        if span.start < before.end:
            raise DataError(
                f"overlaps the span {before.start}-{before.end} ({before.label}): each word has one tag.",
                field=span.where,
                remedy="Keep one of the two; nested entities need a run for each level.",
            )
    number = 0
    for index, span in enumerate(ordered):
        while number < len(places) and places[number][1] <= span.start:
            number += 1
        first = number
        while number < len(places) and places[number][0] < span.end:
            if owner[number] >= 0:
                other, (start, end) = ordered[owner[number]], places[number]
                raise DataError(
                    f"and the span {other.start}-{other.end} lie in the one word {text[start:end][:40]!r}: "
                    "each word has one tag.",
                    field=span.where,
                    remedy="Give tokens and tags, with the words as you want them.",
                )
            owner[number] = index
            tags[number] = f"{'B' if number == first else 'I'}-{span.label}"
            number += 1
        if number == first:
            raise DataError("covers no word.", field=span.where, remedy=f"Mend or remove it ({where}).")
        widened += places[first][0] < span.start or places[number - 1][1] > span.end
        number -= 1  # the next span may begin in the same word, which is refused above
    return tags, widened


def _first(item: dict[str, Any], names: Sequence[str]) -> Any:
    return next((item[name] for name in names if name in item), None)
