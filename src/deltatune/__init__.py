"""deltatune: fine-tune a pretrained transformer by training a fraction of it, and measure which way is best.

The public names are imported when they are first used, so `import deltatune` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltatune.core.model import AdaptedModel
    from deltatune.data import Row, flatten_table, load_data
    from deltatune.errors import DeltatuneError
    from deltatune.methods import METHODS
    from deltatune.methods.adalora import AdaLoraConfig
    from deltatune.methods.combine import combine
    from deltatune.methods.full import FullConfig
    from deltatune.methods.lora import LoraConfig
    from deltatune.methods.prefix import PrefixConfig
    from deltatune.methods.prompt import PromptConfig
    from deltatune.methods.untuned import UntunedConfig
    from deltatune.recipe import Recipe, load_recipe

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "AdaLoraConfig",
    "AdaptedModel",
    "DeltatuneError",
    "FullConfig",
    "LoraConfig",
    "PrefixConfig",
    "PromptConfig",
    "Recipe",
    "Row",
    "UntunedConfig",
    "__version__",
    "combine",
    "flatten_table",
    "load_data",
    "load_recipe",
]

_HOME = {
    "METHODS": "deltatune.methods",
    "combine": "deltatune.methods.combine",
    "AdaLoraConfig": "deltatune.methods.adalora",
    "AdaptedModel": "deltatune.core.model",
    "DeltatuneError": "deltatune.errors",
    "FullConfig": "deltatune.methods.full",
    "LoraConfig": "deltatune.methods.lora",
    "PrefixConfig": "deltatune.methods.prefix",
    "PromptConfig": "deltatune.methods.prompt",
    "Recipe": "deltatune.recipe",
    "Row": "deltatune.data",
    "UntunedConfig": "deltatune.methods.untuned",
    "flatten_table": "deltatune.data",
    "load_data": "deltatune.data",
    "load_recipe": "deltatune.recipe",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'deltatune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
