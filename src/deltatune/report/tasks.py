"""Scores on tasks of lm-evaluation-harness, as rows of a table."""

from __future__ import annotations

from deltatune.results import TaskScore

TASK_HEADINGS = ("task", "metric", "rows", "base", "delta", "difference", "95% interval")
"""Of the columns."""


def task_cells(score: TaskScore) -> list[str]:
    """A row: both values, and how they differ on the same rows."""
    interval = "" if score.low is None or score.high is None else f"[{score.low:+.3f}, {score.high:+.3f}]"
    better = {True: "", False: " (less is better)", None: ""}[score.higher_is_better]
    return [
        score.task,
        f"{score.metric}{better}",
        f"{score.rows:,}",
        f"{score.base:.4g}",
        f"{score.delta:.4g}",
        f"{score.difference:+.3f}",
        interval,
    ]
