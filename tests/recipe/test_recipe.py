from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deltatune.errors import RecipeError
from deltatune.recipe import (
    MethodEntry,
    Recipe,
    TrainSpec,
    apply_override,
    json_schema,
    load_recipe,
    parse_recipe,
)

BASE: dict[str, Any] = {
    "task": "text-to-text",
    "model": "bundled:t5-small",
    "data": {
        "source": "tables.jsonl",
        "split": {"validation": 0.1, "test": 0.2, "seed": 3},
        "columns": {"input": "table", "target": "title"},
        "template": "title: {table}",
    },
    "methods": [
        "untuned",
        {"lora": {"r": 4, "targets": ["query", "value"]}, "name": "lora r4", "train": {"lr": 1e-3}},
    ],
    "train": {"lr": 3e-4, "epochs": 2},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_recipe(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_recipe


def test_entries_inherit_the_train_section_and_override_it() -> None:
    recipe = parse_recipe(BASE)
    untuned, lora = recipe.methods
    assert (untuned.name, untuned.method, untuned.train) == ("untuned", "untuned", recipe.train)
    assert (lora.name, lora.slug, lora.train.lr, lora.train.epochs) == ("lora r4", "lora-r4", 1e-3, 2)
    assert lora.config["r"] == 4
    assert "dropout" in lora.config, "settings are completed with defaults"
    assert lora.build_config().r == 4  # type: ignore[attr-defined]
    assert recipe.entry("lora r4") is lora
    with pytest.raises(RecipeError, match="Did you mean 'lora r4'"):
        recipe.entry("lora r8")


def test_a_dumped_recipe_gives_the_same_recipe(tmp_path: Path) -> None:
    recipe = parse_recipe(BASE, ["methods.1.train.schedule=cosine", "model.attention=eager"])
    assert parse_recipe(recipe.dump()) == recipe
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(recipe.dump()))
    resolved = load_recipe(path)
    assert resolved.methods == recipe.methods
    assert load_recipe(path).dump() == resolved.dump()
    assert recipe.dump()["methods"][1]["train"] == {"lr": 1e-3, "schedule": "cosine"}


def test_a_recipe_can_be_made_of_objects() -> None:
    recipe = Recipe(
        task="causal-lm",
        model="bundled:smollm2-135m",  # type: ignore[arg-type]
        data={"train": "a.csv", "split": {}},  # type: ignore[arg-type]
        methods=[MethodEntry(name="mine", method="lora", train=TrainSpec(lr=0.5))],
        train=TrainSpec(epochs=9),
    )
    assert recipe.methods[0].train == TrainSpec(lr=0.5)
    assert parse_recipe(recipe.dump()) == recipe


def test_the_content_is_left_as_it_was() -> None:
    before = yaml.safe_dump(BASE)
    parse_recipe(BASE, ["data.limit.train=5", "methods.0.untuned={}"], root="/data")
    assert yaml.safe_dump(BASE) == before


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.lrr=1", ["train.lrr", "not a known key", "'lr'"]),
        ("trian={epochs: 2}", ["trian", "'train'"]),
        ("data.colums={input: a}", ["data.colums", "'columns'"]),
        ("data.columns.inptu=a", ["data.columns.inptu", "'input'"]),
        ("methods.1.lora.rr=1", ["methods.1.lora.rr", "'r'"]),
        ("methods.1.lora.methods=1", ["methods.1.lora.methods", "not a known key"]),
        ("grid={train.lr: {from: 1, to: 2, steps: 2, methods: 2}}", ["grid.train.lr.methods", "known key"]),
        ("methods.1.lora.r=many", ["methods.1.lora.r", "'many'", "integer"]),
        ("methods.1.train.lrr=1", ["methods.1.train.lrr", "'lr'"]),
        ("methods.0=lorra", ["methods.0", "'lorra'", "'lora'"]),
        ("methods.1.lorra={}", ["methods.1", "one method", "'lora', 'lorra'"]),
        ("methods.0={}", ["methods.0", "names none"]),
        ("methods.0=3", ["methods.0", "3 must be a mapping"]),
        ("methods=[]", ["methods", "at least one"]),
        ("methods=null", ["methods", "None"]),
        ("methods=[lora, lora]", ["methods.1", "name:"]),
        ("methods=[{lora: {}, name: A b}, {lora: {}, name: a-B}]", ["methods.1", "name:", "'a-b'"]),
        ("methods=[{lora: {}, name: '..'}]", ["methods.0.name", "folder"]),
        ("seeds=[]", ["seeds", "at least one"]),
        ("seeds=[1, 1]", ["seeds", "twice"]),
        ("seeds=[-1]", ["seeds.0", "-1"]),
        ("train.lr=fast", ["train.lr", "'fast'", "number"]),
        ("train.lr=.nan", ["train.lr", "nan", "finite"]),
        ("train.lr=0", ["train.lr", "greater than 0"]),
        ("train.epochs=1.5", ["train.epochs", "1.5", "integer"]),
        ("train.epochs=true", ["train.epochs", "True", "integer"]),
        ("train.epochs='3'", ["train.epochs", "'3'", "integer"]),
        ("train.warmup=1", ["train.warmup", "less than 1"]),
        ("train.precision=fp16", ["train.precision", "NaN", "bf16"]),
        ("train.precision=fp31", ["train.precision", "'fp31'", "'fp32'"]),
        ("train.micro_batch_size=99", ["train", "99", "batch_size (16)"]),
        ("train.evaluate_every=0", ["train.evaluate_every", "'epoch'", "or be greater"]),
        ("train.trackers=[tensorbord]", ["train.trackers.0", "'tensorboard'"]),
        ("train=3", ["train", "3 must be a mapping"]),
        ("train.class_weights={a: -3}", ["train.class_weights.a", "-3", "greater than 0"]),
        ("data={source: a.csv, split: {test: 0.1}, separator: ''}", ["data.separator", "'' must have at"]),
        ("model={revision: x}", ["model.name", "missing"]),
        ("task=text2text", ["task", "'text2text'", "Did you mean 'text-to-text'"]),
        ("data.train=a.csv", ["data.source", "data.train", "one source"]),
        ("data.source=null", ["data", "no training rows"]),
        ("data.split=null", ["data.split", "missing", "0.1"]),
        ("data={train: a.csv, validation: b.csv}", ["data.test", "missing", "data.split"]),
        ("data={train: a.csv, test: b.csv, split: {test: 0.1}}", ["data.split.test", "data.test"]),
        ("data.split.test=1.0", ["data.split.test", "less than 1"]),
        ("data.split={validation: 0.5, test: 0.5}", ["data.split", "no training rows"]),
        ("data.template='{title}'", ["data.template", "target", "{title}"]),
        ("data.template='{target}'", ["data.template", "target"]),
        ("data.template='{x'", ["data.template", "braces"]),
        ("data.template='{x'", ["data.template", "plain {column}"]),
        ("data.template='{} {input}'", ["data.template", "plain {column}"]),
        ("data.delimiter=';;'", ["data.delimiter"]),
        ("data.encoding=klingon", ["data.encoding", "no encoding"]),
        ("data.encoding=hex", ["data.encoding", "no encoding"]),
        ("data.template=hello", ["data.template", "every row"]),
        ("data.template=chat", ["data.template", "causal-lm"]),
        ("data.columns.target=null", ["data.columns.target", "causal-lm"]),
        ("data.columns.target=table", ["data.columns", "same column"]),
        ("data.max_target_tokens=1", ["data.max_target_tokens", "1"]),
        ("task=image-classification", ["data.source", "no images", "data.template", "2 problems"]),
        ("data={source: a.npz}", ["data.source", "images"]),
        ("evaluation.metrics=[rouje]", ["evaluation.metrics.0", "'rouje'"]),
        ("evaluation.primary=rouge", ["evaluation.primary", "rougeL_f"]),
    ],
)
def test_what_is_wrong_is_named_with_field_value_and_remedy(override: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(BASE, [override])
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert "pydantic" not in message
    assert message.count("\n") == (2 if "2 problems" in message else 0), message


def test_all_problems_are_told_at_once_and_each_only_once() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(BASE, ["train.epochs=0", "train.lrr=1", "seeds=[x]", "methods.1.lora.r=x", "data.a=1"])
    message = str(caught.value)
    fields = {line.split(":")[0].strip() for line in message.splitlines()[1:]}
    assert fields == {"train.epochs", "train.lrr", "seeds.0", "methods.1.lora.r", "data.a"}
    assert "5 problems" in message


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (["task=text-classification", "evaluation.primary=bleu"], "evaluation.primary"),
        (["task=text-classification", "data.target_template='{target}.'"], "data.target_template"),
        (["data.split.validation=0", "train.early_stopping=2"], "train.early_stopping"),
        (["data.split.validation=0", "methods.1.train.early_stopping=2"], "methods.1.train.early_stopping"),
        (["task=causal-lm", "data.template=chat", "data.columns.target=null"], "data.columns.target"),
    ],
)
def test_combinations_that_cannot_work_are_refused(changes: list[str], field: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(BASE, changes)
    assert caught.value.field == field


def test_what_looks_odd_but_is_meant_is_allowed() -> None:
    parse_recipe(BASE, ["data.split={validation: 0, test: 0}"])
    parse_recipe(BASE, ["task=causal-lm", "data.columns.target=null", "data.template='{input}'"])
    parse_recipe(BASE, ["data={train: a.csv, test: b.csv, split: {validation: 0.1}}"])
    parse_recipe(BASE, ["data=bundled:table-titles"])
    parse_recipe(BASE, ["data.template='{{json}} {table}'"])
    parse_recipe(BASE, ["task=image-classification", "data={source: a.npz}", "evaluation.primary=macro_f1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- a", "is a list"),
        ("task: a\ntask: b", "'task' stands twice, in line 1 and in line 2"),
        ("train: {lr: 1, lr: 2}", "'lr' stands twice"),
        ("task: [", "not valid YAML in line"),
        ("task: !!python/object:os.system a", "not valid YAML in line 1"),
        ("? [a]\n: b", "plain text"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(write: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(text))


def test_yaml_that_is_nested_too_deeply_is_refused(write: Callable[[str], Path]) -> None:
    with pytest.raises(RecipeError, match=r"recipe.*nested too deeply"):
        load_recipe(write("task: " + "[" * 3000))
    with pytest.raises(RecipeError, match=r"--set task: is nested too deeply"):
        parse_recipe({"task": 1}, ["task=" + "{a: " * 3000])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.yaml"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match="directory"):
        load_recipe(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(tmp_path / "binary.yaml")


def test_yaml_means_what_it_looks_like(write: Callable[[str], Path]) -> None:
    recipe = load_recipe(
        write(
            """
            task: text-to-text
            model: {name: m, trust_remote_code: false}
            data: {source: a.csv, split: {seed: 010}, columns: {input: no, target: on}}
            methods: [{lora: {r: 8}, train: {lr: 1e-3}}]
            train: {lr: 3E-4, weight_decay: 1., max_grad_norm: .5}
            """.replace("010", "10")
        )
    )
    assert recipe.methods[0].train.lr == 1e-3
    assert (recipe.train.lr, recipe.train.weight_decay, recipe.train.max_grad_norm) == (3e-4, 1.0, 0.5)
    assert (recipe.data.columns.input, recipe.data.columns.target) == ("no", "on")


@given(st.floats(min_value=1e-12, max_value=1e6))
def test_any_way_of_writing_a_float_is_read_exactly(value: float) -> None:
    for text in (repr(value), f"{value:.17e}", f"{value:.17E}"):
        assert parse_recipe(BASE, [f"train.lr={text}"]).train.lr == float(text)


def test_yaml_merges_may_be_overridden(write: Callable[[str], Path]) -> None:
    methods = "[{lora: &base {r: 4, alpha: 8}}, {lora: {<<: *base, r: 16}, name: b}]"
    recipe = load_recipe(
        write(f"task: causal-lm\nmodel: m\ndata: {{train: a.csv, split: {{}}}}\nmethods: {methods}")
    )
    assert [(entry.config["r"], entry.config["alpha"]) for entry in recipe.methods] == [(4, 8), (16, 8)]


def test_relative_paths_are_meant_from_the_recipes_folder(write: Callable[[str], Path]) -> None:
    path = write(
        "task: text-to-text\nmodel: ./base\ndata: {train: a.csv, test: /x/b.csv, split: {}}\nmethods: [lora]"
    )
    recipe = load_recipe(path, ["data.validation=~/c.csv"])
    folder = path.parent.resolve()
    assert recipe.data.train == str(folder / "a.csv")
    assert recipe.data.test == "/x/b.csv"
    assert recipe.data.validation == str(folder / "~/c.csv"), "a tilde is a name like any other"
    assert recipe.model.name == str(folder / "base")
    for source in ("hub:owner/name", "bundled:table-titles"):
        assert load_recipe(path, [f"data={source}"]).data.source == source
    hub = load_recipe(path, ["data={source: owner/name, format: hub}", "model=google-t5/t5-small"])
    assert (hub.data.source, hub.model.name) == ("owner/name", "google-t5/t5-small")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.lr=3e-4", ("train", "lr"), 3e-4),
        ("methods.0.untuned.x=1", ("methods", 0, "untuned", "x"), 1),
        ("methods.1.lora.r=16", ("methods", 1, "lora", "r"), 16),
        ("methods.1.name=a=b", ("methods", 1, "name"), "a=b"),
        ("data.limit.train=100", ("data", "limit", "train"), 100),
        ("model.revision=v2", ("model", "revision"), "v2"),
        ("evaluation.metrics=[bleu, chrf]", ("evaluation", "metrics"), ["bleu", "chrf"]),
        ("data.split=", ("data", "split"), None),
    ],
)
def test_overrides_reach_any_depth(override: str, path: tuple[str | int, ...], value: Any) -> None:
    node: Any = apply_override(BASE, override)
    for step in path:
        node = node[step]
    assert node == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "form field=value"),
        ("train..lr=1", "form field=value"),
        ("=1", "form field=value"),
        ("methods.2.name=a", "'2' is not an item of the list, which has 2"),
        ("methods.-1.name=a", "not an item"),
        ("methods.lora.r=1", "'lora' is not an item"),
        ("task.name=a", "plain value 'text-to-text'"),
        ("train.lr=[1", "not valid YAML"),
        ("train={a: 1, a: 2}", "twice"),
    ],
)
def test_overrides_that_lead_nowhere_are_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("[", r"\[")):
        apply_override(BASE, override)


