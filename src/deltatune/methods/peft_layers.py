"""Layers that peft built in a skeleton of the base, as deltas: `peft_bridge` says how and why."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from deltatune.core.adapter import Adapter
from deltatune.core.delta import HOOKS, Delta
from deltatune.errors import AdapterError

NAME = "default"
ROOT = "base_model.model."


class _Frozen:
    """What peft's layer takes for the frozen module: it answers with the output that the site gave."""

    _asked: bool
    _given: tuple[Tensor, Tensor] | None

    def forward(self, x: Tensor) -> Tensor:
        assert self._given is not None
        self._asked = True
        seen, y = self._given
        if x is seen:
            return y
        return self.real(x) + (y - self.real(seen))

    def real(self, x: Tensor) -> Tensor:
        """The frozen module's own output."""
        weight = cast(Any, self).weight
        x = x.to(weight.dtype) if x.is_floating_point() else x
        output: Tensor = super().forward(x)  # type: ignore[misc]
        return output


class PeftDelta(Delta):
    """One of peft's layers at the site that it was made for."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        # Hidden from PyTorch's registers: the frozen weights belong to the base, not to the adapter.
        frozen = layer._modules.pop("base_layer")
        object.__setattr__(layer, "base_layer", frozen)
        self.layer = layer

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the layer's output for `x`, over `y` in place of the frozen output."""
        frozen = self.layer.base_layer
        frozen._given, frozen._asked = (x, y), False
        try:
            output: Tensor = self.layer(x)
            if not frozen._asked:
                output = output + (y - frozen.real(x))
        finally:
            frozen._given = None
        return output.to(y.dtype)

    def stored(self) -> dict[str, Tensor]:
        """Nothing: the adapter stores what all layers hold, in peft's form."""
        return {}

    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to do; see `stored`."""

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what peft's merge makes of (weight, bias).

        Raises:
            AdapterError: peft cannot merge this type.
        """
        frozen = self.layer.base_layer
        scratch = copy.copy(frozen)
        scratch._parameters = {"weight": nn.Parameter(weight.detach().clone(), requires_grad=False)}
        scratch._parameters["bias"] = None if bias is None else nn.Parameter(bias.detach().clone(), False)
        object.__setattr__(self.layer, "base_layer", scratch)
        try:
            self.layer.merge(safe_merge=False, adapter_names=[NAME])
        except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
            raise AdapterError(f"peft cannot merge it ({error}).", remedy="Keep it as an adapter.") from error
        finally:
            self.layer.merged_adapters = []
            object.__setattr__(self.layer, "base_layer", frozen)
        return scratch.weight.detach(), None if bias is None else scratch.bias.detach()


class PeftAdapter(Adapter):
    """The deltas, and peft's own model around the skeleton, which knows how they are stored."""

    def __init__(self, deltas: Mapping[str, PeftDelta], model: nn.Module) -> None:
        super().__init__(deltas)
        self._model = (model,)  # in a tuple: what is trained is registered by the deltas

    @property
    def model(self) -> nn.Module:
        """Peft's model."""
        return self._model[0]

    def stored(self) -> dict[str, Tensor]:
        """Peft's tensors by its keys, and the heads."""
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(self.model, adapter_name=NAME, save_embedding_layers=False)
        plain = {key.removeprefix(ROOT): tensor.detach().contiguous() for key, tensor in tensors.items()}
        return super().stored() | plain

    @torch.no_grad()
    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `stored` gave."""
        from peft import set_peft_model_state_dict

        super().load_stored(tensors)
        heads = super().stored().keys()
        mine = {
            k if k.startswith("base_model.") else ROOT + k: t for k, t in tensors.items() if k not in heads
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            set_peft_model_state_dict(self.model, mine, adapter_name=NAME)


def skeleton_of(module: nn.Module) -> Any:
    """A copy of a module tree without hooks that shares the weights."""
    twin: Any = copy.copy(module)
    for name in HOOKS:
        setattr(twin, name, OrderedDict())
    twin._parameters = {
        name: None if p is None else nn.Parameter(p.detach(), requires_grad=False) if _is_plain(p) else p
        for name, p in module._parameters.items()
    }
    twin._modules = {
        name: None if child is None else skeleton_of(child) for name, child in module._modules.items()
    }
    return twin


def freeze_answer(twin: Any, module: nn.Module) -> None:
    """Let the copy of a target answer instead of computing, over the base's own parameters from now on."""
    twin.__class__ = type(f"Frozen{type(module).__name__}", (_Frozen, type(module)), {})
    twin._parameters = module._parameters


def _is_plain(parameter: nn.Parameter) -> bool:
    return type(parameter) is nn.Parameter


def layers_of(model: Any) -> dict[str, Any]:
    """Peft's layers by the path of the module that each wraps."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {
        path.removeprefix(ROOT): module
        for path, module in model.named_modules()
        if isinstance(module, BaseTunerLayer) and "base_layer" in module._modules
    }
