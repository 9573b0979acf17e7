"""Recipes with several data sets: their names, what each becomes, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deltatune.errors import RecipeError
from deltatune.recipe import json_schema, load_recipe, parse_recipe
from deltatune.recipe.data_sets import are_sets, as_one, load_sets, parse_sets

SPLIT = {"validation": 0.1, "test": 0.1}
BASE: dict[str, Any] = {
    "task": "text-classification",
    "model": "bundled:minilm",
    "data": [
        {"source": "reviews.csv", "split": SPLIT},
        {
            "source": "a/news.jsonl",
            "split": SPLIT,
            "template": "News: {input}",
            "columns": {"input": "headline"},
        },
        {"train": "mail/train.csv", "split": SPLIT, "name": "My mail"},
    ],
    "methods": ["lora", {"head": None, "data": {"template": "News: {input}"}}],
}


def test_each_set_becomes_a_recipe_that_differs_in_its_data_alone() -> None:
    sets = parse_sets(BASE)
    assert list(sets) == ["reviews", "news", "My mail"]
    for recipe, section in zip(sets.values(), BASE["data"], strict=True):
        data = {key: value for key, value in section.items() if key != "name"}
        assert recipe == parse_recipe({**BASE, "data": data})


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("rows.jsonl.gz", "rows"),
        ({"source": "films/train.csv"}, "films"),
        ({"train": "data/films/rows.csv"}, "films"),
        ("bundled:tables", "tables"),
        ("hub:stanfordnlp/imdb@main", "imdb"),
        ("hub:nyu-mll/glue#sst2", "glue-sst2"),
        ({"source": "x.csv", "name": "X"}, "X"),
    ],
)
def test_names(section: Any, name: str) -> None:
    section = {"split": SPLIT} | ({"source": section} if isinstance(section, str) else section)
    first, _ = parse_sets({**BASE, "data": [section, "other.csv"]}, ["data.1.split={test: 0.1}"])
    assert first == name


def test_one_set_in_a_list_is_that_set(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**BASE, "data": [{**BASE["data"][0], "name": "r"}]}))
    plain = {**BASE, "data": BASE["data"][0]}
    assert load_recipe(path) == parse_recipe(plain, root=tmp_path)
    assert load_sets(path) == {"": load_recipe(path)}


def test_one_of_several_can_be_changed_or_chosen() -> None:
    sets = parse_sets({**BASE, "data": ["a.csv", "b.csv"]}, ["data.0.split={}", "data.1.split={test: 0.3}"])
    assert sets["a"].data.source == "a.csv"
    assert sets["b"].data.split is not None
    assert sets["b"].data.split.test == 0.3
    assert list(parse_sets(BASE, ["data={source: c.csv, split: {}}"])) == [""]


def test_paths_are_meant_from_the_recipes_folder(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(BASE))
    assert load_sets(path)["news"].data.source == str(tmp_path / "a/news.jsonl")


def test_the_recipe_that_is_written_down_makes_the_same_again() -> None:
    sets = parse_sets(BASE)  # an entry gives itself the template that one of the sets has anyway
    assert parse_sets(as_one(sets)) == sets


def test_the_json_schema_knows_lists_of_sets() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    assert not list(validator.iter_errors(BASE))
    assert not list(validator.iter_errors({**BASE, "data": ["a.csv", "b.csv"]}))
    assert list(validator.iter_errors({**BASE, "data": [{"sauce": "a.csv"}]}))
    assert list(validator.iter_errors({**BASE, "data": {"source": "a.csv", "name": "a"}}))


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        (["x/a.csv", "y/a.csv"], "data.1.name", "would be called a, as data.0 is"),
        ([{"source": "a.csv", "name": "n"}, {"source": "b.csv", "name": "N"}], "data.1.name", "data.0, too"),
        ([{"source": "a.csv", "name": "../x/"}, {"source": "b.csv", "name": "x"}], "data.1.name", "data.0"),
        (["a.csv", {"source": "b.csv", "name": "//"}], "data.1.name", "must be a text"),
        (["a.csv", {"source": "b.csv", "name": 3}], "data.1.name", "must be a text"),
        (["a.csv", 5], "data.1", "must be a data section"),
        ([{"source": "a.csv", "split": SPLIT}, {"source": "b.csv", "split": SPLIT, "sauce": 1}],
         "data.1.sauce", "is not a known key"),
        ([{"source": "a.csv", "split": SPLIT}, "b.csv"], "data.1.split", "is missing"),
        ([{"source": "a.csv", "split": SPLIT}, {"split": SPLIT}], "data.1", "names no training rows"),
        ([], "data", "has no data sets"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_set_is_said_of_it(data: Any, field: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words.replace(".", r"\.")) as caught:
        parse_sets({**BASE, "data": data})
    assert caught.value.field == field


def test_problems_of_several_sets_are_all_told_and_those_of_none_once() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_sets({**BASE, "data": ["a.csv", "b.csv"]})
    assert "data.0.split: is missing" in str(caught.value)
    assert "data.1.split: is missing" in str(caught.value)
    with pytest.raises(RecipeError) as caught:
        parse_sets({**BASE, "task": "cooking"})
    assert str(caught.value).count("cooking") == 1


def test_whoever_reads_one_data_set_says_how_to_choose_one(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(BASE))
    with pytest.raises(RecipeError, match="has 3 data sets") as caught:
        load_recipe(path)
    assert '--set "data={source: FILE, ...}"' in str(caught.value.remedy)
    section = "data={source: c.csv, split: {test: 0.2}}"
    assert load_recipe(path, [section]).data.source == str(tmp_path / "c.csv")


def test_rows_in_memory_are_no_list_of_sets() -> None:
    assert are_sets(["a.csv", {"source": "b.csv", "name": "b"}])
    assert are_sets([[{"text": "x"}], {"train": [{"text": "y"}]}])
    assert not are_sets([{"text": "x", "label": "y"}])
    assert not are_sets([{"source": "Hello", "target": "Bonjour"}])  # a translation
    assert not are_sets([])
