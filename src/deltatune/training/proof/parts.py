"""The parts of a delta that are judged each for itself, and whether a loss depends on some."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from deltatune.core.adapter import Adapter
from deltatune.core.devices import random_states, set_random_states


def parts_of(adapter: Adapter) -> dict[str, list[str]]:
    """Names of the trained parameters of each part: a delta, the keys and values of a site, the prompt."""
    name_of = {id(parameter): name for name, parameter in adapter.trainable()}
    parts = {
        path: [name_of[id(p)] for p in module.parameters() if id(p) in name_of]
        for path, module in adapter.parts()
    }
    grouped = {name for group in parts.values() for name in group}
    path_of = {id(parameter): path for path, parameter in adapter.own.items()}
    rest = {path_of.get(key, name): [name] for key, name in name_of.items() if name not in grouped}
    return {path: group for path, group in (parts | rest).items() if group}


@torch.no_grad()
def without_effect(parameters: Iterable[Tensor], loss: Callable[[], float]) -> bool:
    """Whether the loss stays what it is, to the bit, with all the parameters disturbed."""
    states, kept = random_states(), [(each, each.clone()) for each in parameters]
    plain = loss()
    for each, _ in kept:
        each.add_(1.0)
    set_random_states(states)
    disturbed = loss()
    for each, value in kept:
        each.copy_(value)
    set_random_states(states)
    return disturbed == plain
