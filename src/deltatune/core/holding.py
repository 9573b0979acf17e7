"""What an AdaptedModel may hold, and for whom: one model of Transformers, whose deltas act on it alone."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import nn

from deltatune.core.taps import Active
from deltatune.errors import AdapterError, ModelError

_HOLDERS: WeakKeyDictionary[nn.Module, WeakSet[Active]] = WeakKeyDictionary()
"""By base, what acts on it for each AdaptedModel. Hooks keep that alive when the model itself is gone."""


def require_base(base: Any) -> None:
    """See that deltas can hang on `base`.

    Raises:
        ModelError: It is no model of Transformers, or an AdaptedModel itself.
    """
    if isinstance(base, nn.Module) and "config" in {*vars(base), *dir(type(base))}:
        return
    raise ModelError(
        f"a {type(base).__name__} is not a model of Transformers.",
        field="base",
        remedy="Give the model itself, as from_pretrained returns it.",
    )


def require_alone(base: nn.Module, active: Active, wanted: Sequence[object]) -> None:
    """See that no other model's deltas act on a base: each would act on what the other made, unseen.

    Args:
        base: Which both hold.
        active: What acts on it for the model that asks.
        wanted: What shall act now; nothing is always right.

    Raises:
        AdapterError: Another's do.
    """
    holders = _HOLDERS.setdefault(base, WeakSet())
    holders.add(active)
    if not wanted:
        return
    if any(other.routes for other in holders if other is not active):
        gc.collect()  # of a model that is gone, hooks may be as well
    for other in list(holders):
        if other is not active and other.routes:
            names = ", ".join(dict.fromkeys(route.name for route in other.routes))
            raise AdapterError(
                f"deltas of another AdaptedModel ({names}) act on this base, and would act on all that this "
                "one computes.",
                field="base",
                remedy="Detach them there, attach both to one AdaptedModel, or load the base anew.",
            )


def attribute_unless_of_trainers(model: nn.Module, name: str) -> Any:
    """`__getattr__` of an AdaptedModel. Trainers of Transformers and TRL all ask a model for its config.

    A plain error of a missing attribute would not do: Trainer goes on without it, and drives no schedule.

    Raises:
        AdapterError: It is the config.
    """
    if name == "config":
        raise AdapterError(
            "an AdaptedModel has no config of its own, and no trainer takes it as it is.",
            field="model",
            remedy="Give a trainer the model of a callback: delta = DeltaCallback(model); "
            "Trainer(delta.model, ..., callbacks=[delta]). The base's config is model.base.config.",
        )
    return nn.Module.__getattr__(model, name)
