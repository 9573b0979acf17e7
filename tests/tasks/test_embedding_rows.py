"""Vectors of texts: which rows and recipes are read, and what is said of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import deltatune as dt
from deltatune.data.load import load_data, prompt_row
from deltatune.errors import DeltatuneError
from deltatune.tasks import vectors
from tests.tasks.embedding import loaded, pairs, recipe_of, scored


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("anchor", "positive"), ("anchor", "positive")),
        (("question", "answer"), ("question", "answer")),
        (("input", "target"), ("input", "target")),
        (("query", "positive", "negative_1", "negative_2"), ("query", "positive")),
    ],
)
def test_columns_are_known_by_their_names(
    bert_folder: Path, names: tuple[str, ...], found: tuple[str, str]
) -> None:
    rows = [{name: f"{name} {n}" for name in names} for n in range(20)]
    [row, *_] = load_data(recipe_of(bert_folder, rows).data, "embedding").train
    number = row.id
    assert (row.input, row.target) == (f"{found[0]} {number}", f"{found[1]} {number}")
    assert len(row.negatives) == len(names) - 2


def broken(row: dict[str, Any]) -> list[dict[str, Any]]:
    rows = pairs(20, negative="no {n}")
    rows[3] |= row
    return rows


@pytest.mark.parametrize(
    ("rows", "task", "told"),
    [
        (broken({"query": " "}), "embedding", "row 3.*has an empty input|empty input"),
        (broken({"positive": ""}), "embedding", "empty target"),
        (broken({"negative": None}), "embedding", "no text in the column 'negative', as have 1 of 20"),
        ([*pairs(2), *pairs(18, negative="no {n}")], "embedding", "'negative', as have 2 of 20 rows"),
        ([{**row, "query": "one"} for row in pairs(20)], "embedding", "one anchor .'one'.: there is noth"),
        ([{**row, "positive": "one"} for row in pairs(20)], "embedding", "have one positive"),
        (scored(20), "embedding", "has the column 'score'.*Set task: text-similarity"),
        ([{**row, "score": 3} for row in scored(20)], "text-similarity", "are all 3: there is no order"),
        ([*scored(20), {**scored(1)[0], "score": "nan"}], "text-similarity", "no finite number"),
        ([{"input": f"{n}", "target": n} for n in range(20)], "text-similarity", "has one text, and two"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_rows_is_said_once(bert_folder: Path, rows: Any, task: str, told: str) -> None:
    with pytest.raises(DeltatuneError, match=told):
        dt.check(recipe_of(bert_folder, rows, task), quiet=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": {"batch_size": 1}}, "leaves nothing to compare"),
        ({"task": "text-classification", "model": {"name": "x", "pooling": "cls"}}, "is for the tasks emb"),
        (
            {"task": "text-to-text", "data": {"source": [{"a": 1}], "columns": {"negative": "n"}}},
            "for the task embedding",
        ),
        ({"evaluation": {"primary": "accuracy"}}, "for other tasks"),
        ({"train": {"head_lr": 0.1}}, "new heads"),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be_meant_are_refused(bert_folder: Path, changes: Any, told: str) -> None:
    with pytest.raises(DeltatuneError, match=told):
        recipe_of(bert_folder, **changes)


def test_two_texts_that_are_compared_have_one_template(bert_folder: Path) -> None:
    data = {"source": scored(20), "split": {"test": 0.1}, "template": "query: {input}"}
    recipe = recipe_of(bert_folder, data, "text-similarity")
    row = load_data(recipe.data, recipe.task).train[0]
    assert (row.input, row.pair) == tuple(
        f"query: {row.columns[name]}" for name in ("sentence1", "sentence2")
    )
    asked = prompt_row({"sentence1": "a", "sentence2": "b"}, recipe.data, recipe.task)
    assert (asked.input, asked.pair) == ("query: a", "query: b")


def test_all_texts_have_the_limit_of_inputs(bert_folder: Path) -> None:
    rows = pairs(20)
    rows[3]["positive"] *= 9
    data = {"source": rows, "split": {"test": 0.1}, "max_input_tokens": 40}
    _, encoder, dataset = loaded(recipe_of(bert_folder, data))
    encoded = encoder.encode([*dataset.train, *dataset.validation, *dataset.test])
    assert (encoded.report.truncated_inputs, encoded.report.truncated_targets) == (1, 0)
    assert max(len(ids) for feature in encoded.features for ids in vectors.texts_of(feature)) == 40


def test_check_says_which_columns_are_compared(bert_folder: Path) -> None:
    assert dt.check(recipe_of(bert_folder), quiet=True).pair == ["query", "positive"]
    found = dt.check(recipe_of(bert_folder, task="text-similarity"), quiet=True)
    assert found.pair == ["sentence1", "sentence2"]
    assert not [text for text in found.warnings if "class" in text]


def test_parts_have_as_many_negatives(bert_folder: Path) -> None:
    rows = pairs(20, negative="no {n}")
    plain = [{name: text for name, text in row.items() if name != "negative"} for row in pairs(6)]
    recipe = recipe_of(bert_folder, {"train": rows, "validation": rows[:9], "test": plain})
    told = r"the test rows.*have 0 negatives each, and the training rows 1"
    with pytest.raises(DeltatuneError, match=told):
        load_data(recipe.data, recipe.task)
