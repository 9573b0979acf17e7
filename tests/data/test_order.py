"""Splits, limits, batches: each row once, the same every time."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.data import batches
from deltatune.data.splits import limit_rows, split_rows

LENGTHS = st.lists(st.integers(1, 600), max_size=300)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_batches_hold_each_row_once_and_only_one_is_small(
    lengths: list[int], size: int, seed: int, epoch: int, bucket: bool
) -> None:
    result = batches(lengths, size, seed, epoch, bucket)
    assert sorted(chain(*result)) == list(range(len(lengths)))
    assert sum(len(batch) < size for batch in result) <= 1
    assert all(0 < len(batch) <= size for batch in result)
    assert result == batches(list(lengths), size, seed, epoch, bucket)


@given(LENGTHS.filter(bool), st.integers(2, 40), st.booleans())
def test_even_batches_are_as_many_and_differ_by_one_row_at_most(
    lengths: list[int], size: int, bucket: bool
) -> None:
    even, plain = (batches(lengths, size, 0, 0, bucket, evenly=evenly) for evenly in (True, False))
    assert sorted(chain(*even)) == list(range(len(lengths)))
    assert len(even) == len(plain)
    sizes = [len(batch) for batch in even]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("bucket", [True, False])
def test_epochs_and_seeds_differ(bucket: bool) -> None:
    lengths = [1 + index % 17 for index in range(200)]
    orders = [batches(lengths, 8, seed, epoch, bucket) for seed in range(3) for epoch in range(3)]
    assert len({str(order) for order in orders}) == 9
    assert len({str(sorted(map(sorted, order))) for order in orders}) == 9, "the batches' contents differ too"


def test_the_order_is_the_same_on_every_machine() -> None:
    assert batches([5, 1, 4, 2, 3, 9], 2, seed=0, epoch=0) == [[4, 2], [1, 3], [0, 5]]
    assert split_rows(range(10), 0.2, 0.3, seed=0) == ([2, 3, 4, 6, 7], [0, 8], [1, 5, 9])


def test_bucketing_saves_most_of_the_padding() -> None:
    lengths = [1 + (index * 7919) % 500 for index in range(2000)]

    def padding(bucket: bool) -> int:
        order = batches(lengths, 16, 0, 0, bucket)
        return sum(len(batch) * max(lengths[index] for index in batch) for batch in order) - sum(lengths)

    assert padding(True) < 0.1 * padding(False)


def test_a_batch_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        batches([1], 0, 0, 0)


@given(
    st.integers(0, 200),
    st.floats(0, 0.4),
    st.floats(0, 0.4),
    st.integers(0, 5),
)
def test_splits_are_disjoint_whole_and_stable(count: int, validation: float, test: float, seed: int) -> None:
    rows = list(range(count))
    parts = split_rows(rows, validation, test, seed)
    assert sorted(chain(*parts)) == rows
    assert all(part == sorted(part) for part in parts)
    assert parts == split_rows(rows, validation, test, seed)
    if count >= 3:
        assert [bool(part) for part in parts[1:]] == [validation > 0, test > 0]
    assert split_rows(rows, 0, test, seed)[2] == parts[2], (
        "the test rows do not depend on the validation share"
    )


@given(st.integers(0, 100), st.integers(1, 120), st.integers(0, 5))
def test_a_larger_limit_only_adds_rows(count: int, limit: int, seed: int) -> None:
    rows = list(range(count))
    some, more = limit_rows(rows, limit, seed), limit_rows(rows, limit + 1, seed)
    assert len(some) == min(limit, count)
    assert set(some) <= set(more)
    assert some == sorted(some)
    assert limit_rows(rows, None, seed) == rows


@given(
    st.lists(st.sampled_from("aaaabbbccd"), min_size=2, max_size=200),
    st.sampled_from([0.0, 0.1, 0.25]),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.integers(0, 9),
)
def test_a_stratified_split_keeps_the_shares(classes: str, validation: float, test: float, seed: int) -> None:
    rows = list(range(len(classes)))
    parts = split_rows(rows, validation, test, seed, classes)
    assert parts == split_rows(rows, validation, test, seed, classes)
    train, _, tested = parts
    assert sorted(chain(*parts)) == rows
    assert {classes[row] for row in train} == set(classes), "the last row of a class is for training"
    assert all(part == sorted(part) for part in parts)
    assert split_rows(rows, 0.0, test, seed, classes)[2] == tested
    for name in set(classes):
        wanted = len(tested) * classes.count(name) / len(classes)
        taken = sum(classes[row] == name for row in tested)
        assert abs(taken - wanted) <= 1 or min(classes.count(label) for label in set(classes)) < 3


def test_a_rare_class_is_in_every_part() -> None:
    classes = ["common"] * 90 + ["rare"] * 10
    for seed in range(20):
        for part in split_rows(range(100), 0.1, 0.2, seed, classes):
            assert sum(classes[row] == "rare" for row in part) == len(part) // 10
