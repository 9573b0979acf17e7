"""Grids: which entries they stand for, their labels, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deltatune.errors import RecipeError
from deltatune.recipe import json_schema, parse_recipe
from deltatune.recipe.ranges import Range

BASE: dict[str, Any] = {
    "task": "text-to-text",
    "model": "bundled:t5-small",
    "data": {"source": "tables.jsonl", "split": {}},
    "methods": [
        "untuned",
        {"lora": {"alpha": 16}, "grid": {"r": [4, 8], "targets": [["query"], ["query", "value"]]}},
        {"prompt": None, "name": "soft prompt"},
    ],
}


def labels(*overrides: str) -> list[str]:
    return [entry.name for entry in parse_recipe(BASE, overrides).methods]


def test_an_entry_becomes_every_combination_and_the_others_stay() -> None:
    recipe = parse_recipe(BASE)
    assert [entry.name for entry in recipe.methods] == [
        "untuned",
        "lora r=4 targets=query",
        "lora r=4 targets=query+value",
        "lora r=8 targets=query",
        "lora r=8 targets=query+value",
        "soft prompt",
    ]
    last = recipe.methods[4]
    assert (last.config["r"], last.config["alpha"], last.config["targets"]) == (8, 16, ["query", "value"])
    assert [entry.group for entry in recipe.methods] == [None, *["lora"] * 4, None]


def test_the_recipes_grid_is_for_every_entry_that_trains() -> None:
    found = labels("grid={train.lr: {from: 1e-4, to: 1e-2, steps: 3, scale: log}}", "methods.1=lora")
    assert found == [
        "untuned",
        *(f"{name} lr={lr}" for name in ("lora", "soft prompt") for lr in ("0.0001", "0.001", "0.01")),
    ]


def test_an_entrys_axis_goes_before_the_recipes() -> None:
    recipe = parse_recipe(BASE, ["grid={train.lr: [0.5]}", "methods.1.grid={train.lr: [0.1, 0.2]}"])
    assert [entry.train.lr for entry in recipe.methods] == ["auto", 0.1, 0.2, 0.5]


def test_whether_the_base_is_quantized_is_an_axis_of_an_entrys_grid() -> None:
    grid = "methods.1.grid={r: [4, 8], quantization: [null, nf4, {format: nf4, double: false}]}"
    for recipe in (parse_recipe(BASE, [grid]), parse_recipe(BASE, [grid, "quantization=int8"])):
        found = [entry for entry in recipe.methods if entry.group == "lora"]
        ends = ("none", "nf4", "format:nf4+double:false")
        assert [e.name for e in found] == [f"lora r={r} quantization={end}" for r in (4, 8) for end in ends]
        bits = [
            entry.quantization and (entry.quantization.format, entry.quantization.double) for entry in found
        ]
        assert bits == [None, ("nf4", True), ("nf4", False)] * 2
        assert [entry.config["r"] for entry in found] == [4, 4, 4, 8, 8, 8]
        assert recipe.methods[-1].quantization == recipe.quantization
        assert parse_recipe(recipe.dump()) == recipe


def test_an_expanded_recipe_is_the_same_when_written_and_read() -> None:
    recipe = parse_recipe(BASE, ["grid={train.lr: [0.5, 0.25]}", "sample=3"])
    assert parse_recipe(recipe.dump()) == recipe


def test_a_sample_is_a_part_of_each_grid_in_its_order_and_depends_on_its_seed_alone() -> None:
    whole = labels("grid={train.epochs: {from: 1, to: 30, steps: 30}}")
    part = labels("grid={train.epochs: {from: 1, to: 30, steps: 30}}", "sample=5")
    assert [name for name in whole if name in part] == part
    assert [sum(name.startswith(kind) for name in part) for kind in ("lora", "soft")] == [5, 5]
    assert part == labels("grid={train.epochs: {from: 1, to: 30, steps: 30}}", "sample={size: 5}")
    assert part != labels("grid={train.epochs: {from: 1, to: 30, steps: 30}}", "sample={size: 5, seed: 1}")


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ({"from": 4, "to": 64, "steps": 5, "scale": "log"}, [4, 8, 16, 32, 64]),
        ({"from": 0.0, "to": 0.2, "steps": 3}, [0.0, 0.1, 0.2]),
        ({"from": 1e-4, "to": 1e-2, "steps": 5, "scale": "log"}, [1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2]),
        ({"from": 1, "to": 3, "steps": 9}, [1, 2, 3]),
    ],
)
def test_ranges(spec: dict[str, Any], values: list[float]) -> None:
    found = Range.model_validate(spec).values()
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@given(st.floats(1e-6, 1), st.floats(1.01, 1e4), st.integers(2, 20), st.sampled_from(["linear", "log"]))
def test_ranges_rise_from_end_to_end(start: float, ratio: float, steps: int, scale: str) -> None:
    values = Range(**{"from": start, "to": start * ratio, "steps": steps, "scale": scale}).values()
    assert values == sorted(set(values))
    assert values[0] == pytest.approx(start, rel=1e-2)
    assert values[-1] == pytest.approx(start * ratio, rel=1e-2)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("methods.1.grid.rr=[1]", ["methods.1.grid.rr", "lora", "'r'"]),
        ("methods.1.grid.r=[0, 4]", ["methods.1.grid.r:", "0 must be greater"]),
        ("methods.1.grid.r=8", ["methods.1.grid.r", "8 must be a list", "range"]),
        ("methods.1.grid.r=[]", ["methods.1.grid.r", "must be a list"]),
        ("methods.1.grid.r=[4, 4]", ["methods.1.grid.r", "4 twice"]),
        ("methods.1.grid=[4]", ["methods.1.grid", "mapping"]),
        ("methods.1.grid.r={from: 8, to: 4, steps: 2}", ["methods.1.grid.r", "empty"]),
        ("methods.1.grid.r={from: 0, to: 4, steps: 2, scale: log}", ["methods.1.grid.r", "above 0"]),
        ("methods.1.grid.r={from: 1, to: 4, step: 2}", ["methods.1.grid.r.step", "'steps'", "from, to"]),
        ("methods.1.lora.r=3", ["methods.1.grid.r", "beside the grid: 3"]),
        ("grid={r: [4]}", ["grid.r", "setting of a method", "entry under methods"]),
        ("methods.1.grid={quantization: [nf5]}", ["methods.1.grid.quantization:", "nf4"]),
        ("methods.1.grid={quantization: [null, null]}", ["methods.1.grid.quantization", "none twice"]),
        (
            "methods.1={full: null, grid: {quantization: [null, nf4]}}",
            ["methods.1.full:", "every weight"],
        ),
        (
            "methods.1={lora: null, quantization: int8, grid: {quantization: [null, nf4]}}",
            ["methods.1.grid.quantization", "beside the grid: 'int8'"],
        ),
        ("grid={quantization: [nf4]}", ["grid.quantization", "setting of an entry", "entry under methods"]),
        ("grid={train.lrr: [4]}", ["grid.train.lrr", "'lr'"]),
        ("grid={train.lr: [0.1, fast]}", ["grid.train.lr", "'fast'", "number"]),
        ("grid={train.epochs: {from: 1, to: 300, steps: 300}}", ["1,200 configurations", "sample"]),
        ("sample=0", ["sample.size", "greater than or equal to 1"]),
        ("sample=many", ["sample.size", "'many'", "integer"]),
        ("gird={}", ["gird", "'grid'"]),
        ("methods.2.train.lrr=1", ["methods.2.train.lrr", "'lr'"]),  # not the number after expansion
        ("methods.2={lora: {r: 4, targets: [query]}, name: lora r=4 targets=query}", ["methods.2", "name:"]),
    ],
)
def test_mistakes_are_named_where_they_were_written(override: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(BASE, [override])
    for part in parts:
        assert part in str(caught.value)


def test_a_sample_of_no_grid_is_refused() -> None:
    for override in ("methods=[untuned, lora]", "methods=[untuned]"):
        with pytest.raises(RecipeError, match="sample: has no grid"):
            parse_recipe(BASE, [override, "sample=2"])
    assert len(labels("methods=[lora]", "grid={train.lr: [0.1, 0.2, 0.3]}", "sample=2")) == 2


def test_the_recipe_that_compares_fairly_is_one() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "compare-fairly.md"
    section = page.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    recipe = parse_recipe({**BASE, **yaml.safe_load(section)})
    assert len(recipe.methods) == 8
    assert recipe.tune
    assert recipe.halving


def test_the_schema_for_editors_knows_grids() -> None:
    schema = json_schema()
    assert "from" in schema["$defs"]["Range"]["properties"]
    assert {"grid", "sample"} <= schema["properties"].keys()
    lora = next(
        form for form in schema["$defs"]["MethodEntry"]["anyOf"] if "lora" in form.get("properties", {})
    )
    assert "quantization" in lora["properties"]["grid"]["description"]


MODELS = "model=[bundled:t5-small, facebook/bart-base]"


def test_a_list_of_models_makes_an_entry_for_each() -> None:
    recipe = parse_recipe(BASE, [MODELS, "methods.2.model=x/own"])
    kinds = ["untuned", "lora r=4 targets=query"]
    named = {entry.name: entry.model and entry.model.name for entry in recipe.methods}
    for kind in kinds:
        label, _, point = kind.partition(" ")
        for short, name in (("t5-small", "bundled:t5-small"), ("bart-base", "facebook/bart-base")):
            assert named[" ".join(filter(None, [label, short, point]))] == name
    assert named["soft prompt"] == "x/own"
    assert len(named) == 2 + 2 * 4 + 1
    groups = {entry.group for entry in recipe.methods}
    assert groups == {None, "lora t5-small", "lora bart-base"}  # models do not compete with each other
    assert [spec.name for spec in recipe.models] == ["bundled:t5-small", "facebook/bart-base", "x/own"]
    assert parse_recipe(recipe.dump()) == recipe
    assert [recipe.model_of(e).name for e in recipe.by_model()] == sorted(
        (recipe.model_of(e).name for e in recipe.methods), key=[s.name for s in recipe.models].index
    )


@pytest.mark.parametrize(
    ("models", "ends"),
    [
        (["a/x", "b/y"], ["x", "y"]),
        (["a/x", "b/x"], ["a/x", "b/x"]),
        (["./runs/x/", "bundled:y"], ["x", "y"]),
        ([{"name": "a/x", "revision": r} for r in ("v1", "v2")], ["x revision=v1", "x revision=v2"]),
        (["a/x", {"name": "a/x", "revision": "v2"}], ["x", "x revision=v2"]),
    ],
)
def test_models_are_named_as_short_as_they_can_be(models: list[Any], ends: list[str]) -> None:
    recipe = parse_recipe({**BASE, "methods": ["lora"], "model": models})
    assert [entry.name for entry in recipe.methods] == [f"lora {end}" for end in ends]


def test_one_of_several_models_can_be_overridden(tmp_path: Path) -> None:
    recipe = parse_recipe(BASE, [MODELS, "model.1.revision=v2", "methods.2.model=./own"], root=tmp_path)
    assert [spec.revision for spec in recipe.models] == [None, "v2", None]
    assert recipe.models[2].name == str(tmp_path / "own")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["model=[]"], ["model: is an empty list"]),
        (["model=[a, a]"], ["model.1: has the model a twice"]),
        (["model=[a, {name: b, revsion: x}]"], ["model.1.revsion", "'revision'"]),
        (["model=[a, {name: b, image_size: 32}]"], ["model.1.image_size: is for image"]),
        (
            ["methods.0=lora", "methods.0.model=[a, {name: b, image_size: 32}]"],
            ["methods.0.model.1.image_size"],
        ),
        (["grid={model: [a]}"], ["grid.model", "model: [FIRST, SECOND]"]),
        (["methods.1.grid={model: [a, b]}"], ["methods.1.grid.model", "model: [FIRST, SECOND]"]),
    ],
)
def test_mistakes_in_lists_of_models_are_named_where_they_are(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(BASE, overrides)
    for part in parts:
        assert part in str(caught.value)
