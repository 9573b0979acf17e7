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
        "majority": "deltatune.methods.majority:MajorityConfig",
        "head": "deltatune.methods.head:HeadConfig",
        "few_shot": "deltatune.methods.few_shot:FewShotConfig",
        "knn": "deltatune.methods.knn:KnnConfig",
        "copy": "deltatune.methods.copy_input:CopyConfig",
        "lora": "deltatune.methods.lora:LoraConfig",
        "dora": "deltatune.methods.dora:DoraConfig",
        "pissa": "deltatune.methods.pissa:PissaConfig",
        "loftq": "deltatune.methods.loftq:LoftqConfig",
        "lora_plus": "deltatune.methods.lora_plus:LoraPlusConfig",
        "lora_fa": "deltatune.methods.lora_fa:LoraFaConfig",
        "vera": "deltatune.methods.vera:VeraConfig",
        "adalora": "deltatune.methods.adalora:AdaLoraConfig",
        "prefix": "deltatune.methods.prefix:PrefixConfig",
        "prompt": "deltatune.methods.prompt:PromptConfig",
        "p_tuning": "deltatune.methods.p_tuning:PTuningConfig",
        "p_tuning_v2": "deltatune.methods.p_tuning_v2:PTuningV2Config",
        "adapter": "deltatune.methods.bottleneck:BottleneckConfig",
        "bitfit": "deltatune.methods.bitfit:BitFitConfig",
        "ia3": "deltatune.methods.ia3:Ia3Config",
        "ln_tuning": "deltatune.methods.ln_tuning:LnTuningConfig",
        "oft": "deltatune.methods.oft:OftConfig",
        "miss": "deltatune.methods.miss:MissConfig",
        "shira": "deltatune.methods.shira:ShiraConfig",
        "diff_pruning": "deltatune.methods.diff_pruning:DiffPruningConfig",
        "hard_prompt": "deltatune.methods.hard_prompt:HardPromptConfig",
        "full": "deltatune.methods.full:FullConfig",
        "peft": "deltatune.methods.peft_bridge:PeftBridgeConfig",
    },
    group="deltatune.methods",
)
