"""A run that is served: everything of it but its delta's tensors, which come and go."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from deltatune.runs.loaded import LoadedRun
from deltatune.tasks import TASKS
from deltatune.tasks.task import Task


@dataclass(eq=False)
class Served:
    """A delta by its name, or the plain base."""

    name: str
    """What requests call it."""
    run: LoadedRun
    """Its recipe and encoder; `run.adapter` is what the delta is called in the model, None of the base."""
    folder: Path | None
    """None of the base."""
    mixes: bool = True
    """Whether it may share a pass with rows of others."""
    joins: bool = True
    """Whether its rows may join others that are being written already."""
    removed: bool = False
    """Whether it is gone for whoever asks from now on."""
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""
    bytes: int = 0
    """Of the delta's tensors."""
    digest: str | None = None
    """Of the delta's files, as they were when it was loaded first."""

    @property
    def task(self) -> Task:
        """What it does."""
        return TASKS.get(self.run.recipe.task)

    @property
    def chats(self) -> bool:
        """Whether there is a template by which it answers conversations."""
        template = self.run.recipe.data.chat_template
        return self.task.continues and bool(
            template or getattr(self.run.base.processor, "chat_template", None)
        )

    @property
    def lane(self) -> str | None:
        """Rows with the same one may share a pass; None: those that mix."""
        return None if self.mixes else self.run.adapter

    @property
    def greedy(self) -> bool:
        """Whether `predict` writes its texts token by token, without beams."""
        return self.run.recipe.evaluation.num_beams == 1
