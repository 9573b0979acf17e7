"""Ways to read and to decode that an entry has of its own: written, as axes, labelled, and refused."""

from __future__ import annotations

from typing import Any

import pytest

from deltatune.errors import RecipeError
from deltatune.recipe import json_schema, parse_recipe
from deltatune.recipe.schema import DataSpec, MethodEntry, Recipe
from tests.recipe.test_grid import BASE

GOOD = "Is this good? {input}"


def made(*overrides: str, **sections: Any) -> Recipe:
    return parse_recipe({**BASE, "methods": ["untuned", "lora"], **sections}, overrides)


def test_an_entry_has_what_differs_and_the_rest_from_the_recipe() -> None:
    recipe = made(
        "data.max_input_tokens=256",
        "evaluation.max_new_tokens=9",
        methods=[
            "untuned",
            {"lora": {}, "data": {"template": GOOD}, "evaluation": {"num_beams": 4}},
            {"lora": {}, "name": "short", "data": {"max_target_tokens": 8}},
            {"lora": {}, "name": "the same", "data": {"max_input_tokens": 256}},
        ],
    )
    found = [
        (data.template, data.max_input_tokens, data.max_target_tokens, data.source)
        for entry in recipe.methods
        for data in [recipe.data_of(entry)]
    ]
    assert found == [
        ("{input}", 256, 64, "tables.jsonl"),
        (GOOD, 256, 64, "tables.jsonl"),
        ("{input}", 256, 8, "tables.jsonl"),
        ("{input}", 256, 64, "tables.jsonl"),
    ]
    decoding = [recipe.evaluation_of(entry) for entry in recipe.methods]
    assert [(one.num_beams, one.max_new_tokens) for one in decoding] == [(1, 9), (4, 9), (1, 9), (1, 9)]
    assert len(recipe.readings) == 3
    assert parse_recipe(recipe.dump()) == recipe


def test_a_dump_holds_what_an_entry_gives_and_of_others_nothing() -> None:
    recipe = made(methods=["untuned", {"lora": {}, "data": {"template": GOOD, "max_input_tokens": 512}}])
    plain, own = recipe.dump()["methods"]
    assert not plain.keys() & {"data", "evaluation"}  # so that older folders go on
    assert own["data"] == {"template": GOOD}
    assert "evaluation" not in own


def test_a_run_alone_has_its_own_sections_as_its_recipes() -> None:
    recipe = made(
        methods=["untuned", {"lora": {}, "data": {"template": GOOD}, "evaluation": {"num_beams": 4}}]
    )
    own = recipe.alone(recipe.methods[1], 7)
    assert (own.data.template, own.evaluation.num_beams, own.seeds) == (GOOD, 4, [7])
    assert (own.methods[0].data, own.methods[0].evaluation) == (None, None)
    assert parse_recipe(own.dump()).data == own.data


def test_axes_of_an_entry_and_of_the_recipe() -> None:
    recipe = made(
        methods=[
            "untuned",
            {"lora": {}, "grid": {"data.template": ["{input}", GOOD], "evaluation.num_beams": [1, 4]}},
        ],
        grid={"data.max_input_tokens": [128, 256], "train.lr": [0.1, 0.2]},
    )
    names = [entry.name for entry in recipe.methods]
    # The base that is not trained is read in each way, but has no learning rate.
    assert names[:2] == ["untuned max_input_tokens=128", "untuned max_input_tokens=256"]
    assert len(names) == 2 + 2 * 2 * 2 * 2
    assert names[-1] == "lora template=Is this good? {input} num_beams=4 max_input_tokens=256 lr=0.2"
    last = recipe.methods[-1]
    assert recipe.data_of(last).template == GOOD
    assert recipe.data_of(last).max_input_tokens == 256
    assert (recipe.evaluation_of(last).num_beams, last.train.lr) == (4, 0.2)
    assert [recipe.data_of(entry).max_input_tokens for entry in recipe.methods[:2]] == [128, 256]
    assert {entry.group for entry in recipe.methods} == {"untuned", "lora"}
    assert parse_recipe(recipe.dump()) == recipe


