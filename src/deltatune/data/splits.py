"""Splits: which rows are for training, validation and test."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def split_rows(  # noqa: PLR0917 - the order in which everything else passes them
    rows: Sequence[T],
    validation: float,
    test: float,
    seed: int,
    classes: Sequence[str] | None = None,
    label_sets: Sequence[Sequence[str]] | None = None,
) -> tuple[list[T], list[T], list[T]]:
    """Split rows into training, validation and test rows by a seeded shuffle.

    A share above 0 takes at least one row. Within a part, rows keep their order. The test rows are drawn
    first, so that they stay the same when only the share of validation changes.

    Args:
        rows: What to split.
        validation: Share of the rows, in [0, 1).
        test: Share of the rows, in [0, 1).
        seed: Seed of the shuffle.
        classes: Of each row. If given, each part has every class's share of all rows, as nearly as whole
            rows allow, and the last row of a class stays among the training rows.
        label_sets: The labels of each row, of which it may have any number. If given, each part has about
            every label's share of all rows, and the last row of a label stays among the training rows.
    """
    order = shuffled(len(rows), seed)
    counts = [_count(test, len(rows)), _count(validation, len(rows))]
    if label_sets is not None:
        sets = [list(labels) or [""] for labels in label_sets]  # to have none is told apart as a label is
        tested = _deal(order, sets, counts[0])
        gone = set(tested)
        held_out = _deal([index for index in order if index not in gone], sets, counts[1])
    elif classes is None:
        tested, held_out = order[: counts[0]], order[counts[0] : sum(counts)]
    else:
        queues: dict[str, list[int]] = {}
        for index in order:
            queues.setdefault(classes[index], []).append(index)
        tested = _draw(queues, counts[0])
        held_out = _draw(queues, counts[1])
    taken = {*tested, *held_out}
    parts = ([index for index in order if index not in taken], held_out, tested)
    train, validated, judged = ([rows[index] for index in sorted(indices)] for indices in parts)
    return train, validated, judged


def split_groups(  # noqa: PLR0917 - as split_rows
    rows: Sequence[T],
    groups: Sequence[Hashable],
    validation: float,
    test: float,
    seed: int,
    label_sets: Sequence[Sequence[str]],
) -> tuple[list[T], list[T], list[T]]:
    """Split rows as `split_rows` does, with all rows of a group in one part.

    Groups are taken in shuffled order, as long as that brings a part nearer to its share of each label (or of
    the rows, if there is one label only). At least one group is taken for a share above 0, if all of its
    labels stay among the training rows.

    Args:
        rows: What to split.
        groups: The group of each row.
        validation: Share of the rows, in [0, 1).
        test: Share of the rows, in [0, 1).
        seed: Seed of the shuffle.
        label_sets: The labels of each row.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    left = [list(members.values())[place] for place in shuffled(len(members), seed)]
    there = Counter(label for labels in label_sets for label in labels or [""])
    held: list[list[int]] = []
    for share in (test, validation):
        taken = _whole(left, label_sets, {label: share * count for label, count in there.items()})
        held.append(sorted(index for place in taken for index in left[place]))
        left = [group for place, group in enumerate(left) if place not in taken]
    parts = (sorted(index for group in left for index in group), held[1], held[0])
    train, validated, judged = ([rows[index] for index in part] for part in parts)
    return train, validated, judged


def _whole(
    groups: Sequence[list[int]], label_sets: Sequence[Sequence[str]], wanted: dict[str, float]
) -> set[int]:
    """Places of groups whose labels together come near to those that are wanted."""
    counts = [Counter(label for index in group for label in label_sets[index] or [""]) for group in groups]
    left: Counter[str] = Counter()
    for count in counts:
        left.update(count)
    taken: set[int] = set()

    def gain(count: Counter[str]) -> float:
        """How much nearer it comes."""
        return sum(abs(wanted[label]) - abs(wanted[label] - n) for label, n in count.items())

    def take(place: int) -> None:
        taken.add(place)
        left.subtract(counts[place])
        for label, n in counts[place].items():
            wanted[label] -= n

    if not any(wanted.values()):
        return set()
    may_go = [all(n < left[label] for label, n in count.items()) for count in counts]
    for place, count in enumerate(counts):
        if gain(count) > 0 and all(n < left[label] for label, n in count.items()):
            take(place)
    if not taken and any(may_go):  # all are too large: the smallest
        take(min((place for place, may in enumerate(may_go) if may), key=lambda place: len(groups[place])))
    return taken


def _draw(queues: dict[str, list[int]], count: int) -> list[int]:
    """Take `count` indices out of the queues by their lengths' shares, the largest remainders rounded up.

    Of equal remainders that of the class comes first whose first row the shuffle put first.
    """
    total = sum(map(len, queues.values()))
    count = max(0, min(count, total - len(queues)))
    takes = {name: min(len(queue) - 1, count * len(queue) // total) for name, queue in queues.items()}
    by_remainder = sorted(queues, key=lambda name: -(count * len(queues[name]) % total))
    while (missing := count - sum(takes.values())) > 0:
        open_ones = [name for name in by_remainder if takes[name] < len(queues[name]) - 1]
        for name in open_ones[:missing]:
            takes[name] += 1
    drawn = [index for name, queue in queues.items() for index in queue[: takes[name]]]
    for name, queue in queues.items():
        del queue[: takes[name]]
    return drawn


def _deal(order: Sequence[int], label_sets: Sequence[Sequence[str]], count: int) -> list[int]:
    """Take `count` indices so that of every label about its share is taken: iterative stratification.

    Sechidis et al. 2011, for two parts: the rows of the label that fewest of the rows left have come first,
    and each goes to the part that lacks more of this label, or else more rows. The last row of a label is not
    taken; fewer rows are, where all others hold such a label.
    """
    share = count / max(1, len(order))
    there = Counter(label for index in order for label in label_sets[index])
    lacks = {label: (share * n, (1 - share) * n) for label, n in there.items()}
    left = dict(there)
    rows_of: dict[str, list[int]] = {label: [] for label in there}
    for index in order:
        for label in label_sets[index]:
            rows_of[label].append(index)
    taken: dict[int, None] = {}  # a set in the order of taking
    dealt: set[int] = set()

    def may_go(index: int) -> bool:
        return len(taken) < count and all(there[label] > 1 for label in label_sets[index])

    def take(index: int) -> None:
        taken[index] = None
        there.subtract(label_sets[index])

    while left:
        rarest = min(left, key=left.__getitem__)
        for index in (index for index in rows_of[rarest] if index not in dealt):
            dealt.add(index)
            wanted, kept = lacks[rarest]
            rows_wanted, rows_kept = count - len(taken), len(order) - len(dealt) - count + len(taken) + 1
            goes = may_go(index) and (wanted, rows_wanted) > (kept, rows_kept)
            if goes:
                take(index)
            for label in label_sets[index]:
                wanted, kept = lacks[label]
                lacks[label] = (wanted - 1, kept) if goes else (wanted, kept - 1)
                left[label] -= 1
        del left[rarest]
    for index in order:  # what rounding left to take
        if len(taken) == count:
            break
        if index not in taken and may_go(index):
            take(index)
    return list(taken)


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
