"""Several references of one input: read, kept in one part, learned one by one, and judged together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deltatune.data import Dataset
from deltatune.data.encode import Encoder
from deltatune.data.rows import Row
from deltatune.errors import DataError
from deltatune.recipe import DataSpec
from deltatune.tasks.task import each_reference
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from tests.data.files import Write, jsonl

Load = Callable[..., Dataset]
TEXTS = ("one", "two", "three")
LISTS = [{"input": f"input {n}", "target": [f"{t} {n}" for t in TEXTS[: 1 + n % 3]]} for n in range(12)]
APART = [
    {"input": row["input"], "target": text, "key": f"k{n}"}
    for n, row in enumerate(LISTS)
    for text in row["target"]
]
SPLIT = {"validation": 0.25, "test": 0.25}


@pytest.mark.parametrize("task", ["text-to-text", "causal-lm"])
def test_a_list_and_rows_that_share_an_id_are_the_same(write: Write, load: Load, task: str) -> None:
    write("lists.jsonl", jsonl(LISTS))
    write("apart.jsonl", jsonl(APART))
    write(
        "apart.csv", "input,target,key\n" + "".join(f"{r['input']},{r['target']},{r['key']}\n" for r in APART)
    )
    lists = load(task, source="lists.jsonl", split=SPLIT)
    for name in ("apart.jsonl", "apart.csv"):
        apart = load(task, source=name, split=SPLIT, columns={"id": "key"})
        for part in ("train", "validation", "test"):
            mine, theirs = getattr(lists, part), getattr(apart, part)
            assert [(r.input, r.target, r.references) for r in mine] == [
                (r.input, r.target, r.references) for r in theirs
            ]
    assert lists.warnings == []


def test_each_is_learned_and_one_row_judges_with_all(write: Write, load: Load) -> None:
    write("lists.jsonl", jsonl(LISTS))
    data = load(source="lists.jsonl", split=SPLIT)
    wanted = {row["input"]: tuple(row["target"]) for row in LISTS}
    learned: dict[str, list[str]] = {}
    for row in data.train:
        assert row.references == ()
        learned.setdefault(str(row.input), []).append(row.target)
    assert {text: tuple(targets) for text, targets in learned.items()} == {t: wanted[t] for t in learned}
    assert len({row.id for row in data.train}) == len(data.train)
    judged = [*data.validation, *data.test]
    assert all((row.references or (row.target,)) == wanted[str(row.input)] for row in judged)
    assert {str(row.input) for row in judged}.isdisjoint(learned), "an input is in two parts"
    assert data.references is not None
    assert data.references["train"] == (6, len(data.train))
    assert sum(inputs for inputs, _ in data.references.values()) == 12
    assert data.check is not None
    assert data.check.repeated == 0
    # Of the same rows without lists nothing is said.
    write("plain.jsonl", jsonl([{**row, "target": row["target"][0]} for row in LISTS]))
    assert load(source="plain.jsonl", split=SPLIT).references is None


def test_references_are_a_part_of_the_fingerprint(write: Write, load: Load) -> None:
    prints = set()
    for texts in (["a", "b"], ["a"], ["a", "c"], ["b", "a"], "a"):
        write("lists.jsonl", jsonl([*LISTS, {"input": "x", "target": texts}]))
        prints.add(load(source="lists.jsonl", split={"validation": 0, "test": 0.9}).fingerprint)
    assert len(prints) == 4  # a list of one text is this text


def test_the_limit_counts_inputs(write: Write, load: Load) -> None:
    write("lists.jsonl", jsonl(LISTS))
    data = load(source="lists.jsonl", split=SPLIT, limit={"train": 3, "test": 2})
    assert len({row.input for row in data.train}) == 3
    assert len(data.test) == 2


def test_templates_are_of_each_reference(write: Write, load: Load) -> None:
    write("lists.jsonl", jsonl([{"input": "x", "target": ["a", "b", "a"]}]))
    data = load(source="lists.jsonl", target_template="It is {target}.")
    assert [row.target for row in data.train] == ["It is a.", "It is b."]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ([], "has no reference"),
        (["a", ""], "1 empty of 2 references"),
        (["a", None], "1 empty of 2 references"),
        (["a", "\ud83d"], "half of a character"),
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], "holds a conversation"),
    ],
)
def test_what_is_no_reference_is_refused(write: Write, load: Load, target: Any, says: str) -> None:
    write("lists.jsonl", jsonl([*LISTS, {"input": "x", "target": target}]))
    with pytest.raises(DataError, match=says):
        load(source="lists.jsonl")


def test_lists_of_lists_stay_json(write: Write, load: Load) -> None:
    write(
        "lists.jsonl", jsonl([{"input": "x", "target": [["a"], ["b"]]}, {"input": "y", "target": [1, 2.5]}])
    )
    data = load(source="lists.jsonl")
    assert [row.target for row in data.train] == ['[["a"], ["b"]]', "1", "2.5"]
    assert any("'target' holds a list in 1 of 3" in text for text in data.warnings)


def test_other_inputs_with_one_id_are_refused(write: Write, load: Load) -> None:
    rows = [{"input": "x", "target": "a", "key": "k"}, {"input": "y", "target": "b", "key": "k"}]
    write("rows.jsonl", jsonl(rows))
    with pytest.raises(
        DataError, match="occurs twice among the train rows, with different inputs: 'x' and 'y'"
    ):
        load(source="rows.jsonl", columns={"id": "key"})


@pytest.mark.parametrize("task", ["text-classification", "text-regression"])
def test_other_tasks_refuse_several(write: Write, load: Load, task: str) -> None:
    rows = [{"input": f"x{n}", "target": ["1", "2"], "key": "k"} for n in range(4)]
    write("rows.jsonl", jsonl(rows))
    with pytest.raises(DataError):
        load(task, source="rows.jsonl")
    write("rows.jsonl", jsonl([{**row, "input": "x", "target": str(n)} for n, row in enumerate(rows)]))
    with pytest.raises(DataError, match="occurs twice"):
        load(task, source="rows.jsonl", columns={"id": "key"})


@pytest.mark.parametrize(("task", "kind"), [("text-to-text", "t5"), ("causal-lm", "llama")])
def test_all_references_are_encoded(task: str, kind: Any) -> None:
    texts = ("a", "long " * 9)
    rows = [Row("0", "x", "a", {}, references=texts), Row("1", "y", "b", {})]
    encoder = Encoder(task, tiny_tokenizer(kind), DataSpec(source="x.csv"))
    encoded = encoder.encode(rows)
    apart = encoder.encode([*(Row("0", "x", text, {}) for text in texts), rows[1]])
    found = [{**feature, "others": []} for feature in each_reference(encoded.features)]
    assert found == [{**feature, "others": []} for feature in apart.features]
    assert encoded.lengths == [max(apart.lengths[:2]), apart.lengths[2]]
    assert encoded.report.tokens == sum(apart.lengths)
    assert encoded.report.supervised_tokens == apart.report.supervised_tokens
    assert encoder.encode(rows, supervised=False).features[0].get("others") is None
