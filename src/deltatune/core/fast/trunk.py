"""The trunk: all layers below the lowest thing that an adapter touches.

What the trunk makes of a row is the same in every epoch, so it can be recorded once and put in its place
later. Layers are bypassed by an attribute `forward` of their own, which `nn.Module` calls instead of its
class's. An encoder that is not touched at all is bypassed as a whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from deltatune.core.fast.layout import layout
from deltatune.core.loss import logits_for
from deltatune.core.model import AdaptedModel
from deltatune.core.sites import stacks
from deltatune.core.whole import is_sharded


class Trunk:
    """Records what leaves the trunk, and lets it stand for the trunk.

    Args:
        model: The base with its adapters.
        modules: What is bypassed, in order; the outputs of the last are recorded.
        what: Its name for people.
        whole: Whether nothing but the output of the last module goes on from here: an encoder does, while a
            layer may hand its successor more than hidden states (T5's position biases).
    """

    def __init__(self, model: AdaptedModel, modules: list[nn.Module], what: str, *, whole: bool) -> None:
        self.what = what
        self._model = model
        self._modules: list[Any] = modules
        self._whole = whole
        self._as_output: Callable[[Tensor], Any] = lambda hidden: hidden

    @torch.no_grad()
    def record(self, batch: Mapping[str, Tensor], task: str) -> Tensor | None:
        """The hidden states that leave the trunk in training, [rows, length, width]; no more is computed.

        Args:
            batch: A collated batch with labels, on the model's device. The model is in eval mode, and the
                adapter in force.
            task: The recipe's task.

        Returns:
            None if the trunk cannot be replaced: it gives on more than hidden states, it did not run, or the
            adapter acted before its end.
        """
        caught: list[Any] = []

        def take(module: nn.Module, args: Any, output: Any) -> None:
            caught.append(output)
            raise _Reached

        acted = self._model.fired()
        handle = self._modules[-1].register_forward_hook(take)
        try:
            with contextlib.suppress(_Reached), self._model.fast.training(batch):
                logits_for(self._model, dict(batch), task)
        finally:
            handle.remove()
        return self._hidden(caught[0]) if caught and self._model.fired() == acted else None

    def _hidden(self, output: Any) -> Tensor | None:
        """The hidden states of an output, whose structure is remembered."""
        if self._whole:
            hidden = output[0]
            self._as_output = lambda states: BaseModelOutput(last_hidden_state=states)
        elif isinstance(output, tuple):
            hidden, *rest = output
            if any(item is not None for item in rest):
                return None
            self._as_output = lambda states: (states, *rest)
        else:
            hidden = output
            self._as_output = lambda states: states
        return hidden if isinstance(hidden, Tensor) and hidden.dim() == 3 else None

    @contextlib.contextmanager
    def replaying(self, hidden: Tensor) -> Iterator[None]:
        """Within the block, one forward pass has `hidden` leave the trunk and does not run it.

        Args:
            hidden: As `record` gave it; what it holds where a row is padded does not matter.
        """
        # Handed over rather than kept, since the layers behind may let go of it before the pass is over.
        held = [hidden]
        del hidden
        before = [module.__dict__.get("forward") for module in self._modules]
        for module in self._modules:
            module.forward = lambda *args, **kwargs: self._as_output(held[0])
        self._modules[-1].forward = lambda *args, **kwargs: self._as_output(_laid_out(held.pop()))
        try:
            yield
        finally:
            for module, own in zip(self._modules, before, strict=True):
                del module.forward
                if own is not None:
                    module.forward = own


def _laid_out(hidden: Tensor) -> Tensor:
    """The hidden states as rows stand in the pass that they are put into."""
    how = layout()
    return hidden if how is None else how.packed(hidden)


class _Reached(Exception):
    """The forward pass has left the trunk."""


def trunk_of(model: AdaptedModel, name: str) -> Trunk | None:
    """The trunk below the adapter `name`; None if there is none, or none that can be told.

    What lies upstream of the layers, such as an embedding, is not looked for here: `record` sees a delta act
    there.
    """
    adapter, view = model.adapter(name), model.view
    if model.base_dropout or adapter.own or adapter.prompt is not None or adapter.position_shift:
        return None
    if is_sharded(model.base):  # a layer that is passed over would be gathered all the same
        return None
    sites = [*adapter.deltas, *adapter.keys_values]
    if not view.is_encoder_decoder:
        return _below(model, stacks(view.base), sites)
    encoder = view.base.get_encoder()
    path = next(path for path, module in view.modules.items() if module is encoder)
    if not _touched(path, sites):
        return Trunk(model, [encoder], "the encoder", whole=True)
    within = {p: stack for p, stack in stacks(view.base).items() if p.startswith(f"{path}.")}
    return _below(model, within, sites)


def _below(model: AdaptedModel, found: Mapping[str, nn.ModuleList], sites: list[str]) -> Trunk | None:
    """The layers of the only stack before the first that a site lies in, or all of them."""
    if len(found) != 1:
        return None
    ((path, stack),) = found.items()
    depth = next((i for i in range(len(stack)) if _touched(f"{path}.{i}", sites)), len(stack))
    if depth == 0:
        return None
    layers = "layer 0" if depth == 1 else f"layers 0-{depth - 1}"
    return Trunk(model, list(stack)[:depth], f"{layers} of {len(stack)}", whole=False)


def _touched(path: str, sites: list[str]) -> bool:
    """Whether a site is the module at `path`, in it or around it."""
    return any(f"{path}.".startswith(f"{site}.") or f"{site}.".startswith(f"{path}.") for site in sites)
