"""Parameter budgets: every method of a comparison with the same number of trained parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from pydantic import ValidationError

from deltatune.core.devices import own_random_states
from deltatune.core.method import MethodConfig
from deltatune.core.new_heads import head_parameters
from deltatune.core.sites import BaseView
from deltatune.errors import DeltatuneError, RecipeError
from deltatune.results import Budget

LARGEST = 2**20
"""No size beyond this is tried."""

C = TypeVar("C", bound=MethodConfig)


def budget_in_parameters(asked: int | str, total: int) -> int:
    """A count as it is; `0.5%` of the base's `total` parameters, rounded."""
    return asked if isinstance(asked, int) else round(float(asked.rstrip("% ")) / 100 * total)


def count_trained(config: MethodConfig, view: BaseView) -> int:
    """Parameters that `config` would train in the base, heads not counted.

    The adapter is built without memory where its initial values allow that.

    Raises:
        DeltatuneError: The base cannot be given such an adapter.
    """
    with own_random_states():
        try:
            with torch.device("meta"):
                adapter = config.build(view)
        except Exception:  # its start is computed from the base, or drawn: only real numbers tell
            adapter = config.build(view)
    heads = {id(parameter) for parameter in head_parameters(adapter, view)} if not adapter.own else set()
    return sum(parameter.numel() for _, parameter in adapter.trainable() if id(parameter) not in heads)


def sized_for(config: C, view: BaseView, asked: int | str, total: int) -> tuple[C, Budget]:
    """Choose the size with which a method's trained parameters are nearest to the budget.

    Args:
        config: The method; its other settings stay, and what depends on the size follows it.
        view: The base, without adapters.
        asked: The recipe's budget, a count or a share such as `0.5%`.
        total: The base's parameters.

    Returns:
        (the sized method, what the budget came to). A method without a size is returned as it is.

    Raises:
        RecipeError: Even the smallest size trains more.
    """
    budget = budget_in_parameters(asked, total)
    if config.size is None:
        trained = count_trained(config, view)
        return config, Budget(asked=asked, parameters=budget, trained=trained, size=None, value=None)

    counts: dict[int, int | None] = {}

    def count(size: int) -> int | None:
        """Trained parameters with `size`; None if the base allows no such size."""
        if size not in counts:
            try:
                counts[size] = count_trained(config.with_size(size), view)
            except (DeltatuneError, ValidationError):
                counts[size] = None
        return counts[size]

    smallest = _smallest(config, view)
    least = count_trained(config.with_size(smallest), view)
    if budget < least:
        raise RecipeError(
            f"{asked} is {budget:,} parameters, and {config.name} trains at least {least:,} "
            f"({config.size} {smallest}).",
            field="budget",
            remedy=f"Allow {least:,} or more, choose fewer targets, or give the entry `budget: null`.",
        )
    best = _nearest(count, smallest, budget)
    reached = count(best)
    assert reached is not None
    return config.with_size(best), Budget(
        asked=asked, parameters=budget, trained=reached, size=config.size, value=best
    )


def _smallest(config: MethodConfig, view: BaseView) -> int:
    """The smallest size that the settings allow (1, or 2 for blocks)."""
    for size in (1, 2, 3, 4):
        try:
            config.with_size(size)
        except ValidationError:
            continue
        return size
    raise AssertionError(f"{config.name} allows no size up to 4")


def _nearest(count: Callable[[int], int | None], smallest: int, budget: int) -> int:
    """The size whose count, which never falls with the size, is nearest to `budget`; of two, the smaller."""

    def fits(size: int) -> bool:
        found = count(size)
        return found is not None and found <= budget

    low, high = smallest, 2 * smallest
    while high <= LARGEST and fits(high):
        low, high = high, 2 * high
    while high - low > 1:  # `low` fits the budget, `high` does not
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    below, above = count(low), count(high) if high <= LARGEST else None
    assert below is not None
    if above is not None and above - budget < budget - below:
        return high
    first, last = smallest, low  # of the sizes that come to the same, the smallest
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if count(middle) == below else (middle + 1, last)
    return first
