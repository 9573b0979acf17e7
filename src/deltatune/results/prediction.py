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
Finite = Annotated[float, Field(allow_inf_nan=False)]


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
    """The reference text, or name of the label."""
    prediction: str
    """The generated text, or name of the label that is predicted."""
    stopped: bool | None = None
    """Whether the model ended the text itself; null in classification."""
    scores: dict[str, Finite] = field(default_factory=dict)
    """Numbers of this row by metric key, for the metrics that are means over rows."""
    nll: Finite | None = None
    """Negative log-likelihood of the reference, in nats, summed over its tokens; null if no loss was asked
    for."""
    tokens: int | None = None
    """How many tokens that sum has (1 in classification), in the model's own tokenizer."""
    probabilities: dict[str, float] | None = None
    """Of each class, or of the 100 most probable ones; left out for texts."""
    group: str | None = None
    """Rows of one group depend on each other and count as one in statistics: those of equal input."""
    schema: int = SCHEMA
    """Version of the line."""

    @property
    def of_input(self) -> Hashable:
        """The same for rows of one input: they depend on each other, and count as one in statistics.

        In files of version 0.1 the input itself, or the row where an image is only noted.
        """
        if self.group is not None:
            return self.group
        return ("row", self.id) if _PICTURE.fullmatch(self.input) else self.input

    def as_dict(self) -> dict[str, Any]:
        """The line; of a text without `probabilities`."""
        values = {
            "id": self.id,
            "input": self.input,
            "reference": self.reference,
            "prediction": self.prediction,
            "stopped": self.stopped,
            "scores": self.scores,
            "nll": self.nll,
            "tokens": self.tokens,
            "probabilities": self.probabilities,
            "group": self.group,
            "schema": self.schema,
        }
        if self.probabilities is None:
            del values["probabilities"]
        return values


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
