"""How long work tells a person what it is doing, without knowing about terminals."""

from __future__ import annotations

from typing import Protocol


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
