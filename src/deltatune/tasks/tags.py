"""Tags of words: how they are written, and which entities they mean.

| scheme | tags of an entity's words |
|---|---|
| IOB2 (BIO) | B- at its first word, I- at the others |
| IOB1 | I- at all, but for B- where it directly follows one of the same class |
| IOBES | B- I- E-, and S- of one word |
| BILOU | B- I- L-, and U- of one word |
| IO | I-, or the class's bare name, at all: neighbours of one class are one entity |
| words | the class's bare name, and no tag is O: each word is for itself, as parts of speech are |

`B_PER` and `PER-B` are read as `B-PER`, where all tags are written so. Which entities tags mean is what
seqeval says by default (as conlleval does): a tag that cannot stand where it does begins an entity. So a
model's ill-formed tags are neither refused nor lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

METRICS = ("entity_f1", "entity_precision", "entity_recall", "entity_macro_f1", "token_accuracy")
OUTSIDE = "O"
"""The tag of words in no entity."""
WORDS = "words"
"""The scheme in which no word is outside."""
_PREFIXES = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S"}
"""BILOU is IOBES in other letters."""
_PREFIXES_OF = {"IOB1": "BI", "IOB2": "BI", "IOBES": "BIES", "BILOU": "BILU", "IO": "I"}
_OPEN = ("B", "I")
"""Behind them an entity goes on, where a scheme marks its end."""


class Entity(NamedTuple):
    """Words that are one thing."""

    label: str
    """Its class."""
    start: int
    """Number of its first word."""
    end: int
    """Number of the word behind its last one."""


@dataclass(frozen=True)
class Tagging:
    """How the tags of a data set are read.

    Args:
        alone: Whether a bare name is a word for itself (scheme `words`), and not a part of a run (IO).
        untyped: Whether a bare B, I, E, S, L or U is a place in an entity of the only class.
        joint: What stands between the place and the class.
        suffix: Whether the class comes first.
    """

    alone: bool = False
    untyped: bool = False
    joint: str = "-"
    suffix: bool = False

    @classmethod
    def of(cls, labels: Iterable[str]) -> Tagging:
        """That of a data set with these tags; of none: bare names are parts of runs."""
        known = set(labels)
        places = known - {OUTSIDE}
        alone = bool(known) and OUTSIDE not in known
        if places and places <= _PREFIXES.keys():
            return cls(alone, untyped=True)
        for joint, suffix in (("-", False), ("_", False), ("-", True), ("_", True)):
            tagging = cls(alone, joint=joint, suffix=suffix)
            if places and all(tagging.letter(tag) for tag in places):
                return tagging
        return cls(alone)

    def letter(self, tag: str) -> str:
        """The letter of a tag that says its place in an entity; empty if it has none."""
        if tag == OUTSIDE:
            return ""
        letter, joint = (tag[-1:], tag[-2:-1]) if self.suffix else (tag[:1], tag[1:2])
        written = joint == self.joint and len(tag) > len(letter + joint)
        return letter if letter in _PREFIXES and (written or (self.untyped and tag == letter)) else ""

    def with_letter(self, tag: str, letter: str) -> str:
        """A tag that has a letter, with another in its place."""
        return f"{tag[:-1]}{letter}" if self.suffix else f"{letter}{tag[1:]}"

    def split(self, tag: str) -> tuple[str, str]:
        """A tag's place in an entity (B, I, E, S, or O) and the class, as in `I-PER`."""
        if tag == OUTSIDE:
            return OUTSIDE, ""
        if letter := self.letter(tag):
            label = tag[:-2] if self.suffix else tag[2:]
            return _PREFIXES[letter], label or "_"
        return ("S" if self.alone else "I"), tag

    def entities(self, tags: Sequence[str]) -> list[Entity]:
        """The entities of one sentence, as seqeval finds them by default; they do not overlap."""
        entities: list[Entity] = []
        label, start = None, 0
        for number, tag in enumerate((*tags, OUTSIDE)):
            place, kind = self.split(tag)
            if label is not None and (place in ("O", "B", "S") or kind != label):
                entities.append(Entity(label, start, number))
                label = None
            if label is None and place != OUTSIDE:
                label, start = kind, number
            if place in ("E", "S") and label is not None:
                entities.append(Entity(label, start, number + 1))
                label = None
        return entities

    def counts(self, predicted: Sequence[str], true: Sequence[str]) -> dict[str, list[int]]:
        """Of a sentence's entities, by class: how many are right, predicted, true."""
        guessed, there = self.entities(predicted), self.entities(true)
        found: dict[str, list[int]] = {}
        for place, entities in enumerate((set(guessed) & set(there), guessed, there)):
            for entity in entities:
                found.setdefault(entity.label, [0, 0, 0])[place] += 1
        return found

    def classes(self, tags: Iterable[str]) -> list[str]:
        """The classes of entities that the tags name, in order."""
        return sorted({self.split(tag)[1] for tag in tags} - {""})


def scheme_of(sentences: Sequence[Sequence[str]]) -> str:
    """The scheme of some sentences' tags, by the tags that there are and by what stands before them."""
    labels = {tag for tags in sentences for tag in tags}
    tagging = Tagging.of(labels)
    letters = {letter for tag in labels if (letter := tagging.letter(tag))}
    if not letters:
        return WORDS if tagging.alone else "IO"
    if letters & {"L", "U"}:
        return "BILOU"
    if letters & {"E", "S"}:
        return "IOBES"
    if "B" not in letters:
        return "IO"
    # In IOB1 a B- stands only behind an entity of its own class; one elsewhere tells IOB2.
    behind = all(
        place != "B" or (before[0] in _OPEN and before[1] == label)
        for tags in sentences
        for before, (place, label) in _neighbours(tags, tagging)
    )
    return "IOB1" if behind else "IOB2"


def ill_formed(tags: Sequence[str], scheme: str, tagging: Tagging) -> int:
    """How many tags of a sentence cannot stand where they do, by their scheme."""
    if scheme == "IOB2":
        return sum(
            place == "I" and (before[0] not in _OPEN or before[1] != label)
            for before, (place, label) in _neighbours(tags, tagging)
        )
    if scheme == "IOB1":
        return sum(
            place == "B" and (before[0] not in _OPEN or before[1] != label)
            for before, (place, label) in _neighbours(tags, tagging)
        )
    if scheme in ("IOBES", "BILOU"):
        return sum(
            (place not in ("I", "E") or before[1] != label) if before[0] in _OPEN else place in ("I", "E")
            for before, (place, label) in _neighbours((*tags, OUTSIDE), tagging)
        )
    return 0


def whole_set(labels: Iterable[str], scheme: str) -> list[str]:
    """All tags that sentences of a scheme may have: O first, then by class.

    Args:
        labels: The tags that there are. A class that has only some of its prefixes gets the others as well:
            a class with one entity of two words has no `I-` where it happens to be in the test rows.
        scheme: Their scheme.
    """
    known = set(labels)
    tagging = Tagging.of(known)
    for tag in list(known):
        if tagging.letter(tag) and not tagging.untyped:
            known |= {tagging.with_letter(tag, letter) for letter in _PREFIXES_OF.get(scheme, "")}
    return sorted(known, key=lambda tag: (tag != OUTSIDE, tagging.split(tag)[1], tag))


def _neighbours(tags: Sequence[str], tagging: Tagging) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Each tag in its parts, behind those of the one before it."""
    before = (OUTSIDE, "")
    for tag in tags:
        parts = tagging.split(tag)
        yield before, parts
        before = parts