def test_templates_never_share_a_folder_and_stay_short() -> None:
    long = "Read the following table with care and then write one title for all of it: {input}"
    templates = [
        "say: {input}", "say - {input}", "SAY {input}", "{input}", "{input}.", long, f"{long}!", f"{long}?",
        "[bold]\n{input}", "要約 {input}",
    ]  # fmt: skip
    recipe = made(methods=[{"untuned": {}, "grid": {"data.template": templates}}])
    assert len({entry.slug for entry in recipe.methods}) == len(templates)
    assert [recipe.data_of(entry).template for entry in recipe.methods] == templates
    for entry in recipe.methods:
        assert len(entry.name) <= len("untuned template=") + 32 + len(" #123456")
        assert entry.name.isprintable()
        assert "/" not in entry.slug
    # The label of a template that nothing is mistaken for is the template.
    assert recipe.methods[-1].name == "untuned template=要約 {input}"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "methods.1={lora: null, data: {source: x.csv}}",
            ["methods.1.data.source:", "same rows", "two compar"],
        ),
        ("methods.1={lora: null, data: {limit: {train: 5}}}", ["methods.1.data.limit:", "two comparisons"]),
        (
            "methods.1={lora: null, data: {target_template: 'x {target}'}}",
            ["methods.1.data.target_template:"],
        ),
        (
            "methods.1={lora: null, evaluation: {metrics: [bleu]}}",
            ["methods.1.evaluation.metrics:", "num_beams"],
        ),
        (
            "methods.1={lora: null, evaluation: {select_by: bleu}}",
            ["methods.1.evaluation.select_by:", "metrics"],
        ),
        ("methods.1={lora: null, data: {templat: x}}", ["methods.1.data.templat:", "'template'"]),
        ("methods.1={lora: null, data: x.csv}", ["methods.1.data:", "'x.csv' must be a mapping"]),
        ("methods.1={lora: null, data: {max_input_tokens: null}}", ["methods.1.data.max_input_tokens: None"]),
        (
            "methods.1={lora: null, data: {max_input_tokens: '9'}}",
            ["methods.1.data.max_input_tokens: '9' must"],
        ),
        ("methods.1={lora: null, data: {template: ''}}", ["methods.1.data.template: ''"]),
        ("methods.1={lora: null, data: {template: x}}", ["methods.1.data.template: ('x') contains no"]),
        (
            "methods.1={lora: null, data: {template: '{target}'}}",
            ["methods.1.data.template: shows the target"],
        ),
        ("methods.1={lora: null, data: {template: chat}}", ["methods.1.data.template: 'chat' is for"]),
        ("methods.1={lora: null, evaluation: {num_beams: 0}}", ["methods.1.evaluation.num_beams: 0 must"]),
        ("grid={data.source: [a, b]}", ["grid.data.source:", "same rows", "two comparisons"]),
        ("grid={data: [a, b]}", ["grid.data:", "two comparisons"]),
        ("grid={data.limit.train: [5, 9]}", ["grid.data.limit.train:", "two comparisons"]),
        ("grid={evaluation.primary: [bleu, chrf]}", ["grid.evaluation.primary:", "two comparisons"]),
        ("grid={evaluation.num_beems: [1, 4]}", ["grid.evaluation.num_beems:", "'num_beams'"]),
        ("grid={evaluation.num_beams: [1, two]}", ["grid.evaluation.num_beams: 'two' must"]),
        ("grid={data.template: ['{input}', '{a']}", ["grid.data.template: is not a template"]),
        (
            "methods.1={lora: null, grid: {data.split: [1, 2]}}",
            ["methods.1.grid.data.split:", "two comparisons"],
        ),
        (
            "methods.1={lora: null, grid: {data.template: ['{target}']}}",
            ["methods.1.grid.data.template: shows the target"],
        ),
        (
            "methods.1={lora: null, data: {max_input_tokens: 9}, grid: {data.max_input_tokens: [8]}}",
            ["methods.1.grid.data.max_input_tokens: has a value beside the grid: 9"],
        ),
        ("search={trials: 2, space: {data.source: [a]}}", ["search.space.data.source:", "two comparisons"]),
        ("search={trials: 2, space: {data: [a]}}", ["search.space.data:", "two comparisons"]),
        (
            "search={trials: 2, space: {data.template: [x]}}",
            ["search.space.data.template: ('x') contains no"],
        ),
        (
            "search={trials: 2, space: {data.template: {from: 1, to: 2}}}",
            ["search.space", "1 must be a valid"],
        ),
        ("search={trials: 2, space: {evaluation.num_beams: {from: 0, to: 2}}}", ["num_beams: 0 must"]),
    ],
)
def test_what_must_be_the_same_and_what_is_wrong_is_named(override: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        made(override)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("task", "columns", "section", "field"),
    [
        ("text-classification", {}, "data: {max_target_tokens: 8}", "data.max_target_tokens"),
        ("text-classification", {}, "evaluation: {num_beams: 4}", "evaluation.num_beams"),
        ("image-classification", {}, "data: {max_input_tokens: 8}", "data.max_input_tokens"),
        ("image-classification", {}, "data: {template: 'x {input}'}", "data.template"),
        ("causal-lm", {"target": None}, "evaluation: {max_new_tokens: 8}", "evaluation.max_new_tokens"),
        ("causal-lm", {"target": None}, "data: {template: chat}", "data.columns.target"),
    ],
)
def test_what_a_task_does_not_use_tells_no_entries_apart(
    task: str, columns: dict[str, Any], section: str, field: str
) -> None:
    data = {"source": "hub:any", "columns": columns}
    sections: dict[str, Any] = {"task": task, "data": data}
    made(**sections)
    with pytest.raises(RecipeError, match=rf"(methods\.1\.)?{field}: "):
        made(f"methods.1={{lora: null, {section}}}", **sections)


