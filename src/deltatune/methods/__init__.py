"""The methods, one file each. A new method is a file here and a line in this table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatune.registry import Registry

if TYPE_CHECKING:
    from deltatune.core.method import MethodConfig

METHODS: Registry[type[MethodConfig]] = Registry(
    "method",
    {
        "untuned": "deltatune.methods.untuned:UntunedConfig",
        "lora": "deltatune.methods.lora:LoraConfig",
        "adalora": "deltatune.methods.adalora:AdaLoraConfig",
        "prefix": "deltatune.methods.prefix:PrefixConfig",
        "prompt": "deltatune.methods.prompt:PromptConfig",
        "p_tuning": "deltatune.methods.p_tuning:PTuningConfig",
        "p_tuning_v2": "deltatune.methods.p_tuning_v2:PTuningV2Config",
        "full": "deltatune.methods.full:FullConfig",
    },
)
