"""Entities marked in a text: those that are right, missed, and predicted where there are none."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from deltatune.results import Prediction
from deltatune.tasks.tags import OUTSIDE, Entity, Tagging


def true_entities(line: Prediction) -> Markup:
    """The input with its entities, each behind its class."""
    return _marked(line, [(entity, "b") for entity in _entities(line.reference)])


def predicted_entities(line: Prediction) -> Markup:
    """The input with what is predicted: right in `<b>`, missed in `<del>`, and what is none in `<ins>`."""
    true, guessed = _entities(line.reference), _entities(line.prediction)
    marks = [(entity, "b" if entity in true else "ins") for entity in guessed]
    return _marked(line, marks + [(entity, "del") for entity in true if entity not in guessed])


def _entities(text: str) -> list[Entity]:
    tags = text.split()
    # Of a row whose words are all in entities it is not told whether bare names are runs: each is shown.
    return Tagging(alone=OUTSIDE not in tags).entities(tags)


def _marked(line: Prediction, marks: Sequence[tuple[Entity, str]]) -> Markup:
    """The text, each entity in an element; one that overlaps the one before is put behind it."""
    words, parts, done = line.words or [], [], 0
    for entity, element in sorted(marks, key=lambda mark: (mark[0].start, mark[1] == "del")):
        start, end = words[entity.start][0], words[entity.end - 1][1]
        if start > done:
            parts.append(Markup("{}").format(line.input[done:start]))
        gap = " " if start < done else ""
        shown = Markup("{0}<{1}>{2} <small>{3}</small></{1}>").format(
            gap, Markup(element), line.input[start:end], entity.label
        )
        parts.append(shown)
        done = max(done, end)
    return Markup("").join([*parts, Markup("{}").format(line.input[done:])])
