"""What the engine tells of its passes."""

from __future__ import annotations

from deltatune.serve.engine.work import Writing


class Passes:
    """Whoever counts them derives from it. Its functions are called in the engine's thread."""

    def passed(self, rows: int, seconds: float) -> None:
        """Rows have gone through the model."""

    def begun(self, work: Writing, seconds: float) -> None:
        """The first token of a text has come, so many seconds after it was asked for."""
