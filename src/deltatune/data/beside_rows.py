"""What a method puts beside rows when they are encoded: training rows before them, or an answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deltatune.data.rows import Row
from deltatune.errors import TargetError
from deltatune.phrasing import listing
from deltatune.tasks import TASKS, tasks_that
from deltatune.tasks.task import ANSWER, INPUT, UNTIL, Feature, Shot
from deltatune.tasks.tokens import BETWEEN

if TYPE_CHECKING:
    from deltatune.core.beside import Beside


@dataclass(frozen=True, slots=True)
class BesideRows:
    """A method's knowledge of rows, and the room that there is for what it shows.

    The limit of a row's input (`data.max_input_tokens`) is its own. What is shown may take as many tokens as
    so many rows of their own may, and no more than the base has positions for. Rows that find no room are
    left out, where the most telling, which stand last, are asked first.
    """

    beside: Beside
    positions: int | None
    """Of the base, for what is read and what is written behind it; None: it has no end."""
    new: int
    """Tokens that may stand behind a prompt."""

    def require_fit(self, task: str, method: str) -> None:
        """Refuse a task whose rows cannot stand before each other.

        Raises:
            TargetError: It is one.
        """
        if self.beside.shows and not TASKS.get(task).shows_rows:
            fitting = tasks_that(lambda each: each.shows_rows)
            raise TargetError(
                f"cannot show rows of the task {task}.",
                field=method,
                remedy=f"It is for {listing(fitting, 'and')}.",
            )

    def shown(self, row: Row, tools: Any) -> Row:
        """The row with the training rows that are shown before it, as many as fit.

        Args:
            row: The row.
            tools: The encoder.
        """
        shots = tuple(self.beside.shots(row)) if self.beside.shows else ()
        asked = replace(row, target="", references=())
        if not shots or self._fits(replace(asked, shots=shots), tools):
            return replace(row, shots=shots)
        kept: tuple[Shot, ...] = ()
        for shot in reversed(shots):  # one that is too long by itself does not keep the others out
            if self._fits(replace(asked, shots=(shot, *kept)), tools):
                kept = (shot, *kept)
        return replace(row, shots=kept)

    def _fits(self, asked: Row, tools: Any) -> bool:
        task, spec = TASKS.get(tools.task), tools.spec
        feature, _ = task.encode(asked, tools, supervised=False)
        read = [parts for stack, parts in task.places([feature], self.new) if stack == "input"]
        most = spec.max_input_tokens + self.beside.shows * (spec.max_input_tokens + spec.max_target_tokens)
        total = max(sum(parts.values()) for parts in read)
        return max(parts.get(INPUT, 0) for parts in read) <= most and (
            self.positions is None or total <= self.positions
        )

    def told(self, row: Row, feature: Feature, tools: Any) -> Feature:
        """The row's feature with its answer, where the method knows it: its tokens and the end token.

        Behind rows that are one text with it, its answer ends where theirs do, unless one of theirs goes on
        there. A model that was not tuned goes on with further rows.
        """
        if not self.beside.answers:
            ends = row.shots and not tools.chat and not any(BETWEEN in shot.target for shot in row.shots)
            return {**feature, UNTIL: BETWEEN} if ends else feature
        return {**feature, ANSWER: [*tools.tokens.bare(self.beside.answer(row)), tools.tokens.eos_ids[0]]}
