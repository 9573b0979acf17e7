"""The head alone: a linear probe. What a method must beat to have changed anything but the new head.

    logits = W h + b, where h is what the frozen base computes and W, b are trained

Oracle: multinomial logistic regression on the same features.
"""

from __future__ import annotations

from typing import ClassVar

from deltatune.core.adapter import Adapter
from deltatune.core.delta import ModuleCopy
from deltatune.core.method import MethodConfig
from deltatune.core.new_heads import head_modules
from deltatune.core.sites import BaseView
from deltatune.errors import TargetError
from deltatune.recipe.train_section import HEAD_LR


class HeadConfig(MethodConfig):
    """A classifier's head and nothing else. There are no settings; it learns at `train.head_lr`."""

    name: ClassVar[str] = "head"
    title: ClassVar[str] = "A classifier's head alone, on a base that stays as it is (a linear probe)."
    formula: ClassVar[str] = "logits = W h + b, with h from the frozen base"
    when: ClassVar[str] = (
        "In every comparison of classifiers: a method that does not beat it has trained its new head and "
        "nothing of use besides. It is added by itself where the head is new."
    )
    cost: ClassVar[str] = (
        "d (classes) + (classes) parameters. The base's outputs are kept after the first epoch, so that "
        "further ones cost next to nothing."
    )
    defaults: ClassVar[str] = "It learns at train.head_lr, as the new heads of all other methods do."
    paper: ClassVar[str] = (
        "Alain and Bengio 2016, Understanding Intermediate Layers Using Linear Classifier Probes "
        "(arXiv 1610.01644)."
    )
    default_lr: ClassVar[float] = HEAD_LR
    rate: ClassVar[str] = "head_lr"

    def build(self, view: BaseView) -> Adapter:
        """A copy of the head, if the base brings a trained one; new ones every adapter gets anyway."""
        heads = head_modules(view)
        if not heads:
            raise TargetError(
                f"a {type(view.base).__name__} has no head that tells classes apart.",
                field="head",
                remedy="It is for tasks that tell classes apart.",
            )
        return Adapter() if view.heads else Adapter({p: ModuleCopy(m).float() for p, m in heads.items()})
