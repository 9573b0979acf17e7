"""What a model made of each test row: predictions.jsonl, a JSON object a line."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from deltatune.errors import DataError
from deltatune.phrasing import first_problem
from deltatune.results.record import SCHEMA

_PICTURE = re.compile(r"\[image, \d+ x \d+ pixels\]")
"""What stands for an image in predictions that have no groups: it says nothing of which one it was."""
_LEFT_OUT = ("probabilities", "spans", "words", "pair", "references", "nearest", "vector")
"""Keys that a line has only where they say something."""
Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Span:
    """An entity that the model finds in a text."""

    text: str
    """Its words."""
    label: str
    """Its class."""
    start: int
    """Its first character in the input, from 0."""
    end: int
    """The one behind its last."""
    score: Finite
    """Mean probability of its words' tags."""

    def as_dict(self) -> dict[str, Any]:
        """As a line holds it."""
        return {name: getattr(self, name) for name in ("text", "label", "start", "end", "score")}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model made of one row."""

    # A dataclass and no model: there are thousands, and pydantic makes one of a line as it checks it.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        strict=True, extra="ignore", use_attribute_docstrings=True
    )

    id: str
    """The row's id."""
    input: str
    """The row's text; of an image a note of its size, or its file."""
    reference: str
    """The reference text, or name of the label (of several: `toxic, insult`, `(none)`); of tagged words their
    tags, with blanks between."""
    prediction: str
    """The generated text, or name of the label that is predicted, or the tags that are, as of `reference`."""
    stopped: bool | None = None
    """Whether the model ended the text itself; null in classification."""
    scores: dict[str, Finite] = field(default_factory=dict)
    """Numbers of this row by metric key, for the metrics that are means over rows."""
    nll: Finite | None = None
    """Loss of the row, summed over its tokens: the negative log-likelihood of the reference, or of all of
    them, in nats; of numbers and of vectors the loss of the task. Null if no loss was asked for."""
    tokens: int | None = None
    """How many tokens that sum has (1 in classification, words where these have tags), in the model's own
    tokenizer."""
    probabilities: dict[str, float] | None = None
    """Of each class, or of the 100 most probable ones; of labels of which a row may have several: all. Left
    out for texts."""
    group: str | None = None
    """Rows of one group depend on each other and count as one in statistics: those of equal input, or of
    one group of the recipe's `data.columns.group`."""
    pair: str | None = None
    """The row's second text; left out where it has one."""
    references: list[str] | None = None
    """All texts that are right, `reference` first; left out where there is one."""
    nearest: tuple[str, ...] | None = None
    """Of a search, the texts that are nearest to the input, the nearest first; left out of all else."""
    vector: list[Finite] | None = None
    """Of a text whose vector is asked for; left out of all else."""
    schema: int = SCHEMA
    """Version of the line."""
    spans: list[Span] | None = None
    """Of tagged words the entities that are predicted; left out elsewhere."""
    words: list[tuple[int, int]] | None = None
    """Where each tagged word starts and ends in the input, in characters; left out elsewhere."""

    @property
    def of_input(self) -> Hashable:
        """The same for rows of one input: they depend on each other, and count as one in statistics.

        In files of version 0.1 the input itself, or the row where an image is only noted.
        """
        if self.group is not None:
            return self.group
        return ("row", self.id) if _PICTURE.fullmatch(self.input) else (self.input, self.pair)

    def as_dict(self) -> dict[str, Any]:
        """The line, without what is left out."""
        values = {
            "id": self.id,
            "input": self.input,
            "pair": self.pair,
            "reference": self.reference,
            "references": self.references,
            "prediction": self.prediction,
            "stopped": self.stopped,
            "scores": self.scores,
            "nll": self.nll,
            "tokens": self.tokens,
            "probabilities": self.probabilities,
            "spans": None if self.spans is None else [span.as_dict() for span in self.spans],
            "words": None if self.words is None else [list(place) for place in self.words],
            "nearest": self.nearest,
            "vector": self.vector,
            "group": self.group,
            "schema": self.schema,
        }
        return {key: value for key, value in values.items() if value is not None or key not in _LEFT_OUT}


PREDICTION: TypeAdapter[Prediction] = TypeAdapter(Prediction)


def read_predictions(path: Path, *, remedy: str) -> list[Prediction]:
    """Read the predictions of a run, in the order of the file.

    Raises:
        DataError: It is missing, or a line is damaged; it names which.
    """
    try:
        lines = _lines(path)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error}).", remedy=remedy) from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(PREDICTION.validate_json(line))
        except ValidationError as error:
            where = f"{path}, line {number}"
            raise DataError(_problem(error), field=where, remedy=remedy) from error
    return found


def whole_predictions(path: Path) -> Iterator[Prediction | None]:
    """The lines of a file that may have been damaged: a prediction each, or None for one that is none."""
    for line in _lines(path) if path.is_file() else []:
        if not line.strip():
            continue
        try:
            yield PREDICTION.validate_json(line)
        except ValidationError:
            yield None


def _lines(path: Path) -> list[bytes]:
    """Not `splitlines`: a text may hold line breaks of Unicode, which our JSON does not escape."""
    return path.read_bytes().removesuffix(b"\n").split(b"\n")


def _problem(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    if detail["type"] == "json_invalid":
        return f"is no JSON ({detail['ctx']['error']})."
    return first_problem(error)
