"""A base and a method in one line, for whoever comes from peft's `get_peft_model`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from deltatune import quant
from deltatune.core.method import MethodConfig
from deltatune.core.model import AdaptedModel
from deltatune.core.new_heads import head_modules
from deltatune.core.sites import BaseView
from deltatune.errors import DeltatuneError, RecipeError
from deltatune.integrations.peft_settings import counterpart
from deltatune.methods import METHODS

NAME = "default"
SEE = "docs/how-to/from-peft.md says what each setting is called here."
_ADALORA = {
    "tinit": "tinit",
    "tfinal": "tfinal",
    "deltaT": "interval",
    "beta1": "beta1",
    "beta2": "beta2",
    "orth_reg_weight": "orth_reg",
}


@dataclass(frozen=True)
class Trainable:
    """How much of a model is trained."""

    trained: int
    """Numbers that get gradients."""
    total: int
    """Parameters of the base."""
    parts: int
    """Modules that a delta acts on, heads included."""
    heads: tuple[str, ...]
    """Modules that are trained whole."""

    @property
    def share(self) -> float:
        """Trained numbers as a share of the base's."""
        return self.trained / self.total

    def __str__(self) -> str:
        heads = f", among them the whole of {', '.join(self.heads)}" if self.heads else ""
        return (
            f"{self.trained:,} trained beside {self.total:,} frozen parameters ({self.share:.3%}), at "
            f"{self.parts} modules{heads}"
        )


def adapt(
    base: nn.Module,
    config: MethodConfig | Any,
    *,
    name: str = NAME,
    heads: Sequence[str] | None = None,
    processor: Any = None,
    seed: int = 0,
) -> AdaptedModel:
    """Attach one delta to a base: what `get_peft_model` is in peft.

    Args:
        base: A model of Transformers, as `from_pretrained` returns it. It stays frozen and unaltered.
        config: A method and its settings (`LoraConfig(r=8)`), or a config of peft's, which is translated.
        name: What the delta is called.
        heads: Paths of modules to train whole beside it. Default: of a classifier its head, as peft does
            with a `task_type`; of others nothing.
        processor: The tokenizer, for methods that start from a text.
        seed: Of the initial values and of dropout.

    Raises:
        DeltatuneError: The base lacks what the method acts on, or peft's config has a setting that has no
            counterpart.
    """
    method = config if isinstance(config, MethodConfig) else of_peft(config)
    if heads is None:
        heads = tuple(dict.fromkeys(path.split(".")[0] for path in head_modules(BaseView(base))))
        heads += _whole(base, tuple(getattr(config, "modules_to_save", None) or ()), heads)
    model = AdaptedModel(base, heads, processor=processor)
    model.attach(name, method, seed=seed)
    return model


def trainable(model: AdaptedModel, name: str | None = None) -> Trainable:
    """Count what the delta called `name` trains; by default all that are active."""
    names = model.active if name is None else (name,)
    adapters = [model.adapter(each) for each in names]
    return Trainable(
        trained=sum(p.numel() for adapter in adapters for _, p in adapter.trainable()),
        total=quant.parameter_count(model.base),
        parts=sum(len(adapter.deltas) + len(adapter.keys_values) for adapter in adapters),
        heads=tuple(path for adapter in adapters for path in adapter.heads()),
    )


def of_peft(config: Any) -> MethodConfig:
    """The method and settings that a config object of peft's stands for.

    Raises:
        RecipeError: It is no config of peft's, or sets what has no counterpart here.
    """
    if not hasattr(config, "peft_type") or not hasattr(config, "to_dict"):
        raise RecipeError(
            f"a {type(config).__name__} is no method.",
            field="config",
            remedy="Give a config such as deltatune.LoraConfig(r=8), or one of peft's.",
        )
    fields = {key: getattr(value, "value", value) for key, value in config.to_dict().items()}
    kind = fields["peft_type"]
    methods = [METHODS.get(name) for name in METHODS.names()]
    method = next((each for each in methods if each.reads_peft(fields)), None)
    if method is None:
        raise RecipeError(f"peft's {kind} has no counterpart here.", field="config", remedy=SEE)
    if method.name != "peft":
        _require_taken(config, kind, method)
    if "target_modules" in fields and not fields["target_modules"]:
        raise RecipeError(
            "is not set; peft then goes by a table of its own.",
            field="target_modules",
            remedy="Name the modules, or roles: query, value, all-linear.",
        )
    try:
        made = method.from_peft(fields)
        if kind == "ADALORA":  # a file tells what came of the schedule, and a config its settings
            made = made.changed({here: fields[theirs] for theirs, here in _ADALORA.items()})
    except DeltatuneError as error:
        raise RecipeError(error.what, field=kind, remedy=error.remedy) from error
    return made


def _require_taken(config: Any, kind: str, method: type[MethodConfig]) -> None:
    """See that a config of peft's sets nothing that `from_peft` does not take over.

    Raises:
        RecipeError: It does.
    """
    plain = type(config)(**_required(config))
    for field in dataclasses.fields(config):
        found = counterpart(kind, field.name)
        value = getattr(config, field.name)
        started = field.name == "init_lora_weights" and method.name == "pissa"
        if found is None or found.taken or started or value == getattr(plain, field.name):
            continue
        raise RecipeError(
            f"{value!r} is not taken over. Here it is {found.here}.", field=field.name, remedy=SEE
        )


def _required(config: Any) -> dict[str, Any]:
    """Settings without which peft does not make such a config."""
    return {"total_step": config.total_step} if hasattr(config, "total_step") else {}


def _whole(base: nn.Module, ends: tuple[str, ...], known: Sequence[str]) -> tuple[str, ...]:
    """Paths of the modules that end so, as peft understands `modules_to_save`."""
    if not ends:
        return ()
    return tuple(path for path, _ in base.named_modules() if path.endswith(ends) and path not in known)
