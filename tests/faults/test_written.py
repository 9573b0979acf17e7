"""What is written as YAML is read back, by the rules of 1.2 and of 1.1: every text and every number."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.comparison.study import storage
from deltatune.errors import RecipeError
from deltatune.recipe import Recipe, load_recipe
from deltatune.recipe.choosing import SearchSpec
from deltatune.recipe.written import as_written, differences, is_written
from deltatune.recipe.yaml_text import Loader

Make = Callable[..., Recipe]
LIKE_NUMBERS = st.from_regex(r"\A[-+.0-9eE_:xo]{1,8}\Z")
SPECIAL = st.sampled_from(
    [
        *("5e-4", "1e3", "no", "On", "~", "null", "0x1f", "0o17", "1_000", "12:30:45", "2026-11-29", ".inf"),
        *("<<", "=", "\x85", "a\x85b", "\u2028", "\ufeff", "a\r\nb", "\t", " a", "a ", "a: b", "# a", "- a"),
        *("\x00", "\x1b[0m"),
    ]
)
TEXTS = st.one_of(st.text(), LIKE_NUMBERS, SPECIAL)
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), TEXTS, NUMBERS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3))
def test_every_value_comes_back(value: dict[str, Any]) -> None:
    text = as_written(value)
    for loader in (Loader, yaml.SafeLoader):
        assert yaml.load(text, Loader=loader) == value
        assert _kinds(yaml.load(text, Loader=loader)) == _kinds(value)


def _kinds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _kinds(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_kinds(item) for item in value]
    return type(value), math.copysign(1, value) if isinstance(value, float) else None


@pytest.mark.parametrize("name", ["5e-4", "1e3", "0x1f", "no", "a\x85b"])
def test_names_that_look_like_something_else(make_recipe: Make, tmp_path: Path, name: str) -> None:
    recipe = make_recipe(methods=[{"lora": {}, "name": name}])
    path = tmp_path / "recipe.yaml"
    path.write_text(as_written(recipe.dump()), encoding="utf-8")
    assert load_recipe(path).dump() == recipe.dump()
    assert is_written(path)
    assert not differences(path, recipe.dump(), remedy="")
    path.write_text(yaml.safe_dump(recipe.dump(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    if "\x85" not in name:  # version 0.1 wrote this so that nobody can read it
        assert not differences(path, recipe.dump(), remedy="")


def test_a_name_that_is_too_long_for_a_folder_is_refused(make_recipe: Make) -> None:
    make_recipe(methods=[{"lora": {}, "name": "n" * 200}])
    with pytest.raises(RecipeError, match="too long to name a folder by"):
        make_recipe(methods=[{"lora": {}, "name": "n" * 300}])


@pytest.mark.parametrize("name", ["e q?x", "e#h", "e%20p", "e{x}", "e'quote", "plain"])
def test_the_database_of_a_search_lies_in_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    storage(SearchSpec(trials=1), folder)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (folder / "search.db").is_file()
