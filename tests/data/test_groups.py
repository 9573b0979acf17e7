"""Rows that belong together: in one part, and one example in statistics."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.data import load_data
from deltatune.data.splits import split_groups
from deltatune.errors import DataError
from deltatune.recipe.sections import ColumnsSpec, DataSpec, SplitSpec

PLAIN = "text-classification"


def rows_of(patients: int, each: int = 5) -> list[dict[str, Any]]:
    return [
        {"input": f"report {number} of ward {number % 7} {'xyz'[number % 3] * (5 + number)}", "target": label,
         "patient": f"p{patient}"}
        for patient in range(patients)
        for number in range(patient * each, patient * each + each)
        for label in ["well" if patient % 3 else "ill"]
    ]  # fmt: skip


def loaded(folder: Path, rows: list[dict[str, Any]], task: str = PLAIN, **changes: Any) -> Any:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = {"source": "rows.jsonl", "split": SplitSpec(validation=0.2, test=0.2)} | changes
    return load_data(DataSpec(**given), task, folder)


def test_a_group_lies_in_one_part_and_classes_have_their_shares(tmp_path: Path) -> None:
    data = loaded(tmp_path, rows_of(30), columns=ColumnsSpec(group="patient"))
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    names = {part: {row.columns["patient"] for row in rows} for part, rows in parts.items()}
    assert sum(map(len, names.values())) == 30
    assert not any("groups of" in warning for warning in data.warnings)
    for part, share in {"validation": 0.2, "test": 0.2, "train": 0.6}.items():
        counts = Counter(row.target for row in parts[part])
        assert counts == {"ill": 50 * share, "well": 100 * share}
    assert len({row.group for row in data.test}) == 6
    plain = loaded(tmp_path, rows_of(30))
    assert {row.group for row in plain.test} == {None}


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), min_size=1, max_size=60),
    st.floats(0, 0.5), st.floats(0, 0.4), st.integers(0, 3),
)  # fmt: skip
def test_splits_by_group_keep_every_row_once(rows: Any, validation: float, test: float, seed: int) -> None:
    groups, labels = [group for group, _ in rows], [[label] for _, label in rows]
    indices = list(range(len(rows)))
    parts = split_groups(indices, groups, validation, test, seed, labels)
    assert sorted(index for part in parts for index in part) == indices
    members = [{groups[index] for index in part} for part in parts]
    assert not members[0] & members[1] | members[0] & members[2] | members[1] & members[2]
    assert {labels[index][0] for index in parts[0]} == {label for _, label in rows}
    assert parts == split_groups(indices, groups, validation, test, seed, labels)


def test_one_huge_group_does_not_take_all(tmp_path: Path) -> None:
    rows = [{"input": f"text {n} {'q' * n}", "target": f"{n}", "author": "a" if n < 80 else f"b{n}"}
            for n in range(100)]  # fmt: skip
    author, shares = ColumnsSpec(group="author"), SplitSpec(validation=0.1, test=0.1)
    data = loaded(tmp_path, rows, "text-to-text", columns=author, split=shares)
    assert (len(data.train), len(data.validation), len(data.test)) == (80, 10, 10)
    why = r"validation rows: a group must stay for training, and 100 rows are 21 groups\. Lower"
    with pytest.raises(DataError, match=why):
        loaded(tmp_path, rows, "text-to-text", columns=author)
    with pytest.raises(DataError, match=r"50 rows are 1 group\. .* add rows of other groups"):
        loaded(tmp_path, rows[:50], "text-to-text", columns=author)
    similar = SplitSpec(validation=0.1, test=0.1, keep_similar=True)
    with pytest.raises(DataError, match=r"own\. keep_similar: false makes smaller groups\."):
        loaded(tmp_path, rows[:50], "text-to-text", columns=author, split=similar)


def test_equal_inputs_join_groups_and_empty_cells_are_alone(tmp_path: Path) -> None:
    rows = rows_of(20)
    rows[0]["input"] = rows[7]["input"]  # of two patients
    rows += [{"input": f"walk-in {n} {'w' * n}", "target": "ill", "patient": ""} for n in range(10)]
    data = loaded(tmp_path, rows, columns=ColumnsSpec(group="patient"))
    all_rows = [*data.train, *data.validation, *data.test]
    by_id = {row.id: row.group for row in all_rows}
    assert len({by_id[str(n)] for n in range(10)}) == 1
    assert len({by_id[str(n)] for n in range(100, 110)}) == 10


def test_parts_of_others_that_share_groups_are_told(tmp_path: Path) -> None:
    rows = rows_of(12)
    for name, part in {"train": rows[:40], "test": rows[35:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    spec = DataSpec(
        train="train.jsonl", test="test.jsonl", split=SplitSpec(validation=0.2),
        columns=ColumnsSpec(group="patient"),
    )  # fmt: skip
    told = [each for each in load_data(spec, PLAIN, tmp_path).warnings if "groups of test rows" in each]
    assert told == [
        "1 of 5 groups of test rows (patient: 'p7') are groups of training rows as well; results on them "
        "show memory, not skill."
    ]
    with pytest.raises(DataError, match=r"'patiemt' is no column of the train rows\. Did you mean 'patient'"):
        loaded(tmp_path, rows, columns=ColumnsSpec(group="patiemt"))


def test_whole_numbers_are_one_group_however_they_are_written(tmp_path: Path) -> None:
    rows = [row | {"patient": float(int(row["patient"][1:]))} for row in rows_of(12)]
    rows[7]["patient"], rows[8]["patient"] = 1, None
    del rows[9]["patient"]  # as JSON is often written without empty cells
    data = loaded(tmp_path, rows, columns=ColumnsSpec(group="patient"))
    groups = {row.id: row.group for part in (data.train, data.validation, data.test) for row in part}
    assert (groups["5"], groups["7"]) == ("group 1", "group 1")
    assert (groups["8"], groups["9"]) == ("row 8", "row 9")


@pytest.mark.parametrize(("cell", "what"), [(str, "different"), (lambda _: " ", "empty")])
def test_a_column_that_joins_nothing_is_told(tmp_path: Path, cell: Any, what: str) -> None:
    rows = [row | {"patient": cell(number)} for number, row in enumerate(rows_of(12))]
    told = loaded(tmp_path, rows, columns=ColumnsSpec(group="patient")).warnings
    assert f"data.columns.group (patient) is {what} in all rows, so no rows belong together by it." in told


def test_near_duplicates_can_be_kept_together(tmp_path: Path) -> None:
    story = "the committee of ward {} met on a cold morning in spring to hear about the new machine number {}"
    rows = [
        {"input": f"{story.format(n // 4, chr(97 + n // 4) * 40)} {n}", "target": f"{n}"} for n in range(80)
    ]
    split = SplitSpec(validation=0.2, test=0.2, keep_similar=True)
    data = loaded(tmp_path, rows, "text-to-text", split=split)
    assert not [warning for warning in data.warnings if "nearly the same" in warning]
    assert len({row.group for row in data.test}) == 4
    assert len(data.test) == 16
    loose = loaded(tmp_path, rows, "text-to-text")
    assert [warning for warning in loose.warnings if "nearly the same" in warning]
