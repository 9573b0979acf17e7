"""What a loop asks of a model, its delta, its optimizer and the state that it goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltatune.core.adapter import Adapter
from deltatune.core.method import MethodConfig
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, TrainingError
from deltatune.training.loop.state import state_explained


def require_adapted(model: Any) -> AdaptedModel:
    """The model, if it is one of ours.

    Raises:
        AdapterError: It is none.
    """
    if not isinstance(model, AdaptedModel):
        raise AdapterError(
            f"a {type(model).__name__} has no delta of deltatune's.",
            field="model",
            remedy="Attach one first: model = deltatune.adapt(base, deltatune.LoraConfig(r=8)).",
        )
    return model


def require_one(model: AdaptedModel, name: str | None) -> str:
    """The name of the delta that is trained.

    Raises:
        AdapterError: None is active, or several are; or it trains nothing.
    """
    if len(model.active) != 1 or name not in (None, model.active[0]):
        active = ", ".join(model.active) or "none"
        raise AdapterError(
            f"one delta is trained at a time, and these are active: {active}.",
            field="name",
            remedy="Call model.use(name) with the one to train.",
        )
    [name] = model.active
    if not any(model.adapter(name).trainable()):
        raise AdapterError(
            f"{model.configs[name].name} has nothing to train.",
            field="model",
            remedy="Attach another method.",
        )
    return name


def searches(adapter: Adapter) -> bool:
    """Whether its method tries changes in every step, for which it needs the loss."""
    return type(adapter).before_step is not Adapter.before_step


def require_same(config: MethodConfig, state: dict[str, Any], where: str | Path) -> None:
    """See that a state is of this method, with these settings.

    Raises:
        AdapterError: It is of others.
    """
    with state_explained(Path(where)):
        if (state["method"], state["settings"]) != (config.name, config.model_dump(mode="json")):
            raise AdapterError(
                f"the state in '{where}' is of {state['method']} with other settings than this "
                f"{config.name} has.",
                remedy="Attach the method with the settings that it began with.",
            )


def require_rates(adapter: Adapter, optimizer: Any) -> None:
    """See that an optimizer knows the rates at which parts of a delta learn.

    Raises:
        TrainingError: Parts have rates of their own, and it was not made of `parameters`.
    """
    told = all("factor" in group for group in optimizer.param_groups if group["params"])
    if not told and len({adapter.lr_factor(name) for name, _ in adapter.trainable()}) > 1:
        raise TrainingError(
            "parts of this delta learn at rates of their own, and the optimizer gives all the same.",
            field="optimizer",
            remedy="Make it of the groups that parameters(lr=...) gives.",
        )
