"""How results depend on the number of training rows, or on the rank: curve.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deltatune.results.parts import Failure
from deltatune.results.record import SCHEMA, Number, Record


class CurvePoint(Record):
    """Runs with one number of rows, or one rank."""

    at: int
    """Training rows, a mean over seeds where groups of rows are kept whole; or the rank."""
    asked: int | None = None
    """The number of rows that the recipe names; null of all rows."""
    status: Literal["done", "failed"] = "failed"
    """`failed` if one of its runs is."""
    error: Failure | str | None = None
    """What went wrong."""
    runs: list[str] = Field(default_factory=list)
    """Folders of its runs within the comparison's, one a seed."""
    score: Number | None = None
    """Mean over seeds of the metric that decides, of the test rows; null if it failed."""
    interval: list[Number] | None = None
    """Ends of its 95 % interval: [low, high]; null if the metric has no value for each row."""
    by_seed: list[Number] = Field(default_factory=list)
    """The score of each seed's run."""
    steps: Number | None = None
    """Optimizer steps, mean over seeds."""
    trained_parameters: Number | None = None
    """Parameters that got gradients, heads included."""


class Gain(Record):
    """How much better the score of one point is than that of another; positive is better."""

    from_: int = Field(alias="from")
    """Rows, or the rank, of the one."""
    to: int
    """Of the other."""
    gain: Number
    """By how much the other is better."""
    low: Number
    """Lower end of the 95 % interval."""
    high: Number
    """Upper end of the 95 % interval."""


class LawPoint(Record):
    """What a power law says of a number of rows."""

    at: int
    """Training rows."""
    score: Number
    """The score by the law."""
    low: Number
    """Lower end of the 95 % interval."""
    high: Number
    """Upper end of the 95 % interval."""


class PowerLaw(Record):
    """score = asymptote - scale * rows ** -exponent, with a plus where a lower score is better."""

    asymptote: Number
    """The score of rows without end, as far as the law holds."""
    scale: Number
    """At one row."""
    exponent: Number
    """How soon more rows gain less."""
    p: Number
    """How likely chance alone makes scores that are as far from a power law; below .01 it says nothing."""
    line: list[LawPoint] = Field(default_factory=list)
    """From the smallest number of rows to twice the largest."""
    next: Gain | None = None
    """What as many rows again would gain; null if the scores do not follow the law, or get no better."""


class Curve(Record):
    """The points of one entry."""

    axis: Literal["rows", "rank"]
    """What they differ in."""
    name: str
    """The entry's label."""
    method: str = ""
    """Its method."""
    own: int
    """The rows, or the rank, that it has in the ranking."""
    points: list[CurvePoint] = Field(default_factory=list)
    """The smallest first."""
    least: int | None = None
    """The smallest that no other is shown to beat; null if differences were not tested."""
    last: Gain | None = None
    """From the last but one of the points to the last; null if differences were not tested."""
    law: PowerLaw | None = None
    """Of the numbers of rows, if there are four or more."""


class Curves(Record):
    """All curves of a comparison."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    """Version of the file."""
    primary_metric: str
    """Key of the metric that decides."""
    higher_is_better: bool
    """Its direction."""
    seeds: list[int]
    """Of the runs of each point."""
    curves: list[Curve]
    """Those by rows first."""

    @property
    def failed(self) -> bool:
        """Whether a run of any point failed."""
        return any(point.status == "failed" for curve in self.curves for point in curve.points)
