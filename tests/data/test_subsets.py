"""Parts of the training rows: nested, with every class, whole groups."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from deltatune.data.load import load_data
from deltatune.data.subsets import narrowed, nested_order, training_rows
from deltatune.recipe.sections import DataSpec, SubsetSpec


def spec(path: Path, rows: list[dict[str, object]], **changes: object) -> DataSpec:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    split = {"split": {"validation": 0.1, "test": 0.1}}
    return DataSpec.model_validate({"source": str(path), **split, **changes})


def test_a_larger_part_holds_a_smaller_one_and_each_has_the_shares_of_classes() -> None:
    labels = [frozenset({name}) for name in ["a"] * 700 + ["b"] * 290 + ["c"] * 10]
    order = nested_order(labels, 3)
    assert sorted(order) == list(range(1000))
    for number in (3, 20, 100, 500):
        counts = Counter(next(iter(labels[place])) for place in order[:number])
        assert min(counts[name] for name in "abc") >= 1
        assert abs(counts["a"] - 0.7 * number) <= 2
    assert nested_order(labels, 3) == order != nested_order(labels, 4)


def test_a_run_reads_the_rows_that_a_curve_gave_it(tmp_path: Path) -> None:
    rows = [{"id": str(i), "input": f"text {i}", "target": "abc"[i % 3]} for i in range(60)]
    whole = spec(tmp_path / "rows.jsonl", rows)
    dataset = load_data(whole, "text-classification")
    before: set[str] = set()
    for number in (4, 10, 30):
        subset = SubsetSpec(rows=number, seed=1)
        part = narrowed(dataset, subset, "text-classification")
        limit = whole.limit.model_copy(update={"subset": subset})
        read = load_data(whole.model_copy(update={"limit": limit}), "text-classification")
        assert read.fingerprint == part.fingerprint != dataset.fingerprint
        assert (part.test, part.validation, part.labels) == (dataset.test, dataset.validation, dataset.labels)
        ids = {row.id for row in part.train}
        assert len(ids) == number
        assert before <= ids
        assert {row.target for row in part.train} == set("abc")
        before = ids
    assert narrowed(dataset, SubsetSpec(rows=999), "text-classification").fingerprint == dataset.fingerprint


def test_groups_and_references_stay_whole(tmp_path: Path) -> None:
    rows = [
        {"input": f"text {i}", "target": [f"one {i}", f"two {i}"], "patient": str(i // 5)} for i in range(60)
    ]
    dataset = load_data(spec(tmp_path / "rows.jsonl", rows), "text-to-text")
    part = narrowed(dataset, SubsetSpec(rows=7), "text-to-text")
    assert (training_rows(part), len(part.train)) == (7, 14)
    assert part.references
    assert part.references["train"] == (7, 14)
    grouped = load_data(spec(tmp_path / "rows.jsonl", rows, columns={"group": "patient"}), "text-to-text")
    part = narrowed(grouped, SubsetSpec(rows=14), "text-to-text")
    assert training_rows(part) == 10  # two patients; a third would be too many
    assert set(Counter(row.columns["patient"] for row in part.train).values()) == {10}
    assert training_rows(narrowed(grouped, SubsetSpec(rows=2), "text-to-text")) == 5  # one at least


def test_numbers_are_standardised_by_the_rows_that_are_left(tmp_path: Path) -> None:
    rows = [{"input": f"text {i}", "target": i} for i in range(100)]
    whole = spec(tmp_path / "rows.jsonl", rows)
    dataset = load_data(whole, "text-regression")
    part = narrowed(dataset, SubsetSpec(rows=10), "text-regression")
    values = [float(row.target) for row in part.train]
    assert part.scale is not None
    assert part.scale != dataset.scale
    assert part.scale.mean == pytest.approx(sum(values) / 10)
