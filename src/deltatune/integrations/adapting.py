"""A base and a method in one line, for whoever comes from peft's `get_peft_model`."""

from __future__ import annotations

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
from deltatune.methods import METHODS

NAME = "default"


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
        RecipeError: It is no config of peft's, or has a setting that has no counterpart here.
    """
    if not hasattr(config, "peft_type") or not hasattr(config, "to_dict"):
        raise RecipeError(
            f"a {type(config).__name__} is no method.",
            field="config",
            remedy="Give a config such as deltatune.LoraConfig(r=8), or one of peft's.",
        )
    fields = {key: getattr(value, "value", value) for key, value in config.to_dict().items()}
    method = next(
        (METHODS.get(name) for name in METHODS.names() if METHODS.get(name).reads_peft(fields)), None
    )
    if method is None:
        raise RecipeError(
            f"peft's {fields['peft_type']} has no counterpart here.",
            field="config",
            remedy="`deltatune methods` lists what there is; docs/how-to/from-peft.md says what is what.",
        )
    try:
        return method.from_peft(fields)
    except DeltatuneError as error:
        raise RecipeError(error.what, field=f"{fields['peft_type']}", remedy=error.remedy) from error
