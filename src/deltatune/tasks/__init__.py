"""The tasks, one file each. A new task is a file here and a line in this table.

A package of one's own registers a task by an entry point of the group `deltatune.tasks`, and a script by one
call: `TASKS.add("my-task", MyTask())`.
"""

from __future__ import annotations

from collections.abc import Callable

from deltatune.registry import Registry
from deltatune.tasks.task import Task

TASKS: Registry[Task] = Registry(
    "task",
    {
        "text-to-text": "deltatune.tasks.text_to_text:TASK",
        "causal-lm": "deltatune.tasks.causal_lm:TASK",
        "conversation": "deltatune.tasks.conversation:TASK",
        "text-classification": "deltatune.tasks.text_classification:TASK",
        "multi-label-classification": "deltatune.tasks.multi_label_classification:TASK",
        "text-regression": "deltatune.tasks.text_regression:TASK",
        "token-classification": "deltatune.tasks.token_classification:TASK",
        "embedding": "deltatune.tasks.embedding:TASK",
        "text-similarity": "deltatune.tasks.text_similarity:TASK",
        "image-classification": "deltatune.tasks.image_classification:TASK",
    },
    group="deltatune.tasks",
)

__all__ = ["TASKS", "Task", "tasks_that"]


def tasks_that(does: Callable[[Task], bool]) -> list[str]:
    """Names of the tasks that do something, for a remedy: no one outside this package names a task."""
    return [name for name, task in TASKS.items() if does(task)]
