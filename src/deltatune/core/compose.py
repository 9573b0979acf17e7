"""Composition: which adapters act, one after another, side by side with weights, or each on its own rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from deltatune.core.adapter import Adapter
from deltatune.core.taps import Route
from deltatune.errors import AdapterError, DeltatuneError, TargetError

Find = Callable[[str], Adapter]
"""From a name to the adapter; raises AdapterError if there is none."""


def all_rows(names: Sequence[str | Mapping[str, float]], find: Find) -> tuple[Route, ...]:
    """Routes of adapters that act on all rows.

    Args:
        names: Adapters that act one after another, or one mapping from adapters to weights.
        find: Gives an adapter.

    Raises:
        AdapterError: A name is not attached, several adapters replace the base's own parameters, or a weight
            is given to one that cannot have any.
    """
    if len(names) == 1 and isinstance(names[0], Mapping):
        return _weighted(names[0], find)
    plain = [name for name in names if isinstance(name, str)]
    if len(plain) < len(names):
        raise AdapterError(
            "weights and names cannot be mixed.", remedy="Give one mapping such as {'a': 0.7, 'b': 0.3}."
        )
    if sum(bool(find(name).own) for name in plain) > 1:
        raise AdapterError(
            f"{', '.join(plain)} replace the same parameters of the base.", remedy="Use one at a time."
        )
    return tuple(Route(name) for name in plain)


def _weighted(weights: Mapping[str, float], find: Find) -> tuple[Route, ...]:
    for name, weight in weights.items():
        adapter = find(name)
        if not math.isfinite(weight):
            raise AdapterError(f"the weight of {name!r} is {weight}.", remedy="Give a number.")
        if adapter.own or adapter.keys_values or adapter.prompt is not None:
            what = "replaces parameters of the base" if adapter.own else "adds tokens"
            raise AdapterError(
                f"{name!r} {what}, which cannot be weighted.",
                remedy="Use it alone, or stack it: use('a', 'b').",
            )
    return tuple(Route(name, weight=float(weight)) for name, weight in weights.items())


def own_rows(rows: Mapping[str, slice], batch_rows: int, find: Find) -> tuple[Route, ...]:
    """Routes of adapters that act on one slice of the batch each.

    Raises:
        DeltatuneError: Slices overlap or leave the batch, or an adapter cannot be routed.
    """
    end = 0
    for name, part in sorted(rows.items(), key=lambda item: item[1].start):
        if part.start < end or part.stop <= part.start or part.stop > batch_rows or part.step:
            raise DeltatuneError(
                f"the rows {part} of {name!r} overlap others or leave the batch of {batch_rows}.",
                field="routing",
                remedy="Give each adapter a slice of its own.",
            )
        end = part.stop
        _require_routable(name, find)
    return tuple(Route(name, part) for name, part in rows.items())


def row_by_row(adapters: Sequence[str | None], find: Find) -> tuple[Route, ...]:
    """Routes for a batch whose rows name their adapters in any order; None is the plain base.

    Raises:
        DeltatuneError: A name is not attached, or an adapter cannot act on some rows only.
    """
    for named in filter(None, dict.fromkeys(adapters)):
        _require_routable(named, find)
    routes, start = [], 0
    for name, run in itertools.groupby(adapters):
        stop = start + len(list(run))
        if name is not None:
            routes.append(Route(name, slice(start, stop)))
        start = stop
    return tuple(routes)


def require_rows(adapters: Sequence[str | None], batch: Mapping[str, Any]) -> None:
    """Check that there is one name for each row of a batch.

    Raises:
        DeltatuneError: There is not.
    """
    inputs = ("input_ids", "inputs_embeds", "pixel_values")
    given = [value for key in inputs if isinstance(value := batch.get(key), Tensor)]
    if given and len(given[0]) != len(adapters):
        raise DeltatuneError(
            f"names {len(adapters)} adapters for a batch of {len(given[0])} rows.",
            field="adapters",
            remedy="Name one for each row; None is the plain base.",
        )


def _require_routable(name: str, find: Find) -> None:
    if find(name).own:
        raise TargetError(
            f"{name!r} replaces parameters of the base and cannot act on some rows only.",
            remedy="Train it alone.",
        )
