"""LN tuning: only the weights (and biases) of the norm layers are trained, in a copy.

    h = w * n(x) + b, with n the frozen norm's own normalisation and w, b trained from w_0, b_0
                                                                       (Zhao et al. 2024, section 3)

The base's norm runs as it is, and the delta adds (w - w_0) * n(x) + (b - b_0): that lets rows be routed and
deltas be stacked, and it is exact for every norm that is affine in its weight, Gemma's (1 + w) included.

Norms are recognised by what they are, not by name: a module without children whose parameters are a vector
`weight` and perhaps a vector `bias`, and whose output does not grow with its input.

Oracle: peft's LNTuningConfig with copied weights; files load both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta, ModuleCopy
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.core.whole import gathered
from deltatune.errors import TargetError
from deltatune.methods.lora import peft_targets


class NormDelta(Delta):
    """A norm's weight and bias, trained in a copy.

    Args:
        norm: The base's norm layer; it is copied in float32.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.ln_tuning_layers = ModuleCopy(norm).copy.float()
        self.offset = _acts_without_weight(self.ln_tuning_layers)
        for name, parameter in self.ln_tuning_layers.named_parameters():
            self.register_buffer(f"start_{name}", parameter.detach().clone(), persistent=False)

    def _changes(self) -> dict[str, Tensor]:
        """(w - w_0) and, where there is one, (b - b_0)."""
        return {
            name: parameter - self.get_buffer(f"start_{name}")
            for name, parameter in self.ln_tuning_layers.named_parameters()
        }

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + (w - w_0) * n(x) + (b - b_0); x and y [..., d]."""
        changes = self._changes()
        x = x.to(changes["weight"].dtype)
        change: Tensor = functional_call(self.ln_tuning_layers, changes, (x,))
        if self.offset:
            zeros = {name: torch.zeros_like(value) for name, value in changes.items()}
            change = change - functional_call(self.ln_tuning_layers, zeros, (x,))
        return y + change.to(y.dtype)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight + w - w_0, bias + b - b_0)."""
        changes = self._changes()
        folded = (weight.float() + changes["weight"].float()).to(weight.dtype)
        return folded, None if bias is None else (bias.float() + changes["bias"].float()).to(bias.dtype)


class LnTuningConfig(MethodConfig):
    """LN tuning. A tiny change that moves a model to another domain."""

    name: ClassVar[str] = "ln_tuning"
    title: ClassVar[str] = "Weights and biases of the norm layers, in a copy."
    formula: ClassVar[str] = "h = w * n(x) + b, w and b trained from w_0 and b_0"
    when: ClassVar[str] = (
        "For a shift of domain or modality with few rows, or as the cheapest baseline beside bitfit."
    )
    cost: ClassVar[str] = "d (2 d with biases) parameters for each norm, about 0.05 %; free once merged."
    defaults: ClassVar[str] = (
        "All norms (the paper: those of the attention blocks); lr 1e-3 is chosen here, as for bitfit."
    )
    paper: ClassVar[str] = (
        "Zhao et al. 2024, Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning "
        "(arXiv 2312.11420)."
    )
    default_lr: ClassVar[float] = 1e-3
    peft_type: ClassVar[str | None] = "LN_TUNING"

    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Norm layers: ends of module paths or globs; `*` is all of them."""

    def build(self, view: BaseView) -> Adapter:
        """One delta per selected norm."""
        kinds = norm_classes(view)
        if not kinds:
            raise TargetError(
                f"{view.model_type} has no norm layers.", field="targets", remedy="Use another method."
            )
        return Adapter({path: NormDelta(module) for path, module in view.select(self.targets, kinds).items()})

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The fields of peft's LNTuningConfig, and the tensors under the names they have already."""
        norms = [path for path, delta in adapter.deltas.items() if isinstance(delta, NormDelta)]
        return {"target_modules": norms}, adapter.stored()

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's fields."""
        return cls(targets=peft_targets(config))


def norm_classes(view: BaseView) -> tuple[type[nn.Module], ...]:
    """The classes of norm layers that occur in a base, over the last dimension of what they get."""
    found: dict[type[nn.Module], None] = {}
    others: set[type[nn.Module]] = set()
    for module in view.modules.values():
        try:
            if _is_norm(module):
                found[type(module)] = None
        except NotImplementedError:  # the base holds no numbers, so nothing is known of it
            raise
        except RuntimeError:  # over the channels of an image, as in ConvNeXt
            others.add(type(module))
    return tuple(kind for kind in found if kind not in others)


@torch.no_grad()
def _is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm with a learned weight; see the module's docstring."""
    parameters = dict(module.named_parameters(recurse=False))
    shaped = parameters.keys() in ({"weight"}, {"weight", "bias"}) and all(
        p.dim() == 1 for p in parameters.values()
    )
    if not shaped or [*module.children(), *module.buffers()]:
        return False
    weight = parameters["weight"]
    x = torch.linspace(-1, 2, len(weight), device=weight.device).to(weight.dtype)[None] * 1e3
    with gathered(module):
        one, ten = module.forward(x), module.forward(10 * x)
    return one.shape == x.shape and torch.allclose(one, ten, rtol=0.05, atol=0.05)


@torch.no_grad()
def _acts_without_weight(norm: nn.Module) -> bool:
    """Whether the output is not zero where weight and bias are: so in Gemma, which multiplies by 1 + w."""
    zeros = {name: torch.zeros_like(p) for name, p in norm.named_parameters()}
    weight = zeros["weight"]
    probe = torch.linspace(-1, 2, len(weight), device=weight.device).to(weight)[None]
    return bool(functional_call(norm, zeros, (probe,)).any())