KEYS = st.text("abcdef", min_size=1, max_size=3)
TREES = st.recursive(
    st.integers(), lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3), max_leaves=9
)


@given(
    tree=st.dictionaries(KEYS, TREES, max_size=4),
    steps=st.lists(KEYS, min_size=1, max_size=4),
    value=st.integers(),
)
def test_an_override_sets_its_field_and_no_other(tree: dict[str, Any], steps: list[str], value: int) -> None:
    def leaves(node: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
        if not isinstance(node, dict):
            return {above: node}
        return {
            key: leaf for name, inner in node.items() for key, leaf in leaves(inner, (*above, name)).items()
        }

    path, before = tuple(steps), leaves(tree)
    override = f"{'.'.join(steps)}={value}"
    if any(path[:length] in before for length in range(1, len(path))):
        with pytest.raises(RecipeError, match="plain value"):
            apply_override(tree, override)
        return
    after = leaves(apply_override(tree, override))
    kept = {key: leaf for key, leaf in before.items() if key[: len(path)] != path}
    assert after == kept | {path: value}
    assert leaves(tree) == before


def test_the_json_schema_describes_short_forms_and_every_methods_settings() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(BASE)
    validator.validate(parse_recipe(BASE).dump())
    validator.validate(BASE | {"data": "bundled:table-titles"})
    for wrong in (
        {"methods": ["lorra"]},
        {"methods": [{"lora": {"rr": 1}}]},
        {"methods": [{"lora": {}, "untuned": {}}]},
        {"train": {"lrr": 1}},
        {"model": 3},
    ):
        assert not validator.is_valid(BASE | wrong), wrong


def test_every_field_of_the_schema_has_a_description() -> None:
    schema = json_schema()
    parts = {"Recipe": schema} | {
        name: part for name, part in schema["$defs"].items() if "properties" in part and "." not in name
    }
    without = [
        f"{name}.{field}"
        for name, part in parts.items()
        for field, entry in part["properties"].items()
        if "description" not in entry
    ]
    assert without == []
    assert {"TrainSpec", "EvaluationSpec", "SplitSpec"} <= set(parts)


def test_importing_recipes_and_data_costs_no_torch() -> None:
    code = "import sys, deltatune.recipe, deltatune.data; print({'torch', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"


@pytest.mark.parametrize(
    "field", ["methods.0.lora.r", "methods.0.lora.rank_pattern.q", "seeds.0", "train.epochs"]
)
def test_numbers_that_no_machine_counts_to_are_refused(field: str) -> None:
    content = {"task": "text-to-text", "model": "x", "data": "bundled:table-titles", "methods": ["lora"]}
    with pytest.raises(RecipeError, match="more than 63 bits"):
        parse_recipe({**content, "seeds": [0]}, [f"{field}=99999999999999999999"])
