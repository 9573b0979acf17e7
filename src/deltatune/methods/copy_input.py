"""Copying: the answer is the input. What a method that changes texts must beat.

    y(x) = x

Of a summary that is its lead, since it is cut at `evaluation.max_new_tokens`; of a correction it is leaving
the text as it is; of a translation a floor. The template's words are not copied.

Oracle: the input column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from deltatune.core.adapter import Adapter
from deltatune.core.beside import Beside
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.methods.few_shot import require_writing
from deltatune.tasks.task import Row, Shot


class Copy(Adapter):
    """An adapter that copies."""

    shows, answers = 0, True

    @property
    def beside(self) -> Beside:
        """Itself."""
        return self

    def shots(self, row: Row) -> Sequence[Shot]:
        """None."""
        return ()

    def answer(self, row: Row) -> str:
        """The text of the input column."""
        return str(row.input) if row.source is None else row.source


class CopyConfig(MethodConfig):
    """The input as the answer, cut where a generated text would be; no settings."""

    name: ClassVar[str] = "copy"
    title: ClassVar[str] = "Nothing: the input is the answer, up to the number of tokens that may be written."
    formula: ClassVar[str] = "y(x) = x"
    when: ClassVar[str] = (
        "Beside methods that shorten, correct or rewrite a text: of a summary it is the lead, which is hard "
        "to beat in news."
    )
    cost: ClassVar[str] = "Nothing is trained, stored or computed."
    defaults: ClassVar[str] = "There are no settings; evaluation.max_new_tokens cuts the copy."
    paper: ClassVar[str] = "None; it is a baseline (lead-3 in Nallapati et al. 2017, 1611.04230)."
    default_lr: ClassVar[float] = 0.0
    trains: ClassVar[bool] = False
    answers_texts: ClassVar[bool] = True

    def build(self, view: BaseView) -> Adapter:
        """Nothing."""
        require_writing(view, "copy")
        return Copy()
