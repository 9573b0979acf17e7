"""Reading images at another size than the base was trained at: fewer pixels, less work."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from deltatune.errors import ModelError


def processor_sizes(settings: Mapping[str, Any], edge: int) -> dict[str, dict[str, int]]:
    """What makes an image processor give squares of `edge` pixels, from the settings it has.

    A processor that resizes to somewhat more than it then crops (256 and 224) keeps that ratio.
    """
    if not settings.get("do_center_crop"):
        return {"size": {"height": edge, "width": edge}}
    size, crop = settings["size"], settings["crop_size"]
    shortest = size.get("shortest_edge") or size["height"]
    resized = round(edge * shortest / crop["height"])
    kept = {"shortest_edge": resized} if "shortest_edge" in size else {"height": resized, "width": resized}
    return {"size": kept, "crop_size": {"height": edge, "width": edge}}


def interpolate_positions(model: nn.Module, edge: int, name: str) -> None:
    """Let a vision model read squares of `edge` pixels, its position embeddings interpolated to them.

    Some models do so by themselves (DINOv2), others when told with each call (ViT, DeiT, CLIP).

    Raises:
        ModelError: The model cannot, or `edge` is no multiple of its patches.
    """
    config: Any = model.config
    vision = getattr(config, "vision_config", config)
    patch, own = getattr(vision, "patch_size", None), getattr(vision, "image_size", None)
    embeddings = next((m for m in model.modules() if hasattr(m, "interpolate_pos_encoding")), None)
    if embeddings is None or not isinstance(patch, int):
        raise ModelError(
            f"'{name}' reads images of {own} pixels only: its positions cannot be interpolated.",
            field="model.image_size",
            remedy="Leave model.image_size out, or take a ViT, DeiT, DINOv2 or CLIP.",
        )
    if edge % patch:
        raise ModelError(
            f"{edge} is no multiple of {patch}, the edge of the patches of '{name}'.",
            field="model.image_size",
            remedy=f"Take {max(edge // patch, 1) * patch} or {(edge // patch + 1) * patch}.",
        )
    if edge != own and "interpolate_pos_encoding" in inspect.signature(embeddings.forward).parameters:
        embeddings.register_forward_pre_hook(_tell, with_kwargs=True)


def _tell(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {"interpolate_pos_encoding": True}