def test_a_wrong_field_of_the_recipes_own_section_is_told_once() -> None:
    with pytest.raises(RecipeError) as caught:
        made("data.max_input_tokens=1", "methods.1={lora: null, data: {template: '{input}'}}")
    assert str(caught.value).count("max_input_tokens") == 1


def test_overrides_reach_an_entrys_own_sections() -> None:
    recipe = made("methods.1.data.max_input_tokens=9", "methods.1.evaluation.num_beams=2")
    lora = recipe.methods[1]
    assert (recipe.data_of(lora).max_input_tokens, recipe.evaluation_of(lora).num_beams) == (9, 2)


def test_an_entry_made_of_objects_reads_as_the_recipe_and_has_no_rows_of_its_own() -> None:
    content = {**BASE, "data": DataSpec(source="a.csv", split={}, max_input_tokens=9)}  # type: ignore[arg-type]
    recipe = Recipe.model_validate({**content, "methods": [MethodEntry(name="x", method="lora")]})
    assert recipe.data_of(recipe.methods[0]).max_input_tokens == 9
    with pytest.raises(ValueError, match="source"):
        MethodEntry(name="x", method="lora", data=DataSpec(source="other.csv"))


def test_the_schema_for_editors_knows_own_sections() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    entry = {"lora": {}, "data": {"template": GOOD}, "evaluation": {"num_beams": 4}}
    validator.validate({**BASE, "methods": [entry]})
    validator.validate(made(methods=[entry]).dump())
    for wrong in ({"data": {"source": "x"}}, {"evaluation": {"metrics": "auto"}}, {"data": "x"}):
        assert not validator.is_valid({**BASE, "methods": [{"lora": {}, **wrong}]}), wrong


def test_ways_to_read_a_base_that_is_not_trained_are_nothing_to_halve() -> None:
    grid = {"data.template": ["{input}", GOOD]}
    with pytest.raises(RecipeError, match="halving: has nothing to choose between"):
        made("halving={factor: 2}", methods=[{"untuned": {}, "grid": grid}, "lora"])
    made("halving={factor: 2}", methods=["untuned", {"lora": {}, "grid": grid}])
