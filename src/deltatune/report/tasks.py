"""Scores on tasks of lm-evaluation-harness, as rows of a table."""

from __future__ import annotations

from typing import NamedTuple

from deltatune.report.load import Comparison, Method
from deltatune.results import TaskScore

TASK_HEADINGS = ("task", "metric", "rows", "base", "delta", "difference", "95% interval")
"""Of the columns."""


class OnTask(NamedTuple):
    """A metric of one run on one task."""

    method: Method
    seed: int
    score: TaskScore
    cells: list[str]
    """As of `TASK_HEADINGS`."""


def on_tasks(comparison: Comparison) -> list[OnTask]:
    """What finished runs score on the harness's tasks, task by task, the best method of the ranking first."""
    found = [
        OnTask(method, run.finished.seed, score, task_cells(score))
        for method in comparison.ranked
        for run in method.runs
        if run.finished
        for score in run.finished.tasks
    ]
    places = list(dict.fromkeys((one.score.task, one.score.metric) for one in found))
    return sorted(found, key=lambda one: places.index((one.score.task, one.score.metric)))


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
