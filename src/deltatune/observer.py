"""How long work tells a person what it is doing, without knowing about terminals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Observer(Protocol):
    """Receives the progress of long work. The command line draws it; a library user may pass `None`."""

    def stage(self, text: str) -> None:
        """A new phase begins ("loading bundled:t5-small")."""

    def start(self, task: str, total: int, done: int = 0) -> None:
        """A countable task of `total` units begins, of which an earlier process has `done` some."""

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        """`amount` more units are done; `numbers` (loss, rate) are shown beside the bar."""

    def finish(self, task: str) -> None:
        """The task is over."""

    def log(self, text: str) -> None:
        """A line worth keeping on the screen."""

    def warn(self, text: str) -> None:
        """Something the user should know about, though work goes on."""


class Silent:
    """The observer of library users who pass none."""

    def stage(self, text: str) -> None:
        """Say nothing."""

    def start(self, task: str, total: int, done: int = 0) -> None:
        """Say nothing."""

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        """Say nothing."""

    def finish(self, task: str) -> None:
        """Say nothing."""

    def log(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""


class Telling:
    """Tells all of it to whoever is not here: a program that reads lines, a process that waits.

    Args:
        tell: Called with each event: `do` is the method's name, `text` what it was called with.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], object]) -> None:
        self._tell = tell

    def stage(self, text: str) -> None:
        """Tell the new phase."""
        self._tell({"do": "stage", "text": text})

    def start(self, task: str, total: int, done: int = 0) -> None:
        """Tell that a task begins."""
        self._tell({"do": "start", "text": task, "total": total, "done": done})

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        """Tell how much more is done."""
        self._tell({"do": "advance", "text": task, "amount": amount, "numbers": numbers or {}})

    def finish(self, task: str) -> None:
        """Tell that it is over."""
        self._tell({"do": "finish", "text": task})

    def log(self, text: str) -> None:
        """Tell the line."""
        self._tell({"do": "log", "text": text})

    def warn(self, text: str) -> None:
        """Tell the warning."""
        self._tell({"do": "warn", "text": text})
