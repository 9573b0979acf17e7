"""Scores of a run on tasks of lm-evaluation-harness."""

from __future__ import annotations

from deltatune.results.record import Number, Record


class TaskScore(Record):
    """A metric of a task, for the base alone and with the delta, on the same rows."""

    task: str
    """Its name."""
    metric: str
    """As the harness calls it; behind a comma the filter, if the task has one."""
    higher_is_better: bool | None
    """Null if the harness does not say."""
    rows: int
    """Rows that were scored."""
    base: Number
    """Of the base alone."""
    delta: Number
    """With the delta."""
    difference: Number
    """With the delta, less the base."""
    low: Number | None
    """Of the 95 % interval of the difference, by resampling rows in pairs; null of a single row."""
    high: Number | None
    """The other end."""
