r"""Bottleneck adapters: two small layers with a non-linearity between, added to what a sub-layer returns.

    A(z) = W_up f(W_down z + b_down) + b_up

    houlsby    h = y + A(y)       after attention and after the feed-forward  (Houlsby et al. 2019, figure 2)
    pfeiffer   h = y + A(y)       after the feed-forward only                 (Pfeiffer et al. 2021)
    parallel   h = y + s A(x)     x is what the feed-forward gets, s = 4      (He et al. 2022, section 4.5)

y is the output of a sub-layer's last projection, before its residual connection. Encoder-decoder models have
a third sub-layer in every decoder block: with `houlsby` its cross-attention gets an adapter as well.
Pfeiffer et al. add the block's residual after the adapter and share its layer norm; here, as in the other
two kinds, the adapter stands before the residual, so that models with pre- and post-norm are treated alike.

W_down is Kaiming-uniform as in LoRA, W_up and both biases are zero (He et al. 2022), so that training starts
at the base exactly; Houlsby et al. draw both near zero instead.

Oracle: a reference of each kind written out in the test, in a hand-made model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.errors import DeltatuneError, TargetError
from deltatune.methods.lora import linear_shape

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": Tensor.tanh,
}
_PARALLEL_SCALE = 4.0


class BottleneckDelta(Delta):
    """y + A(y): an adapter after a sub-layer.

    Args:
        d_in: Width of what the adapter gets.
        d_out: Width of the sub-layer's output.
        width: Width of the bottleneck.
        non_linearity: Name of f.
        scale: Factor s on the adapter's output.
    """

    def __init__(
        self, d_in: int, d_out: int, width: int, non_linearity: str = "gelu", scale: float = 1.0
    ) -> None:
        super().__init__()
        self.down = nn.Linear(d_in, width)
        self.up = nn.Linear(width, d_out)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)
        self.function = _FUNCTIONS[non_linearity]
        self.scale = scale

    def adapter(self, z: Tensor) -> Tensor:
        """Return s A(z), [..., d_out], in z's dtype; z [..., d_in]."""
        low = self.function(F.linear(z, self.down.weight.to(z.dtype), self.down.bias.to(z.dtype)))
        change = F.linear(low, self.up.weight.to(z.dtype), self.up.bias.to(z.dtype))
        return change if self.scale == 1.0 else change * self.scale

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + s A(y); y [..., d_out]."""
        return y + self.adapter(y)


class FeedForwardInput(Delta):
    """Notes what a feed-forward gets, for the adapter that stands at its end. It changes nothing.

    Both sites lie in one layer, so a layer that is recomputed in the backward pass notes it anew, and rows
    routed to this adapter come as the same rows to both. The note is given out once, so that no activation
    outlives its layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._noted: Tensor | None = None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Note x, return y."""
        self._noted = x
        return y

    def take(self) -> Tensor:
        """What the feed-forward got, [rows, ..., d_model].

        Raises:
            DeltatuneError: Its first layer has not been called since.
        """
        if self._noted is None:
            raise DeltatuneError(
                "the feed-forward's last layer was called without its first.",
                remedy="Use `kind: pfeiffer`, which needs no input of the feed-forward.",
            )
        noted, self._noted = self._noted, None
        return noted


class ParallelDelta(BottleneckDelta):
    """y + s A(input of the feed-forward): an adapter beside the feed-forward.

    Args:
        source: Notes the feed-forward's input.
        d_in: Width of that input.
        d_out: Width of the feed-forward's output.
        width: Width of the bottleneck.
        non_linearity: Name of f.
        scale: Factor s on the adapter's output.
    """

    def __init__(
        self,
        source: FeedForwardInput,
        d_in: int,
        d_out: int,
        width: int,
        *,
        non_linearity: str = "gelu",
        scale: float = _PARALLEL_SCALE,
    ) -> None:
        super().__init__(d_in, d_out, width, non_linearity, scale)
        self.source = source

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + s A(z), where z [..., d_in] is what the feed-forward got; y [..., d_out]."""
        return y + self.adapter(self.source.take())


