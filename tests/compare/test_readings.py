"""Entries that read the rows and decode in ways of their own, in one comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.comparison import together
from deltatune.comparison.require_comparable import require_comparable
from deltatune.comparison.runner import compare
from deltatune.comparison.search import apply_settings
from deltatune.errors import DataError, RecipeError
from deltatune.observer import Silent
from deltatune.recipe import Recipe, load_recipe
from deltatune.report import render
from deltatune.runs import evaluate_run
from deltatune.runs.use import predict
from deltatune.training import Context, plan, run
from deltatune.training.before.forecast import forecast
from deltatune.training.before.preview import preview
from deltatune.training.given import readings
from deltatune.training.race.lanes import Starter

Make = Callable[..., Recipe]
SAY = "Say what this is of: {input}"
METHODS: list[Any] = [
    "untuned",
    {"untuned": {}, "name": "asked", "data": {"template": SAY}},
    {"lora": {"r": 2}, "data": {"template": SAY, "max_input_tokens": 12}},
    {"lora": {"r": 2}, "name": "brief", "evaluation": {"num_beams": 2, "max_new_tokens": 3}},
]


class Warnings(Silent):
    """Remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def run_of(out: Path, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(result, predictions) of an entry's run."""
    folder = out / "runs" / f"{name}-s0"
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads((folder / "result.json").read_text(encoding="utf-8")), [json.loads(x) for x in lines]


def test_each_entry_is_trained_and_judged_in_its_own_way(make_recipe: Make, tmp_path: Path) -> None:
    recipe, out = make_recipe(methods=METHODS), tmp_path / "out"
    board = compare(recipe, out)
    assert all(row.status == "done" and row.rank for row in board.rows)
    runs = {name: run_of(out, name) for name in ("untuned", "asked", "lora", "brief")}

    # The same rows in the same order, with the same references; the words around them are the entry's own.
    for _, lines in runs.values():
        kept = [(line["id"], line["reference"]) for line in lines]
        assert kept == [(line["id"], line["reference"]) for line in runs["untuned"][1]]
    for name in ("asked", "lora"):
        inputs = zip(runs["untuned"][1], runs[name][1], strict=True)
        assert all(own["input"] == SAY.format(input=plain["input"]) for plain, own in inputs)

    # Cut at the entry's own limit, and said so with the entry's own words.
    cut = {name: result["data"]["truncated_inputs"] for name, (result, _) in runs.items()}
    assert cut == {"untuned": 0, "asked": 0, "brief": 0, "lora": runs["lora"][0]["data"]["train"]}
    said = [text for text in board.warnings if "cut off" in text]
    assert len(said) == 3
    assert all("data.max_input_tokens (template=Say what this is of" in text for text in said)
    assert all("max_input_tokens=12)" in text for text in said)

    # Three new tokens at most, by two beams.
    lengths = {name: result["metrics"]["test"]["mean_length"] for name, (result, _) in runs.items()}
    assert lengths["brief"] <= 3 < lengths["untuned"]
    assert runs["brief"][0]["metrics"]["validation"] != {}

    # A run's recipe is one of its own, by which it is loaded, evaluated and used.
    own = load_recipe(out / "runs/lora-s0/recipe.yaml")
    assert (own.data.template, own.data.max_input_tokens) == (SAY, 12)
    assert (own.methods[0].data, own.methods[0].evaluation) == (None, None)
    decoding = load_recipe(out / "runs/brief-s0/recipe.yaml").evaluation
    assert (decoding.num_beams, decoding.max_new_tokens) == (2, 3)
    for name in ("lora", "brief"):
        watched = Warnings()
        again = evaluate_run(out / f"runs/{name}-s0", observer=watched)
        assert again == pytest.approx(runs[name][0]["metrics"]["test"], rel=1e-5, abs=1e-5)
        assert watched.warnings == []  # of data that have changed
    raw = [line["input"] for line in runs["untuned"][1]]
    assert [one.prediction for one in predict(out / "runs/lora-s0", raw)] == [
        line["prediction"] for line in runs["lora"][1]
    ]
    assert [one.input for one in predict(out / "runs/asked-s0", raw)] == [SAY.format(input=x) for x in raw]

    # Every form of the report is made, and tells them apart.
    page = render(out, "html")
    assert "data.template &#34;Say what this is of: {input}&#34;" in page
    assert "evaluation.num_beams 2" in page
    assert "others have a template of their own" in page
    again = json.loads(render(out, "json"))
    hashes = {result["data"]["fingerprint"] for result, _ in runs.values()}
    assert len(hashes) == 2
    assert set(again["reproduce"]["data"].split(", ")) == hashes

    # Called once more it returns to what is finished; by the recipe that it wrote down it is the same one.
    assert compare(load_recipe(out / "recipe.yaml"), out).rows == board.rows


def test_a_run_with_an_own_way_is_the_run_of_a_recipe_in_that_way(make_recipe: Make, tmp_path: Path) -> None:
    entry = {"lora": {"r": 2}, "data": {"template": SAY}, "evaluation": {"max_new_tokens": 4}}
    compare(make_recipe(methods=["untuned", entry]), tmp_path / "own")
    alone = make_recipe(f"data.template={SAY!r}", "evaluation.max_new_tokens=4", methods=[{"lora": {"r": 2}}])
    compare(alone, tmp_path / "alone")
    (own, lines), (other, others) = run_of(tmp_path / "own", "lora"), run_of(tmp_path / "alone", "lora")
    assert own["metrics"] == other["metrics"]
    assert lines == others


def test_a_grid_of_ways_is_for_the_untuned_base_too(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(
        "grid={data.max_input_tokens: [8, 64], train.lr: [0.01]}", methods=["untuned", {"lora": {"r": 2}}]
    )
    board = compare(recipe, tmp_path / "out")
    cut = {
        row.name: run_of(tmp_path / "out", Path(row.runs[0]).name.removesuffix("-s0"))[0]["data"]
        for row in board.rows
    }
    shown = {name: data["truncated_inputs"] > 0 for name, data in cut.items()}
    assert shown == {
        "untuned max_input_tokens=8": True,
        "untuned max_input_tokens=64": False,
        "lora max_input_tokens=8 lr=0.01": True,
        "lora max_input_tokens=64 lr=0.01": False,
    }


def test_runs_that_read_differently_are_not_trained_at_once(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(
        "together=4",
        methods=[
            "lora",
            {"ia3": {}, "data": {"template": SAY}},
            {"bitfit": {}, "evaluation": {"num_beams": 2}},
            {"prefix": {}, "data": {"template": SAY}},
        ],
    )
    context = Context.open(recipe, Silent())
    starters = [Starter(entry, 0, tmp_path / entry.name) for entry in recipe.methods]
    groups = [[starter.out.name for starter in group] for group in together._groups(context, starters)]
    assert groups == [["lora", "bitfit"], ["ia3", "prefix"]]
    board = compare(recipe, tmp_path / "out")
    assert {row.status for row in board.rows} == {"done"}
    assert all(line["input"].startswith("Say") for line in run_of(tmp_path / "out", "prefix")[1])


def test_a_template_without_its_column_is_refused_before_anything_is_trained(
    make_recipe: Make, tmp_path: Path
) -> None:
    methods = ["lora", {"lora": {}, "name": "other", "data": {"template": "{input} {txet}"}}]
    with pytest.raises(DataError, match=r"no column 'txet'.*'text'.*\{input\} \{txet\}"):
        compare(make_recipe(methods=methods), tmp_path / "out")
    assert not list(tmp_path.glob("out/runs/*"))


SHORT = {"lora": {}, "name": "short", "data": {"max_target_tokens": 2}}


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_losses_of_other_tokens_are_not_ranked(make_recipe: Make, tmp_path: Path, metric: str) -> None:
    recipe = make_recipe(f"evaluation.primary={metric}", methods=["lora", SHORT])
    with pytest.raises(RecipeError, match=r"evaluation\.primary.*max_target_tokens=16.*rougeL_f"):
        compare(recipe, tmp_path / "out")
    assert not list(tmp_path.glob("out/runs/*"))


def test_losses_of_the_same_tokens_are_ranked_whatever_is_read(make_recipe: Make, tmp_path: Path) -> None:
    methods = ["untuned", {"untuned": {}, "name": "asked", "data": {"template": SAY}}]
    methods.append(
        {"untuned": {}, "name": "longer", "data": {"max_target_tokens": 32}}
    )  # cuts nothing either
    board = compare(make_recipe("evaluation.primary=loss", methods=methods), tmp_path / "out")
    assert all(row.rank for row in board.rows)


@pytest.mark.parametrize(
    ("methods", "section"),
    [
        ([{"lora": {}, "grid": {"data.max_target_tokens": [2, 16]}}], "halving={factor: 2}"),
        (["lora", SHORT], "halving={among: all}"),
        (["lora"], "search={trials: 2, space: {data.max_target_tokens: [2, 16]}}"),
        (["lora"], "search={trials: 2, space: {data.max_target_tokens: {from: 2, to: 16}}}"),
    ],
)
def test_losses_of_other_tokens_choose_nothing(
    make_recipe: Make, tmp_path: Path, methods: list[Any], section: str
) -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.select_by.*mean over tokens.*rougeL_f"):
        compare(make_recipe(section, methods=methods), tmp_path / "out")
    assert not list(tmp_path.glob("out/runs/*"))


def test_plain_texts_are_counted_as_they_are_read(make_recipe: Make, llama_folder: Path) -> None:
    """Without a target column the loss is of the input itself."""

    def check(**data: Any) -> None:
        recipe = make_recipe(
            "data.columns={input: text, target: null}",
            task="causal-lm",
            model=str(llama_folder),
            methods=["untuned", {"lora": {}, "data": data}],
        )
        require_comparable(Context.open(recipe, Silent()))

    check(max_input_tokens=400)
    for data in ({"max_input_tokens": 8}, {"template": SAY}):
        with pytest.raises(RecipeError, match=r"evaluation\.primary.*own recipe"):
            check(**data)


def test_a_chat_is_compared_with_plain_prompts_by_loss(
    make_recipe: Make, llama_folder: Path, tmp_path: Path
) -> None:
    """The prompts differ, however short they are cut; the targets, which are what counts, do not."""
    templates = ["{input}", "chat", "{input}\nTitle:"]
    recipe = make_recipe(
        "evaluation.primary=loss",
        task="causal-lm",
        model=str(llama_folder),
        methods=[
            {"untuned": {}, "grid": {"data.template": templates, "data.max_input_tokens": [16, 64]}},
            {"lora": {"r": 2}, "data": {"template": "chat"}},
        ],
    )
    board = compare(recipe, tmp_path / "out")
    assert {(row.status, row.rank is None) for row in board.rows} == {("done", False)}
    tokens = {
        tuple(line["tokens"] for line in run_of(tmp_path / "out", Path(row.runs[0]).name[:-3])[1])
        for row in board.rows
    }
    assert len(tokens) == 1
    assert len({row.metrics["loss"] for row in board.rows}) == len(board.rows)


def test_halving_among_templates_is_by_the_same_tokens(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(
        "halving={factor: 2}",
        "train.evaluate_every=2",
        methods=[{"lora": {"r": 2}, "grid": {"data.template": ["{input}", SAY]}}],
    )
    board = compare(recipe, tmp_path / "out")
    assert (len(board.rows), len(board.halving.stopped)) == (1, 1)


def test_a_search_may_vary_what_is_read_and_how_it_is_decoded(make_recipe: Make, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = {
        "data.template": [SAY],
        "data.max_input_tokens": {"from": 8, "to": 9},
        "evaluation.num_beams": [2],
    }
    recipe = make_recipe(
        "train.max_steps=2",
        methods=["untuned", {"lora": {"r": 2}, "space": space}],
        search={"trials": 2, "seed": 1},
    )
    board = compare(recipe, tmp_path / "out")
    row = next(row for row in board.rows if row.method == "lora")
    assert row.status == "done"
    chosen = row.tuning.chosen
    assert chosen["data.template"] == SAY
    own = load_recipe(tmp_path / "out" / row.runs[0] / "recipe.yaml")
    assert (own.data.template, own.evaluation.num_beams) == (SAY, 2)
    assert own.data.max_input_tokens == chosen["data.max_input_tokens"]
    assert compare(recipe, tmp_path / "out").rows == board.rows


def test_settings_of_a_search_leave_the_rest_of_an_entry_as_it_is(make_recipe: Make) -> None:
    recipe = make_recipe(
        "data.max_input_tokens=99", methods=[{"lora": {"r": 2}, "data": {"max_target_tokens": 5}}]
    )
    point = {"data.template": SAY, "evaluation.num_beams": 3, "train.lr": 0.5, "r": 4}
    found = apply_settings(recipe, recipe.methods[0], point)
    data, decoding = recipe.data_of(found), recipe.evaluation_of(found)
    assert (data.template, data.max_input_tokens, data.max_target_tokens) == (SAY, 99, 5)
    assert (decoding.num_beams, decoding.max_new_tokens) == (3, 8)
    assert (found.train.lr, found.train.batch_size, found.config["r"]) == (0.5, 8, 4)


def test_check_and_plans_show_each_way(make_recipe: Make) -> None:
    recipe = make_recipe(methods=METHODS)
    found = preview(recipe, samples=1)
    assert [one.reading for one in found.models] == [
        "template={input} max_input_tokens=512",
        "template=Say what this is of: {input} max_input_tokens=512",
        "template=Say what this is of: {input} max_input_tokens=12",
    ]
    texts = ["".join(token.text for token in one.samples[0].tokens) for one in found.models]
    assert [text.strip().startswith("Say") for text in texts] == [False, True, True]
    assert [one.tokens["train"].truncated_inputs > 0 for one in found.models] == [False, False, True]
    assert len([text for text in found.warnings if "cut off" in text]) == 3
    plain = preview(make_recipe(), samples=1)
    assert [one.reading for one in plain.models] == [""]

    context = Context.open(recipe, Silent())
    tokens = {e.name: plan(recipe, e, 0, context=context)["tokens_per_epoch"] for e in recipe.methods}
    assert tokens["brief"] == tokens["untuned"]
    assert len({tokens[name] for name in ("untuned", "asked", "lora")}) == 3
    lengths = {entry.name: entry.micro_batch.length for entry in forecast(recipe).planned}
    assert lengths["lora"] == 12
    assert lengths["asked"] > lengths["untuned"] == lengths["brief"] > 12


def test_data_that_change_in_between_are_found_for_every_template(
    make_recipe: Make, rows: Path, tmp_path: Path
) -> None:
    recipe = make_recipe("train.max_steps=2", methods=METHODS[:3])
    compare(recipe, tmp_path / "out")
    (tmp_path / "out/runs/lora-s0/result.json").unlink()
    rows.write_text(rows.read_text(encoding="utf-8").replace("rivers", "lakes"), encoding="utf-8")
    with pytest.raises(DataError, match="have seen different data"):
        compare(recipe, tmp_path / "out")


def test_warnings_of_one_template_name_it(make_recipe: Make, rows: Path) -> None:
    """A template that leaves out what tells rows apart makes duplicates of them."""
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["kind"] = "one of these"
    rows.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    watched = Warnings()
    methods = ["untuned", {"untuned": {}, "name": "blind", "data": {"template": "{kind}"}}]
    context = Context.open(make_recipe(methods=methods), watched)
    named = [text for text in watched.warnings if text.endswith("(data.template: '{kind}')")]
    assert named
    base = context.base(context.recipe.methods[0])
    plain, blind = (context.data(entry, base).warnings() for entry in context.recipe.methods)
    assert set(named) <= set(blind)
    assert not set(named) & set(plain)
    assert any(text.endswith("(data.template: '{input}')") for text in plain)
    assert not any("data.template" in text for text in Context.open(make_recipe(), Silent()).dataset.warnings)


def test_rows_are_encoded_once_for_each_way(make_recipe: Make) -> None:
    recipe = make_recipe(methods=METHODS)
    context = Context.open(recipe, Silent())
    base = context.base(recipe.methods[0])
    untuned, asked, lora, brief = (context.data(entry, base) for entry in recipe.methods)
    assert untuned is brief
    assert asked is not lora
    assert asked.dataset is lora.dataset
    assert untuned.encoded("train") is context.data(recipe.methods[3], base).encoded("train")


def test_a_run_by_itself_reads_the_rows_in_its_own_way_only(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("train.max_steps=2", methods=METHODS)
    read: list[str] = []
    load_data = readings.load_data
    monkeypatch.setattr(
        readings,
        "load_data",
        lambda spec, task, **more: read.append(spec.template) or load_data(spec, task, **more),
    )
    planned = plan(recipe, recipe.entry("lora"), 0)
    assert planned["truncated_inputs"] == planned["rows"]["train"]
    result = run(recipe, recipe.entry("lora"), 0, tmp_path / "run")
    assert result.data.truncated_inputs == result.data.train
    assert read == [SAY, SAY]
    assert run(recipe, recipe.entry("lora"), 0, tmp_path / "run", resume=True) == result
