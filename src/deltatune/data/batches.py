"""The order of rows in an epoch, and how much of its batches is padding."""

from __future__ import annotations

import collections
import itertools
import math
import random
from collections.abc import Sequence

POOL = 50
"""Batches whose rows are sorted together by length: little padding, and still a different mix each epoch."""


def batches(
    lengths: Sequence[int],
    batch_size: int,
    seed: int,
    epoch: int,
    bucket_by_length: bool = True,
    *,
    evenly: bool = False,
) -> list[list[int]]:
    """Arrange row indices in batches; each index occurs exactly once.

    The order depends on the arguments alone, so that every method of a comparison sees the same batches.
    With bucketing, rows are shuffled, sorted by length within pools of 50 batches, cut into batches, and the
    batches are shuffled. At most one batch is smaller than `batch_size`.

    Args:
        lengths: Length of each row in tokens.
        batch_size: Rows in a batch, at least 1.
        seed: The run's seed.
        epoch: Counted from 0.
        bucket_by_length: Whether rows of similar length go together.
        evenly: Whether as many batches have as even sizes as can be: where rows are compared with the others
            of their step, a last one of one row would teach nothing.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    generator = random.Random(f"batches {seed} {epoch}")  # a text seed is hashed by SHA-512: same everywhere
    order = list(range(len(lengths)))
    generator.shuffle(order)
    if bucket_by_length:
        pool = batch_size * POOL
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        order = [index for rows in pools for index in sorted(rows, key=lengths.__getitem__)]
    count = math.ceil(len(order) / batch_size)
    ends = [len(order) * n // count if evenly else batch_size * n for n in range(count + 1)]
    result = [order[start:end] for start, end in itertools.pairwise(ends)]
    if bucket_by_length:
        generator.shuffle(result)
    return result


def padding_share(lengths: Sequence[int], order: Sequence[Sequence[int]], at_once: int) -> float:
    """The share of padding in what a model gets, from 0 to 1, if it gets `at_once` rows of a batch at a time.

    Args:
        lengths: Length of each row in tokens.
        order: The batches, as row indices.
        at_once: Rows of a micro-batch.
    """
    tokens = places = 0
    for rows in order:
        for start in range(0, len(rows), at_once):
            of_these = [lengths[row] for row in rows[start : start + at_once]]
            tokens += sum(of_these)
            places += len(of_these) * max(of_these)
    return 1 - tokens / places if places else 0.0


def levels(lengths: Sequence[int], most: int) -> list[int]:
    """At most so many lengths, rising, the last the longest, to which these are padded with least padding.

    Args:
        lengths: Of batches; one that is there often counts often.
        most: How many at most.
    """
    counts = collections.Counter(lengths)
    sizes = sorted(counts)
    # Padding of the first k sizes with j levels, the last of them the k-th; by dynamic programming.
    padding = [0] + [math.inf] * len(sizes)
    ends: list[list[int]] = []
    for _ in range(min(most, len(sizes))):
        best, end = [0.0], [0]
        for k, level in enumerate(sizes):
            added, found = 0, (math.inf, 0)
            for start in range(k, -1, -1):
                added += counts[sizes[start]] * (level - sizes[start])
                if added > found[0]:
                    break
                found = min(found, (padding[start] + added, start))
            best.append(found[0])
            end.append(found[1])
        padding = best
        ends.append(end)
    chosen, k = [], len(sizes)
    for end in reversed(ends):
        if k == 0:
            break
        chosen.append(sizes[k - 1])
        k = end[k]
    return chosen[::-1]