class BottleneckConfig(MethodConfig):
    """Bottleneck adapters. Strong where there is room for a few per cent of new parameters."""

    name: ClassVar[str] = "adapter"
    title: ClassVar[str] = "Two small layers with a non-linearity between, after or beside sub-layers."
    formula: ClassVar[str] = (
        "h = y + s W_up f(W_down z); z = y, or the feed-forward's input (parallel, s = 4)"
    )
    when: ClassVar[str] = (
        "When LoRA saturates: a non-linear change of the hidden states. Not when latency counts, since it "
        "cannot be merged."
    )
    cost: ClassVar[str] = (
        "b (d_in + d_out + 1) + d_out parameters for each adapter of width b; two more small matrix products "
        "for each in every forward pass."
    )
    defaults: ClassVar[str] = (
        "Width 64 and GELU as in the released code of Houlsby et al.; lr 1e-3 lies within their sweep "
        "(3e-5 to 3e-3); s = 4 as He et al. set it."
    )
    size: ClassVar[str | None] = "bottleneck"
    paper: ClassVar[str] = (
        "Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP (arXiv 1902.00751); Pfeiffer et "
        "al. 2021, AdapterFusion (2005.00247); He et al. 2022, Towards a Unified View (2110.04366)."
    )
    default_lr: ClassVar[float] = 1e-3

    kind: Literal["houlsby", "pfeiffer", "parallel"] = "houlsby"
    """houlsby: after every attention and feed-forward (cross-attention included); pfeiffer: after the
    feed-forward; parallel: beside the feed-forward."""
    bottleneck: Annotated[int, Field(ge=1)] = 64
    """Width b of the bottleneck. d_model / b is what others call the reduction factor."""
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = "gelu"
    """The function f between the two layers."""
    scale: Annotated[float, Field(gt=0)] | None = None
    """Factor s on the adapter's output; by default 4 for parallel and 1 for the others."""

    def build(self, view: BaseView) -> Adapter:
        """One adapter for each sub-layer, at its last projection."""
        roles = ("output", "mlp_out") if self.kind == "houlsby" else ("mlp_out",)
        sites = view.select(roles)
        if self.kind == "parallel":
            return Adapter(self._parallel(view, sites))
        scale = 1.0 if self.scale is None else self.scale
        deltas: dict[str, Delta] = {}
        for path, module in sites.items():
            d = linear_shape(path, module)[1]
            deltas[path] = BottleneckDelta(d, d, self.bottleneck, self.non_linearity, scale)
        return Adapter(deltas)

    def _parallel(self, view: BaseView, ends: dict[str, nn.Module]) -> dict[str, Delta]:
        """The adapters at the ends of the feed-forwards, and at their starts what notes the input."""
        scale = _PARALLEL_SCALE if self.scale is None else self.scale
        starts = view.select(("mlp_in",))
        deltas: dict[str, Delta] = {}
        for path, module in ends.items():
            start = _start_of(path, starts)
            if start in deltas:
                raise TargetError(
                    f"{path!r} and another layer would be the end of the feed-forward that starts at "
                    f"{start!r}.",
                    field="kind",
                    remedy="Use `kind: pfeiffer`, which needs no start.",
                )
            source = FeedForwardInput()
            deltas[start] = source
            d_in, d_out = linear_shape(start, starts[start])[0], linear_shape(path, module)[1]
            deltas[path] = ParallelDelta(
                source, d_in, d_out, self.bottleneck, non_linearity=self.non_linearity, scale=scale
            )
        return deltas


def _start_of(end: str, starts: dict[str, nn.Module]) -> str:
    """The first layer of the feed-forward whose last is `end`: the nearest in the tree of modules.

    A gated feed-forward has two first layers, which get the same input; the first of them is taken. In BERT
    start and end lie in sibling modules.
    """

    def shared(start: str) -> int:
        pairs = list(zip(start.split("."), end.split("."), strict=False))
        return next((n for n, (one, other) in enumerate(pairs) if one != other), len(pairs))

    return max(starts, key=shared)
