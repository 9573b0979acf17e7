"""deltatune: fine-tune a pretrained transformer by training a fraction of it, and measure which way is best.

What the command line does are functions here: `train`, `compare`, `predict` and so on. Public names are
imported when they are first used, so `import deltatune` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from deltatune import _moved
from deltatune.version import __version__

if TYPE_CHECKING:
    from deltatune.api.training import check, compare, compare_sets, make_recipe, make_sets, plan, train
    from deltatune.api.using import evaluate, export, inspect, load, merge, predict
    from deltatune.core.model import AdaptedModel
    from deltatune.data import Row, flatten_table, load_data
    from deltatune.errors import DeltatuneError
    from deltatune.integrations.adapting import adapt, trainable
    from deltatune.integrations.loop import own_loop
    from deltatune.methods import METHODS
    from deltatune.methods.adalora import AdaLoraConfig
    from deltatune.methods.bitfit import BitFitConfig
    from deltatune.methods.bottleneck import BottleneckConfig
    from deltatune.methods.combine import combine
    from deltatune.methods.copy_input import CopyConfig
    from deltatune.methods.diff_pruning import DiffPruningConfig
    from deltatune.methods.dora import DoraConfig
    from deltatune.methods.few_shot import FewShotConfig
    from deltatune.methods.full import FullConfig
    from deltatune.methods.hard_prompt import HardPromptConfig
    from deltatune.methods.head import HeadConfig
    from deltatune.methods.ia3 import Ia3Config
    from deltatune.methods.knn import KnnConfig
    from deltatune.methods.ln_tuning import LnTuningConfig
    from deltatune.methods.loftq import LoftqConfig
    from deltatune.methods.lora import LoraConfig
    from deltatune.methods.lora_fa import LoraFaConfig
    from deltatune.methods.lora_plus import LoraPlusConfig
    from deltatune.methods.majority import MajorityConfig
    from deltatune.methods.miss import MissConfig
    from deltatune.methods.oft import OftConfig
    from deltatune.methods.p_tuning import PTuningConfig
    from deltatune.methods.p_tuning_v2 import PTuningV2Config
    from deltatune.methods.peft_bridge import PeftBridgeConfig
    from deltatune.methods.pissa import PissaConfig
    from deltatune.methods.prefix import PrefixConfig
    from deltatune.methods.prompt import PromptConfig
    from deltatune.methods.shira import ShiraConfig
    from deltatune.methods.untuned import UntunedConfig
    from deltatune.methods.vera import VeraConfig
    from deltatune.recipe import Recipe, load_recipe
    from deltatune.recipe.given import Given
    from deltatune.tasks import TASKS, Task

__all__ = [
    "METHODS",
    "TASKS",
    "AdaLoraConfig",
    "AdaptedModel",
    "BitFitConfig",
    "BottleneckConfig",
    "CopyConfig",
    "DeltatuneError",
    "DiffPruningConfig",
    "DoraConfig",
    "FewShotConfig",
    "FullConfig",
    "Given",
    "HardPromptConfig",
    "HeadConfig",
    "Ia3Config",
    "KnnConfig",
    "LnTuningConfig",
    "LoftqConfig",
    "LoraConfig",
    "LoraFaConfig",
    "LoraPlusConfig",
    "MajorityConfig",
    "MissConfig",
    "OftConfig",
    "PTuningConfig",
    "PTuningV2Config",
    "PeftBridgeConfig",
    "PissaConfig",
    "PrefixConfig",
    "PromptConfig",
    "Recipe",
    "Row",
    "ShiraConfig",
    "Task",
    "UntunedConfig",
    "VeraConfig",
    "__version__",
    "adapt",
    "check",
    "combine",
    "compare",
    "compare_sets",
    "evaluate",
    "export",
    "flatten_table",
    "inspect",
    "load",
    "load_data",
    "load_recipe",
    "make_recipe",
    "make_sets",
    "merge",
    "open_board",
    "own_loop",
    "pack",
    "plan",
    "predict",
    "push",
    "train",
    "trainable",
]

_HOME = {
    "AdaLoraConfig": "deltatune.methods.adalora",
    "AdaptedModel": "deltatune.core.model",
    "BitFitConfig": "deltatune.methods.bitfit",
    "BottleneckConfig": "deltatune.methods.bottleneck",
    "CopyConfig": "deltatune.methods.copy_input",
    "DeltatuneError": "deltatune.errors",
    "DiffPruningConfig": "deltatune.methods.diff_pruning",
    "DoraConfig": "deltatune.methods.dora",
    "FewShotConfig": "deltatune.methods.few_shot",
    "FullConfig": "deltatune.methods.full",
    "Given": "deltatune.recipe.given",
    "HardPromptConfig": "deltatune.methods.hard_prompt",
    "HeadConfig": "deltatune.methods.head",
    "Ia3Config": "deltatune.methods.ia3",
    "KnnConfig": "deltatune.methods.knn",
    "LnTuningConfig": "deltatune.methods.ln_tuning",
    "LoftqConfig": "deltatune.methods.loftq",
    "LoraConfig": "deltatune.methods.lora",
    "LoraFaConfig": "deltatune.methods.lora_fa",
    "LoraPlusConfig": "deltatune.methods.lora_plus",
    "METHODS": "deltatune.methods",
    "MajorityConfig": "deltatune.methods.majority",
    "MissConfig": "deltatune.methods.miss",
    "OftConfig": "deltatune.methods.oft",
    "PTuningConfig": "deltatune.methods.p_tuning",
    "PTuningV2Config": "deltatune.methods.p_tuning_v2",
    "PeftBridgeConfig": "deltatune.methods.peft_bridge",
    "PissaConfig": "deltatune.methods.pissa",
    "PrefixConfig": "deltatune.methods.prefix",
    "PromptConfig": "deltatune.methods.prompt",
    "Recipe": "deltatune.recipe",
    "Row": "deltatune.data",
    "ShiraConfig": "deltatune.methods.shira",
    "TASKS": "deltatune.tasks",
    "Task": "deltatune.tasks",
    "UntunedConfig": "deltatune.methods.untuned",
    "VeraConfig": "deltatune.methods.vera",
    "adapt": "deltatune.integrations.adapting",
    "check": "deltatune.api.training",
    "combine": "deltatune.methods.combine",
    "compare": "deltatune.api.training",
    "compare_sets": "deltatune.api.training",
    "evaluate": "deltatune.api.using",
    "export": "deltatune.api.using",
    "flatten_table": "deltatune.data",
    "inspect": "deltatune.api.using",
    "load": "deltatune.api.using",
    "load_data": "deltatune.data",
    "load_recipe": "deltatune.recipe",
    "make_recipe": "deltatune.api.training",
    "make_sets": "deltatune.api.training",
    "merge": "deltatune.api.using",
    "open_board": "deltatune.api.sharing",
    "own_loop": "deltatune.integrations.loop",
    "pack": "deltatune.api.sharing",
    "plan": "deltatune.api.training",
    "predict": "deltatune.api.using",
    "push": "deltatune.api.sharing",
    "train": "deltatune.api.training",
    "trainable": "deltatune.integrations.adapting",
}

_moved.install()


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'deltatune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
