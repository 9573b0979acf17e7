"""A base and a method in one line, for whoever comes from peft's `get_peft_model`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from deltatune import quant
from deltatune.core.holding import require_base
from deltatune.core.method import MethodConfig
from deltatune.core.model import AdaptedModel
from deltatune.core.new_heads import head_modules
from deltatune.core.sites import BaseView
from deltatune.errors import DeltatuneError, RecipeError, TargetError
from deltatune.integrations.peft_settings import counterpart
from deltatune.integrations.required import require_adapted
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
_OF_TASKS = ("classifier", "score")
"""Names that peft adds to `modules_to_save` by itself, of which a classifier has one."""


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
    require_base(base)
    method = config if isinstance(config, MethodConfig) else of_peft(config)
    if heads is None:
        heads = tuple(dict.fromkeys(path.split(".")[0] for path in head_modules(BaseView(base))))
        heads += _whole(base, getattr(config, "modules_to_save", None) or (), heads)
    heads = (heads,) if isinstance(heads, str) else heads
    if unknown := set(heads) - {path for path, _ in base.named_modules()}:
        raise TargetError(
            f"{sorted(unknown)[0]!r} is no module of {type(base).__name__}.",
            field="heads",
            remedy="Give the whole path of a module, such as 'lm_head'.",
        )
    model = AdaptedModel(base, heads, processor=processor)
    model.attach(name, method, seed=seed)
    return model


def trainable(model: AdaptedModel, name: str | None = None) -> Trainable:
    """Count what the delta called `name` trains; by default all that are active."""
    require_adapted(model)
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
            f"{'the class' if isinstance(config, type) else 'a'} "
            f"{getattr(config, '__name__', type(config).__name__)} is no method.",
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
        field = f"{kind}.{error.field}" if error.field else kind
        raise RecipeError(error.what, field=field, remedy=error.remedy) from error
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
            f"{value!r} is not taken over. Its counterpart: {found.here}.", field=field.name, remedy=SEE
        )


def _required(config: Any) -> dict[str, Any]:
    """Settings without which peft does not make such a config."""
    return {"total_step": config.total_step} if hasattr(config, "total_step") else {}


def _whole(base: nn.Module, named: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Paths of the modules that end so, as peft understands `modules_to_save`.

    Raises:
        TargetError: None ends so.
    """
    ends = (named,) if isinstance(named, str) else tuple(named)
    paths = [path for path, _ in base.named_modules()]
    for end in ends:
        if end not in _OF_TASKS and not any(path.endswith(end) for path in paths):
            raise TargetError(
                f"{end!r} is the end of no module's path in {type(base).__name__}.",
                field="modules_to_save",
                remedy="Name modules of this base.",
            )
    return tuple(path for path in paths if path.endswith(ends) and path not in known)
