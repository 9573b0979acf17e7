"""What the data are made of: records as read, and rows as used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltatune.errors import DataError
from deltatune.tasks.task import Shot

Image = NDArray[np.uint8]
"""Pixels [height, width] (grey) or [height, width, channels]."""
Input = str | Image | Path
"""What the model reads: a text, pixels in memory, or an image file that is decoded when it is needed."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source, as read."""

    where: str
    """Where it stands, for messages: `tables.jsonl, line 12`."""
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """What a reader makes of one source."""

    parts: dict[str, list[Record]]
    """`train`, `validation` and `test` if the source has parts of its own; otherwise `all`."""
    input: str = "input"
    """The column that `columns.input: auto` means."""
    target: str = "target"
    """The column that `columns.target: auto` means."""
    warnings: tuple[str, ...] = ()
    """What a person should know of the source: files that are not used, images changed by reading."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said in a row: messages as chat templates read them."""

    messages: tuple[dict[str, Any], ...]
    """Each with `role` (system, user, assistant or tool) and `content`, and `tool_calls` where there are."""
    learned: tuple[bool, ...]
    """Of each message, whether it may be learned: those of the assistant but for what is marked otherwise."""
    tools: tuple[dict[str, Any], ...] = ()
    """JSON schemas of the tools that the assistant may call."""
    form: str = ""
    """How its source writes it, in words."""

    def as_bytes(self) -> bytes:
        """All of it, for fingerprints."""
        content = [self.messages, self.learned, self.tools]
        return json.dumps(content, sort_keys=True, ensure_ascii=False, default=str).encode()


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a row's text, each with a tag."""

    places: tuple[tuple[int, int], ...]
    """Where each starts and ends in the text, in characters."""
    tags: tuple[str, ...] = ()
    """One a word; none where they are asked for."""
    form: str = ""
    """How its source writes them, in words."""
    given: bool = True
    """Whether they are given one by one, and not as a text."""
    widened: int = 0
    """Spans that begin or end within a word, and count as reaching over all of it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example."""

    id: str
    """Unique within its part; names the row in messages and predictions."""
    input: Input
    """What the model reads, with the template applied."""
    target: str
    """The text to produce, or the label's name; empty if there is none."""
    columns: dict[str, str]
    """All columns of the source as text; images are left out."""
    conversation: Conversation | None = None
    """Where a row is one; `input` and `target` then show what comes before its last answer, and this."""
    words: Words | None = None
    """Where words have tags; `target` then has these, with a blank between them."""
    pair: str | None = None
    """The second text, where the model reads two."""
    references: tuple[str, ...] = ()
    """All texts that are right, where there are several; `target` is the first."""
    negatives: tuple[str, ...] = ()
    """Texts that the input shall not be near to, beside the target, where that is learned."""
    group: str | None = None
    """Rows of one group belong together, unless equal inputs alone do (`data/groups.py`)."""
    source: str | None = None
    """The text of the input column, where a template makes another of it."""
    shots: tuple[Shot, ...] = ()
    """Training rows that are shown before it; put there for its encoding, and no part of the data."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that its targets name, where it has such: its own, or each word's."""
        return (self.target,) if self.words is None else self.words.tags

    def input_bytes(self) -> bytes:
        """Give the input as bytes: for comparing rows and for fingerprints."""
        if isinstance(self.input, str):
            text = self.input.encode()
            # The length tells where the second text begins, so that no two pairs have the same bytes.
            return text if self.pair is None else b"%d %b%b" % (len(text), text, self.pair.encode())
        if isinstance(self.input, Path):
            return self.input.read_bytes()
        return repr(self.input.shape).encode() + self.input.tobytes()

    def content_bytes(self) -> list[bytes]:
        """Give all that is learned from: input, target or references, the conversation that they are of."""
        told = [] if self.conversation is None else [self.conversation.as_bytes()]
        texts = [text.encode(errors="surrogatepass") for text in self.references or (self.target,)]
        others = [text.encode(errors="surrogatepass") for text in self.negatives]
        return [self.input_bytes(), *texts, *told, *others]

    def input_text(self) -> str:
        """Give the input as a person would note it: the texts, the file's path, or an image's id and size."""
        if isinstance(self.input, str | Path):
            return str(self.input) if self.pair is None else f"{self.input} | {self.pair}"
        return f"image {self.id} ({'x'.join(map(str, self.input.shape))})"


def each_row(records: Sequence[Record], make: Callable[[Record, str], Row]) -> list[Row]:
    """Make a row of each record; `make` is given the record and its number.

    Raises:
        DataError: Some cannot be used: what is wrong with the first one, and how many more there are.
    """
    rows, wrong = [], []
    for number, record in enumerate(records):
        try:
            rows.append(make(record, str(number)))
        except DataError as error:
            wrong.append(error)
    if wrong:
        first, more = wrong[0], len(wrong) - 1
        others = f" {more} more of {len(records)} rows cannot be used either." if more else ""
        raise DataError(f"{first.what}{others}", field=first.field, remedy=first.remedy)
    return rows


def fingerprint(*parts: list[Row]) -> str:
    """SHA-256 over parts of rows; order, ids, inputs and targets count."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))
        for row in part:
            for piece in (row.id.encode(), *row.content_bytes()):
                digest.update(len(piece).to_bytes(8))
                digest.update(piece)
    return digest.hexdigest()
