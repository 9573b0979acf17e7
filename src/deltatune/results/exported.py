"""What `export` made of a run: export.json."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from deltatune.results.record import SCHEMA, Record


class ExportedSite(Record):
    """A layer whose update became a low-rank one."""

    path: str
    """Of the module in the base."""
    shape: list[int]
    """Of its weight, as the module keeps it."""
    rank: int
    """Of the low-rank update that was written."""
    needed: int | None
    """Rank of the whole update, to rounding; null where it was not computed."""
    energy: float
    """Squared norm of the whole update."""
    kept: float
    """Share of it that the low-rank update holds, from 0 to 1."""
    how: str
    """`factors` (the run's own), `svd`, or `randomized svd` of a matrix too large for an exact one."""


class LeftOut(Record):
    """A change of the run that the export does not hold."""

    parameter: str
    """Of the base."""
    energy: float
    """Squared norm of the change."""
    why: str
    """Why it is not held."""


class KeptMetric(Record):
    """The run's metric with its own delta and with what was exported, on the same rows."""

    metric: str
    """Its key."""
    rows: int
    """Test rows."""
    before: float
    """With the run's delta."""
    after: float
    """With the export."""
    difference: float
    """`after` minus `before`."""
    low: float | None
    """Lower end of its 95 % interval, by a paired bootstrap over the rows; null if the metric allows none."""
    high: float | None
    """Upper end."""


class Comparison(Record):
    """Outputs of the run's model and of what was exported."""

    computed_by: str
    """What computed those of the export: `deltatune`, or another program with its version."""
    on: str
    """The rows, in words."""
    largest_difference: float
    """Of a logit."""
    effect: float
    """Largest difference that the run's delta makes to the base's logits, to judge that by."""


class Exported(Record):
    """What was written, and how near it is to the run."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    """Version of the file."""
    target: str
    """The target's name, as `--as` has it."""
    run: str
    """The run's folder."""
    method: str
    """Its method."""
    base: str
    """Its base, as the recipe names it."""
    folder: str | None
    """Where the export is; null of a dry run."""
    exact: bool
    """Whether it computes what the run does, to rounding."""
    compared: list[Comparison] = Field(default_factory=list)
    """Its outputs beside the run's."""
    metric: KeptMetric | None = None
    """The run's metric before and after; null if it was not measured."""
    sites: list[ExportedSite] = Field(default_factory=list)
    """Of a low-rank export: the layers."""
    whole: list[str] = Field(default_factory=list)
    """Of a low-rank export: modules that are saved whole (heads, norms)."""
    biases: list[str] = Field(default_factory=list)
    """Of a low-rank export: modules whose bias is saved."""
    left_out: list[LeftOut] = Field(default_factory=list)
    """What is not held."""
    notes: list[str] = Field(default_factory=list)
    """What must be known to use it."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What only this target tells."""

    @property
    def kept(self) -> float:
        """Share of the energy of all updates that is held, from 0 to 1."""
        whole = sum(site.energy for site in self.sites) + sum(part.energy for part in self.left_out)
        return sum(site.energy * site.kept for site in self.sites) / whole if whole else 1.0
