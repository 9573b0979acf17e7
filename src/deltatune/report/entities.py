"""Entities marked in a text (right, missed, predicted where there are none), and how each class is found."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from deltatune.report.calibration import Share
from deltatune.report.load import Comparison, Method
from deltatune.results import Prediction
from deltatune.tasks import TASKS
from deltatune.tasks.tags import Entity, Tagging


class OfClass(NamedTuple):
    """How well a method finds entities of a class."""

    name: str
    entities: int
    predicted: float
    f1: float
    precision: Share | None
    recall: Share | None


class Judged(NamedTuple):
    """What the test rows tell of one method."""

    method: Method
    classes: list[OfClass]


class EntityClasses(NamedTuple):
    """The section about classes of entities."""

    judged: list[Judged]
    seeds: int

    def amount(self, count: float) -> str:
        """A number of entities, which over seeds may be a fraction."""
        return f"{count:,.0f}" if abs(count - round(count)) < 0.05 else f"{count:,.1f}"


def entity_classes(comparison: Comparison) -> EntityClasses | None:
    """The section, of a comparison of taggers whose predictions are there."""
    task, data = comparison.board.task or "", comparison.board.data
    if task not in TASKS or TASKS.get(task).scored_as != "tags" or not data or not data.labels:
        return None
    tagging, judged, seeds = Tagging.of(data.labels), [], 0
    for method in comparison.ranked:
        runs = [list(lines.values()) for run in method.runs if (lines := run.predictions())]
        if runs:
            seeds = max(seeds, len(runs))
            judged.append(Judged(method, _classes(runs, tagging, tagging.classes(data.labels))))
    return EntityClasses(judged, seeds) if judged else None


def _classes(runs: list[list[Prediction]], tagging: Tagging, names: Sequence[str]) -> list[OfClass]:
    """Of each class that is there or predicted; numbers are means over runs."""
    tables = [
        [(row, tagging.counts(row.prediction.split(), row.reference.split())) for row in run] for run in runs
    ]
    lines = []
    for name in names:
        of_class = [[(row, counts[name]) for row, counts in table if name in counts] for table in tables]
        right, predicted, true = (
            fmean(sum(counts[place] for _, counts in rows) for rows in of_class) for place in range(3)
        )
        if not predicted and not true:
            continue
        made, there = (
            fmean(len({row.of_input for row, counts in rows if counts[place]}) for rows in of_class)
            for place in (1, 2)
        )
        f1 = 2 * right / (predicted + true)
        shares = Share.of(right, predicted, made), Share.of(right, true, there)
        lines.append(OfClass(name, round(true), predicted, f1, *shares))
    return lines


def true_entities(line: Prediction) -> Markup:
    """The input with its entities, each behind its class."""
    return _marked(line, [(entity, "b") for entity in _tagging(line).entities(line.reference.split())])


def predicted_entities(line: Prediction) -> Markup:
    """The input with what is predicted: right in `<b>`, missed in `<del>`, and what is none in `<ins>`."""
    tagging = _tagging(line)
    true, guessed = (tagging.entities(text.split()) for text in (line.reference, line.prediction))
    marks = [(entity, "b" if entity in true else "ins") for entity in guessed]
    return _marked(line, marks + [(entity, "del") for entity in true if entity not in guessed])


def _tagging(line: Prediction) -> Tagging:
    """How a row's tags are read; where none of its words is outside, each bare name is shown for itself."""
    return Tagging.of([*line.reference.split(), *line.prediction.split()])


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
