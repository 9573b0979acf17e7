"""What a run's delta changes in its base, by where a LoRA of peft's can hold it.

Updates of the weights of linear layers and embeddings become low-rank; biases are peft's `bias`; heads, norms
and convolutions are saved whole, as `modules_to_save`. What remains is left out, and its size is told. Of a
quantized base the update is that of the weights as the run had them, dequantized.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.core.adapter import Adapter
from deltatune.core.delta import BiasDelta, Delta, Foldable, ModuleCopy
from deltatune.core.fold import require_in_weights
from deltatune.core.model import AdaptedModel
from deltatune.core.sites import LINEAR, BaseView
from deltatune.errors import AdapterError
from deltatune.methods.ln_tuning import norm_classes
from deltatune.methods.lora import BiasedDelta, LowRank
from deltatune.quant import codec_of
from deltatune.results import LeftOut

INSTEAD = "Otherwise use it as it is: `deltatune serve` and `deltatune predict` do."
ROUNDED = 4 * torch.finfo(torch.float32).eps
"""Of the largest entry: what a sum in float32 may round off, twice over."""


@dataclass(frozen=True)
class LowRankUpdate:
    """An update [d_out, d_in] as a product of two matrices; of an embedding that of the transposed table."""

    down: Tensor
    """[r, d_in], every scale contained."""
    up: Tensor
    """[d_out, r]."""


@dataclass
class Changes:
    """Where a delta changes its base.

    Attributes:
        sites: Modules whose weight's update becomes low-rank, in the order of the base.
        whole: Modules that are saved whole.
        biases: Changes of biases of other modules, by path.
        left_out: What a LoRA cannot hold.
    """

    model: AdaptedModel
    name: str
    sites: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    biases: dict[str, Tensor] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def update(self, path: str) -> LowRankUpdate | Tensor:
        """The update of the weight at `path` as [d_out, d_in], of an embedding that of the transposed table.

        Where the delta keeps it as a product, that product; else the whole matrix in float32.
        """
        view, delta = self.model.view, self._delta(path)
        inner: object = delta.inner if isinstance(delta, BiasedDelta) else delta
        if isinstance(inner, LowRank):
            down, up = inner.factors()
            return LowRankUpdate(down.detach().float(), up.detach().float())
        module = view.modules[path]
        own = f"{path}.weight"  # of a model that is trained whole
        change = self.own_change(own, module) if delta is None else _folded(delta, view, path)[0]
        turned = not isinstance(module, nn.Linear)  # Conv1D keeps the transpose, and so does a table
        return change.T if turned else change

    def whole_state(self, path: str) -> dict[str, Tensor]:
        """What the module at `path` holds with the delta."""
        delta, module = self._delta(path), self.model.view.modules[path]
        if isinstance(delta, ModuleCopy):
            return dict(delta.copy.state_dict())
        state = {name: tensor.detach().clone().float() for name, tensor in module.state_dict().items()}
        if delta is None:
            for leaf in state:
                if (found := self._own().get(self._shared(f"{path}.{leaf}"))) is not None:
                    state[leaf] = found.detach()
            return state
        for leaf, change in zip(("weight", "bias"), _folded(delta, self.model.view, path), strict=True):
            if leaf in state:
                state[leaf] = state[leaf] + change
        return state

    def whole_energy(self, path: str) -> float:
        """Squared norm of what the delta changes in the module at `path`."""
        before = self.model.view.modules[path].state_dict()
        after = self.whole_state(path)
        return sum(float((after[leaf].float() - before[leaf].float()).square().sum()) for leaf in before)

    def _delta(self, path: str) -> Delta | None:
        return self.model.adapter(self.name).deltas.get(path)

    def _own(self) -> dict[str, nn.Parameter]:
        return self.model.adapter(self.name).own

    def _shared(self, key: str) -> str:
        """The name under which the parameter `key` is trained: tied ones have one for all."""
        own, base = self._own(), self.model.view.base
        if key in own:
            return key
        wanted = base.get_parameter(key)
        return next((path for path in own if base.get_parameter(path) is wanted), "")

    def own_change(self, key: str, module: nn.Module) -> Tensor:
        """Trained minus base, in float32."""
        leaf = key.rpartition(".")[2]
        before = module.get_parameter(leaf).detach().float()
        return self._own()[self._shared(key)].detach().float() - before


@torch.no_grad()
def changes_of(model: AdaptedModel, name: str, method: str) -> Changes:
    """Find where the adapter `name` changes its base. The base must be active alone (`model.using()`).

    Raises:
        AdapterError: It has no equivalent in the weights, or a new bias that no layer has a place for.
    """
    adapter, view = model.adapter(name), model.view
    _require_weights(adapter, method, trained=model.configs[name].trains)
    found = Changes(model, name)
    norms = norm_classes(view)
    for path, delta in adapter.deltas.items():
        _of_delta(found, view, path, delta, norms)
    for path, module, leaf in _own_places(adapter, view):
        _of_own(found, path, module, leaf, norms)
    found.whole = [p for p in found.whole if not any(p.startswith(f"{q}.") for q in found.whole)]
    within = tuple(f"{path}." for path in found.whole)
    held = set(found.whole)
    found.sites = [p for p in view.modules if p in found.sites and p not in held and not p.startswith(within)]
    found.biases = {p: b for p, b in found.biases.items() if p not in held and not p.startswith(within)}
    return found


def _require_weights(adapter: Adapter, method: str, *, trained: bool) -> None:
    """Refuse what is no change of weights.

    Raises:
        AdapterError: It adds tokens, computes something else, or there is nothing.
    """
    require_in_weights(adapter, method)
    if adapter.keys_values or adapter.prompt is not None:
        raise AdapterError(
            f"{method} adds learned tokens, keys or values, which are no change of weights.",
            field="--as",
            remedy=f"`--as peft` writes peft's own folder of it, where peft has the method. {INSTEAD}",
        )
    others = [p for p, d in adapter.deltas.items() if not isinstance(d, ModuleCopy | Foldable)]
    if others:
        raise AdapterError(
            f"what {method} computes at {others[0]} is no change of its weight.",
            field="--as",
            remedy=INSTEAD,
        )
    if not trained or not (adapter.deltas or adapter.own):
        raise AdapterError(
            f"{method} has trained nothing, so there is nothing to export.",
            field="RUN",
            remedy="The base as it is does the same.",
        )


def _of_delta(
    found: Changes, view: BaseView, path: str, delta: Delta, norms: tuple[type[nn.Module], ...]
) -> None:
    module = view.modules[path]
    if isinstance(delta, ModuleCopy) or isinstance(module, (*norms, nn.Conv1d, nn.Conv2d)):
        found.whole.append(path)
        return
    change = delta.change if isinstance(delta, BiasedDelta) else delta
    if isinstance(change, BiasDelta) and getattr(module, "bias", None) is None:
        raise AdapterError(
            f"a bias was trained at {path}, which has none in the base, and peft's LoRA has no place for it.",
            field="--as",
            remedy=INSTEAD,
        )
    if isinstance(change, BiasDelta):
        found.biases[path] = change.bias.detach().float()
    if not isinstance(delta, BiasDelta):
        found.sites.append(path)
    if not isinstance(change, BiasDelta) and getattr(module, "bias", None) is not None:
        bias = _folded(delta, view, path)[1]
        if bool(bias.any()):  # of (IA)^3, which scales outputs
            found.biases[path] = bias


def _own_places(adapter: Adapter, view: BaseView) -> Iterator[tuple[str, nn.Module, str]]:
    """Path, module and leaf of every parameter of the base that differs from the trained copy of it."""
    if not adapter.own:
        return
    trained = {id(view.base.get_parameter(path)): own for path, own in adapter.own.items()}
    for path, module in view.modules.items():
        for leaf, parameter in module._parameters.items():
            own = trained.get(id(parameter)) if parameter is not None else None
            if own is not None and parameter is not None and not torch.equal(own.float(), parameter.float()):
                yield path, module, leaf


def _of_own(
    found: Changes, path: str, module: nn.Module, leaf: str, norms: tuple[type[nn.Module], ...]
) -> None:
    """Of a model that is trained whole, a parameter that has changed."""
    view = found.model.view
    heads = [head for head in view.heads if f"{path}.".startswith(f"{head}.")]
    plain = isinstance(module, LINEAR) or is_plain_table(module)
    if heads:
        found.whole.append(heads[0]) if heads[0] not in found.whole else None
    elif plain and leaf == "weight":
        found.sites.append(path)
    elif isinstance(module, LINEAR) and leaf == "bias":
        found.biases[path] = found.own_change(f"{path}.bias", module)
    elif isinstance(module, (*norms, nn.Conv1d, nn.Conv2d)):
        found.whole.append(path) if path not in found.whole else None
    else:
        energy = float(found.own_change(f"{path}.{leaf}", module).square().sum())
        why = f"{type(module).__name__} is no layer that peft's LoRA acts on."
        found.left_out.append(LeftOut(parameter=f"{path}.{leaf}", energy=energy, why=why))


def is_plain_table(module: nn.Module) -> bool:
    """Whether a module looks up rows of its weight by the ids that it gets, and perhaps scales them."""
    return isinstance(module, nn.Embedding) and (
        type(module).forward is nn.Embedding.forward or hasattr(module, "embed_scale")
    )


def _folded(delta: Delta, view: BaseView, path: str) -> tuple[Tensor, Tensor]:
    """The changes of weight and bias, in float32, as the module keeps them.

    A delta that adds to the weight, whatever that is, is read off a weight of zeros: the difference of two
    sums in float32 would hold the rounding of the weight, which has no low rank.
    """
    assert isinstance(delta, Foldable)
    module: Any = view.modules[path]
    quantized = codec_of(module) is not None
    weight = (view.weight(path) if quantized else module.weight.detach()).float()
    bias = getattr(module, "bias", None)
    bias = None if bias is None else bias.detach().float()
    after, bias_after = delta.fold(weight, bias)
    change = after.float() - weight
    alone = delta.fold(torch.zeros_like(weight), bias)[0].float()
    rounding = ROUNDED * float(torch.maximum(weight.abs(), after.abs()).max())
    if float((change - alone).abs().max()) <= rounding:
        change = alone
    none = torch.zeros(0, device=weight.device)
    return change.detach(), none if bias is None or bias_after is None else (bias_after - bias).detach()
