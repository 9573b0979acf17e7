"""What a method that trains nothing knows of a row, from texts alone: rows to show before it, or its answer.

An adapter has it (`Adapter.beside`), since it is made of the training rows and saved as deltas are. An
encoder asks it for each row (`deltatune.data.beside_rows`), so that evaluation, `predict` and files of runs
all go the one way from rows to tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deltatune.tasks.task import Row, Shot


class Beside(Protocol):
    """Is asked for each row that is evaluated or predicted for; never for one that is trained on."""

    @property
    def shows(self) -> int:
        """How many rows it wants to show before each; 0 if it shows none."""

    @property
    def answers(self) -> bool:
        """Whether it answers itself, so that no model is asked and there is no loss."""

    def shots(self, row: Row) -> Sequence[Shot]:
        """Rows to show before a row, the most telling one last."""

    def answer(self, row: Row) -> str:
        """Its answer."""
