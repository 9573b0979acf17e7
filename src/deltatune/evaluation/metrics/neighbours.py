"""Metrics of finding texts by the nearness of vectors, as the retrieval literature has them.

A row's text is looked for among a pool: the different positives of all rows that are judged. The pool is part
of the question. A bootstrap draws rows and leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from deltatune.evaluation.metrics.registry import METRICS, Metric, Scores, score

NEIGHBOUR_METRICS = ("mrr", "recall_at", "triplet_accuracy")


class Search(NamedTuple):
    """How the search for a row's texts ended."""

    ranks: tuple[int, ...]
    """Of each text of the pool that is right for the row: 1 is the nearest. Equal ones share the worst."""
    nearer: float | None = None
    """Share of the row's negatives that are farther from it than its positive; None without negatives."""


Function = Callable[[Sequence[Search], Sequence[str]], Scores]
"""(searches, positives) to scores."""


def neighbour_metric(name: str, keys: Mapping[str, bool | None]) -> Callable[[Function], Function]:
    """Register a metric of finding texts."""

    def register(function: Function) -> Function:
        METRICS.add(name, Metric(keys, {"neighbours": function}))
        return function

    return register


@neighbour_metric("mrr", keys={"mrr_at_10": True})
def mrr(searches: Sequence[Search], positives: Sequence[str]) -> Scores:
    """Mean reciprocal rank of the first right text, 0 where none is among the ten nearest."""
    first = [min(search.ranks) for search in searches]
    return Scores.per_example({"mrr_at_10": [1 / rank if rank <= 10 else 0.0 for rank in first]})


@neighbour_metric("recall_at", keys={f"recall_at_{k}": True for k in (1, 5, 10)})
def recall_at(searches: Sequence[Search], positives: Sequence[str]) -> Scores:
    """Share of a row's right texts that are among the 1, 5 or 10 nearest."""
    return Scores.per_example(
        {
            f"recall_at_{k}": [sum(rank <= k for rank in s.ranks) / len(s.ranks) for s in searches]
            for k in (1, 5, 10)
        }
    )


@neighbour_metric("triplet_accuracy", keys={"triplet_accuracy": True})
def triplet_accuracy(searches: Sequence[Search], positives: Sequence[str]) -> Scores:
    """Share of negatives that are farther than the positive; there is none of rows without negatives."""
    shares = [search.nearer for search in searches if search.nearer is not None]
    return Scores.per_example({"triplet_accuracy": shares}) if shares else Scores({})


def neighbour_metrics(
    searches: Sequence[Search], positives: Sequence[str], names: Sequence[str] | None = None
) -> Scores:
    """Score searches, one a row.

    Args:
        searches: How they ended.
        positives: The texts that were looked for.
        names: Names of metrics; by default all of them.

    Raises:
        ValueError: Unequal numbers of both, or none.
    """
    return score("neighbours", names or NEIGHBOUR_METRICS, searches, positives)
