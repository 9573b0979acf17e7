"""BitFit: only the bias terms are trained.

    h = W_0 x + b_0 + db          (Ben Zaken et al. 2022, section 3)

db starts at zero. All biases take part: of linear layers, of norms and of the convolution that makes patches.
A base without any (T5, Llama) gets db at all its linear layers instead, except its output head; that is our
extension, and it cannot be merged, since the base has no bias to hold it.

The bias of an attention's keys is left out where it cannot matter: it adds the same number to all scores of
a query, and softmax ignores that. (With rotary or DeBERTa's positions it does matter, and takes part.)

Oracle: a plain loop that trains the biases of a copied model takes the same steps.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from deltatune.core.adapter import Adapter
from deltatune.core.delta import BiasDelta
from deltatune.core.method import MethodConfig
from deltatune.core.sites import LINEAR, BaseView
from deltatune.errors import TargetError
from deltatune.methods.ln_tuning import norm_classes

_POSITIONS_IN_THE_SCORES = ("rotary", "rel_embeddings")
"""Parts of module names that tell of positions which multiply queries and keys."""


class BitFitConfig(MethodConfig):
    """BitFit. The smallest change that still learns simple tasks; well suited to few rows."""

    name: ClassVar[str] = "bitfit"
    title: ClassVar[str] = "Only the bias terms."
    formula: ClassVar[str] = "h = W_0 x + b_0 + db"
    when: ClassVar[str] = (
        "For few rows and classifiers with encoders that have biases. Not for tasks far from the "
        "pretraining; bases without biases (T5, Llama) get new ones, which cannot be merged."
    )
    cost: ClassVar[str] = "About 0.1 % of the parameters: one for each output of a layer; free once merged."
    defaults: ClassVar[str] = "All biases as in the paper; lr 1e-3, the default of its code."
    paper: ClassVar[str] = "Ben Zaken, Goldberg and Ravfogel 2022, BitFit (arXiv 2106.10199)."
    default_lr: ClassVar[float] = 1e-3

    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Layers whose bias is trained: roles, groups, ends of module paths or globs, also of norms. Default: all
    that have one (all linear layers, if none has). The paper's smaller set is [query, mlp_in]."""

    def build(self, view: BaseView) -> Adapter:
        """One delta per bias."""
        return Adapter({path: _delta(module) for path, module in self._sites(view).items()})

    def _sites(self, view: BaseView) -> dict[str, nn.Module]:
        kinds = (*LINEAR, nn.Conv2d, *norm_classes(view))
        if self.targets is not None:
            return view.select(self.targets, kinds)
        idle = _idle(view)
        biased = {
            path: module
            for path, module in view.select(("*",), kinds).items()
            if getattr(module, "bias", None) is not None
        }
        found = biased or view.select(("all-linear",))
        if not found:
            raise TargetError(
                f"{view.model_type} has neither biases nor linear layers.",
                field="targets",
                remedy="Name the layers that are to get a bias.",
            )
        return {path: module for path, module in found.items() if path not in idle}


def _idle(view: BaseView) -> set[str]:
    """Projections to keys alone, where their bias cannot change the attention."""
    if any(name in path for path in view.modules for name in _POSITIONS_IN_THE_SCORES):
        return set()
    return set(view.by_role("key")) - set(view.by_role("query")) - set(view.by_role("value"))


def _delta(module: nn.Module) -> BiasDelta:
    if isinstance(module, nn.Conv2d):
        return BiasDelta(module.out_channels, after=2)
    if isinstance(module, nn.Linear):
        return BiasDelta(module.out_features)
    weight = module.weight
    assert isinstance(weight, Tensor)  # a Conv1D [d_in, d_out], or a norm [d]
    return BiasDelta(weight.shape[-1])
