"""Splits: which rows are for training, validation and test."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def split_rows(
    rows: Sequence[T], validation: float, test: float, seed: int
) -> tuple[list[T], list[T], list[T]]:
    """Split rows into training, validation and test rows by a seeded shuffle.

    A share above 0 takes at least one row. Within a part, rows keep their order. The test rows are drawn
    first, so that they stay the same when only the share of validation changes.

    Args:
        rows: What to split.
        validation: Share of the rows, in [0, 1).
        test: Share of the rows, in [0, 1).
        seed: Seed of the shuffle.
    """
    order = shuffled(len(rows), seed)
    n_test = _count(test, len(rows))
    n_validation = _count(validation, len(rows))
    picked = (order[n_test + n_validation :], order[n_test : n_test + n_validation], order[:n_test])
    train, held_out, tested = ([rows[index] for index in sorted(indices)] for indices in picked)
    return train, held_out, tested


def limit_rows(rows: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """Keep the first `limit` rows of a seeded shuffle, in their old order: a larger limit only adds rows."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[index] for index in sorted(shuffled(len(rows), seed)[:limit])]


def shuffled(count: int, seed: int) -> list[int]:
    """Shuffle the indices below `count`; the same for the same seed on every machine."""
    order = list(range(count))
    random.Random(f"split {seed}").shuffle(order)
    return order


def _count(share: float, total: int) -> int:
    return max(1, round(share * total)) if share > 0 else 0
