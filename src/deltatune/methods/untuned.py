"""The untuned base: what every method must beat."""

from __future__ import annotations

from typing import ClassVar

from deltatune.core.adapter import Adapter
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView


class UntunedConfig(MethodConfig):
    """The base as it came. Nothing is trained; it is only evaluated. A new head of a classifier is random."""

    name: ClassVar[str] = "untuned"
    title: ClassVar[str] = "Nothing: the pretrained model as it is."
    formula: ClassVar[str] = "y = f(x; W_0)"
    when: ClassVar[str] = (
        "Always: a method that does not beat it has learned nothing. Of a classifier whose head is new it is "
        "a random guess; there `head` and `majority` are what to beat."
    )
    cost: ClassVar[str] = "Nothing is trained; of a new head the random values are stored."
    defaults: ClassVar[str] = "There are no settings."
    paper: ClassVar[str] = "None; it is the baseline."
    default_lr: ClassVar[float] = 0.0
    trains: ClassVar[bool] = False

    def build(self, view: BaseView) -> Adapter:
        """An adapter without anything in it."""
        return Adapter()
