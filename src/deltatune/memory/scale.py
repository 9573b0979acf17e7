"""Prediction of deep models from shallow ones: layers are alike, so a step is linear in their number.

Not its peak: with more layers the peak may move from the loss to the end of the backward pass. So the highest
point of every stretch of the step (first and last layers, forward and backward, loss, update) is extrapolated
on its own, and the highest of these is the peak. The tests hold this equal to the direct prediction.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedConfig

from deltatune.core.model import AdaptedModel
from deltatune.memory.account import PARTS, Memory
from deltatune.memory.base import fake_mode
from deltatune.memory.predict import Prediction, Setup, planned_model, predict
from deltatune.models.quiet import quiet
from deltatune.models.weights import computes_in_its_dtype

FEW, STEP = 4, 2
"""Layers of the shallow model, and by how many a deeper one has more. With four, the two outer layers on each
side of a stack, which may differ from the others, are not each other's neighbours."""


def predict_scaled(setup: Setup) -> Prediction:
    """Like `predict`, in a few seconds whatever the number of layers.

    Raises:
        TargetError: The method cannot act on this base.
    """
    depths = depths_of(setup.config)
    if not depths or max(depths.values()) <= FEW + 2 * STEP or not _uniform(setup):
        return predict(setup)
    shallow = {name: min(FEW, depth) for name, depth in depths.items()}
    least = predict(setup.changed(config=with_depths(setup.config, shallow)))
    terms = []
    for depth in sorted(set(depths.values())):  # stacks that are equally deep grow together
        if depth > FEW:
            grown = {name: FEW + STEP for name, layers in depths.items() if layers == depth}
            deeper = with_depths(setup.config, shallow | grown)
            terms.append((predict(setup.changed(config=deeper)), depth - FEW))
    found = _sum(least, terms)
    return found if min(found.memory.parts.values()) >= 0 else predict(setup)


def computed_dtype(setup: Setup) -> str:
    """The precision that the base is loaded in: float32 where its own code cannot compute in bfloat16."""
    if setup.dtype != "bfloat16" or setup.quantization is not None:
        return setup.dtype
    with fake_mode():
        return setup.dtype if computes_in_its_dtype(shallow_model(setup).base) else "float32"


def shallow_model(setup: Setup) -> AdaptedModel:
    """The base of a setup with two layers of a stack, on fake tensors; `fake_mode` is in force."""
    depths = {name: min(2, depth) for name, depth in depths_of(setup.config).items()}
    with quiet():
        return planned_model(setup.changed(config=with_depths(setup.config, depths)))


def _sum(least: Prediction, terms: Sequence[tuple[Prediction, int]]) -> Prediction:
    """What comes of `least` when each deeper model's difference is added as often as it has layers more."""

    def linear(of: Callable[[Prediction], int]) -> int:
        return of(least) + sum((of(more) - of(least)) * times // STEP for more, times in terms)

    def parts_at(label: Hashable) -> dict[str, int]:
        return {part: linear(partial(_part_at, label, part)) for part in PARTS}

    common = [
        label for label in least.memory.segments if all(label in more.memory.segments for more, _ in terms)
    ]
    peak = max((parts_at(label) for label in common), key=lambda parts: sum(parts.values()))
    return Prediction(
        memory=Memory(peak, linear(lambda p: p.memory.flops)),
        trained_parameters=linear(lambda p: p.trained_parameters),
        stored_parameters=linear(lambda p: p.stored_parameters),
        total_parameters=linear(lambda p: p.total_parameters),
        file_bytes=linear(lambda p: p.file_bytes),
        state_bytes=linear(lambda p: p.state_bytes),
        has_trunk=least.has_trunk,
        flops=linear(lambda p: p.flops),
        sites=linear(lambda p: p.sites),
        room=least.room,
    )


def _part_at(label: Hashable, part: str, found: Prediction) -> int:
    return found.memory.segments[label][part]


def depths_of(config: PreTrainedConfig) -> dict[str, int]:
    """The settings that hold the numbers of layers of a model's stacks; none if they are not known."""
    names: tuple[str, ...] = ("num_hidden_layers",)
    if getattr(config, "is_encoder_decoder", False):
        names = next(
            (
                pair
                for pair in (("encoder_layers", "decoder_layers"), ("num_layers", "num_decoder_layers"))
                if all(hasattr(config, name) for name in pair)
            ),
            (),
        )
    if hasattr(config, "vision_config") or not all(hasattr(config, name) for name in names):
        return {}
    depths = {name: int(getattr(config, name)) for name in names}
    try:
        with_depths(config, depths)
    except (AttributeError, NotImplementedError):  # the number follows from other settings
        return {}
    return depths


def with_depths(config: PreTrainedConfig, depths: dict[str, int]) -> PreTrainedConfig:
    """A copy of a configuration with other numbers of layers."""
    changed = copy.deepcopy(config)
    for name, depth in depths.items():
        setattr(changed, name, depth)
    types: Any = getattr(changed, "layer_types", None)
    if types and depths:
        changed.layer_types = types[: max(depths.values())]
    return changed


def _uniform(setup: Setup) -> bool:
    """Whether all layers are alike and get the same from the method, as far as settings tell."""
    types = getattr(setup.config, "layer_types", None) or ()
    targets = getattr(setup.method, "targets", None) or ()
    return len(set(types)) < 2 and not any(c in "*?[" or c.isdigit() for t in targets for c in t)
