"""Full fine-tuning: every weight is trained. The yardstick for quality and cost.

    theta = argmin L(theta), started at the pretrained theta_0

The base stays frozen all the same: the adapter owns a copy of each parameter and stands in for it while it is
in use, so that one base serves full fine-tuning beside any other method.

Oracle: a plain PyTorch loop over an unfrozen copy of the model.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from deltatune import quant
from deltatune.core.adapter import Adapter
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.core.whole import as_whole
from deltatune.errors import TargetError


class FullConfig(MethodConfig):
    """All parameters of the model."""

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "Every parameter of the model, in a copy."
    formula: ClassVar[str] = "theta = argmin L(theta), started at theta_0"
    when: ClassVar[str] = (
        "As the yardstick, or when the data are plenty and the task is far from the pretraining."
    )
    cost: ClassVar[str] = (
        "All parameters are trained and stored; 16 bytes per parameter of training memory beyond the "
        "activations."
    )
    defaults: ClassVar[str] = (
        "lr 1e-4: ten times below lora's. T5 usually takes 1e-4 to 3e-4, BERT 2e-5 to 5e-5."
    )
    paper: ClassVar[str] = (
        "Howard and Ruder 2018, Universal Language Model Fine-tuning for Text Classification "
        "(arXiv 1801.06146)."
    )
    default_lr: ClassVar[float] = 1e-4

    def build(self, view: BaseView) -> Adapter:
        """Copies of all parameters in float32.

        Raises:
            TargetError: The base is quantized.
        """
        formats = quant.describe(view.base)
        if formats:
            raise TargetError(
                f"full fine-tuning trains every weight, which a quantized base ({formats}) does not allow.",
                field="model",
                remedy="Set model.dequantize: true, or take another method.",
            )
        whole = {path: as_whole(p.detach()) for path, p in view.base.named_parameters()}
        return Adapter(own={path: nn.Parameter(p.clone().float()) for path, p in whole.items()})
