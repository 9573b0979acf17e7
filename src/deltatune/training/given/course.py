"""What the learning rate of `train.lr: auto` is taken for: the steps of an entry's runs, and its base."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from deltatune.memory.predict import Setup
from deltatune.models.load import read_config
from deltatune.recipe.rates import Course
from deltatune.recipe.schema import MethodEntry
from deltatune.tasks import TASKS
from deltatune.training.given.context import Context


def course_of(context: Context, entry: MethodEntry) -> Course:
    """The course of an entry's runs, before its base is loaded.

    Raises:
        ModelError: The base's configuration cannot be read.
    """
    recipe = context.recipe
    steps = entry.train.steps(len(context.dataset.train))
    return _course(entry, steps, recipe.task, read_config(recipe.model_of(entry)))


def planned_rate(entry: MethodEntry, setup: Setup, steps: int | None) -> dict[str, Any]:
    """The peak rate and where it comes from, as a plan has them; nothing without known steps."""
    if not steps:
        return {}
    course, spec = _course(entry, steps, setup.task, setup.config), entry.train
    return {"lr": spec.peak_lr(setup.method, course), "lr_because": spec.lr_because(setup.method, course)}


def _course(entry: MethodEntry, steps: int, task: str, config: PreTrainedConfig) -> Course:
    inner = config.get_text_config()
    width = getattr(inner, "d_model", None) or getattr(inner, "hidden_size", None)
    known = width if isinstance(width, int) else None
    return Course(steps, TASKS.get(task).reads, known, fresh=entry.start is None)
