"""Somebody's data become a recipe that `check` accepts; nothing is asked or written that should not be."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from deltatune.cli.app import app
from deltatune.recipe import Recipe, load_recipe
from deltatune.testing.folders import save_tiny

FILLS = ("medals", "goals", "songs", "ships", "stars", "rivers", "books", "trains")
ROWS = 60


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny bases of each kind, in folders."""
    place = tmp_path_factory.mktemp("models")
    for name in ("t5", "llama", "bert", "vit"):
        save_tiny(name, place / name)
    return place


def _csv(place: Path, header: str, row: Callable[[int], str]) -> Path:
    path = place / "rows.csv"
    path.write_text("\n".join([header, *map(row, range(ROWS))]) + "\n", encoding="utf-8")
    return path


def _jsonl(place: Path, row: Callable[[int], dict[str, Any]]) -> Path:
    path = place / "rows.jsonl"
    path.write_text("".join(json.dumps(row(i)) + "\n" for i in range(ROWS)), encoding="utf-8")
    return path


def _text(i: int) -> str:
    return f"{i} of the {FILLS[i % 8]} and so on to the {FILLS[i % 5]} of number {i}"


def _folder(place: Path) -> Path:
    chance = np.random.default_rng(0)
    for i in range(30):
        (place / "pets" / ("cat", "dog")[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "pets" / ("cat", "dog")[i % 2] / f"{i}.png")
    return place / "pets"


def _conll(place: Path) -> Path:
    path = place / "rows.conll"
    path.write_text(
        "\n".join(f"Anna B-PER\nsaw O\n{FILLS[i % 8]} O\nnumber{i} O\n" for i in range(ROWS)),
        encoding="utf-8",
    )
    return path


def _said(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": _text(i)}, {"role": "assistant", "content": FILLS[i % 8]}]


def _parquet(place: Path) -> Path:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(
        {"text": [_text(i) for i in range(ROWS)], "label": ["a" if i % 2 else "b" for i in range(ROWS)]}
    )
    frame.to_parquet(place / "rows.parquet")
    return place / "rows.parquet"


def _whole(place: Path) -> Path:
    rows = [{"text": _text(i), "label": "a" if i % 2 else "b"} for i in range(ROWS)]
    path = place / "rows.json"
    path.write_text(
        json.dumps({"train": rows[:40], "validation": rows[40:50], "test": rows[50:]}), encoding="utf-8"
    )
    return path


KINDS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "label": (
        lambda p: _csv(p, "id,text,label", lambda i: f"{i},{_text(i)},{'good' if i % 2 else 'bad'}"),
        "bert",
        "text-classification",
    ),
    "number": (
        lambda p: _csv(p, "text;price", lambda i: f"{_text(i)};{i * 1.5 + 0.25}"),
        "bert",
        "text-regression",
    ),
    "pairs": (
        lambda p: _jsonl(p, lambda i: {"premise": _text(i), "hypothesis": FILLS[i % 8], "label": i % 2}),
        "bert",
        "text-classification",
    ),
    "scores": (
        lambda p: _jsonl(p, lambda i: {"sentence1": _text(i), "sentence2": FILLS[i % 8], "score": i / 10}),
        "bert",
        "text-similarity",
    ),
    "label sets": (
        lambda p: _csv(p, "text,tags", lambda i: f'{_text(i)},"{FILLS[i % 4]}; {FILLS[(i + 1) % 4]}"'),
        "bert",
        "multi-label-classification",
    ),
    "flags": (
        lambda p: _csv(
            p, "comment,toxic,rude,spam", lambda i: f"{_text(i)},{i % 2},{i % 3 // 2},{int(i % 5 == 0)}"
        ),
        "bert",
        "multi-label-classification",
    ),
    "conll": (_conll, "bert", "token-classification"),
    "tokens": (
        lambda p: _jsonl(p, lambda i: {"tokens": ["Anna", "saw", f"n{i}"], "ner_tags": ["B-PER", "O", "O"]}),
        "bert",
        "token-classification",
    ),
    "spans": (
        lambda p: _jsonl(
            p,
            lambda i: {"text": f"Anna saw {_text(i)}", "entities": [{"start": 0, "end": 4, "label": "PER"}]},
        ),
        "bert",
        "token-classification",
    ),
    "anchors": (
        lambda p: _jsonl(
            p, lambda i: {"anchor": _text(i), "positive": f"{FILLS[i % 8]} {i}", "negative": f"no {i}"}
        ),
        "bert",
        "embedding",
    ),
    "messages": (lambda p: _jsonl(p, lambda i: {"messages": _said(i)}), "llama", "conversation"),
    "sharegpt": (
        lambda p: _jsonl(
            p,
            lambda i: {
                "conversations": [
                    {"from": "human", "value": _text(i)},
                    {"from": "gpt", "value": FILLS[i % 8]},
                ]
            },
        ),
        "llama",
        "conversation",
    ),
    "alpaca": (
        lambda p: _jsonl(p, lambda i: {"instruction": "Name it", "input": _text(i), "output": FILLS[i % 8]}),
        "llama",
        "conversation",
    ),
    "preferences": (
        lambda p: _jsonl(p, lambda i: {"prompt": _text(i), "chosen": FILLS[i % 8], "rejected": "no"}),
        "llama",
        "conversation",
    ),
    "summaries": (
        lambda p: _jsonl(p, lambda i: {"document": _text(i), "summary": f"{FILLS[i % 8]} {i}"}),
        "t5",
        "text-to-text",
    ),
    "plain text": (lambda p: _jsonl(p, lambda i: {"text": _text(i)}), "llama", "causal-lm"),
    "images": (_folder, "vit", "image-classification"),
    "parquet": (_parquet, "bert", "text-classification"),
    "parts": (
        _whole,
        "bert",
        "text-classification",
    ),
}
"""How the data are made, a base for them, and the task that they are for."""


FAST = ("label", "messages", "summaries")


def _made(place: Path, *arguments: str) -> tuple[Recipe, str]:
    out = place / "recipe.yaml"
    done = CliRunner().invoke(app, ["init", "--out", str(out), *arguments])
    assert done.exit_code == 0, done.output
    return load_recipe(out), out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in FAST else pytest.mark.slow) for k in KINDS]
)
def test_a_recipe_for_each_kind_of_data(kind: str, models: Path, tmp_path: Path) -> None:
    make, base, task = KINDS[kind]
    data = make(tmp_path)
    recipe, text = _made(tmp_path, "--data", str(data), "--model", str(models / base), "--yes")
    assert recipe.task == task
    assert data.name in text  # relative, so that both can be moved
    assert str(tmp_path) not in text.replace(str(models), "")
    assert text.count("#") > 8  # each choice has its reason
    if kind not in FAST:
        checked = CliRunner().invoke(app, ["check", str(tmp_path / "recipe.yaml"), "--quiet"])
        assert checked.exit_code == 0, checked.output


@pytest.mark.slow
def test_limits_suit_the_rows(models: Path, tmp_path: Path) -> None:
    data = _jsonl(tmp_path, lambda i: {"document": _text(i), "summary": FILLS[i % 8]})
    recipe, text = _made(tmp_path, "--data", str(data), "--model", str(models / "t5"), "--yes")
    assert "the longest training row has" in text
    assert recipe.evaluation.max_new_tokens == recipe.data.max_target_tokens


@pytest.mark.slow
def test_what_is_not_read_is_said(models: Path, tmp_path: Path) -> None:
    data = _csv(tmp_path, "id,text,label,note", lambda i: f"{i},{_text(i)},{'ab'[i % 2]},so {i} it is")
    recipe, text = _made(tmp_path, "--data", str(data), "--model", str(models / "bert"), "--yes")
    assert recipe.data.columns.id == "id"
    assert "# not read: note" in text


def test_a_model_that_is_not_at_hand_is_said(tmp_path: Path) -> None:
    data = KINDS["label"][0](tmp_path)
    out = tmp_path / "recipe.yaml"
    done = CliRunner().invoke(
        app, ["init", "--data", str(data), "--model", "nobody/nothing", "--yes", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "without the model" in done.stdout
    assert load_recipe(out).model.name == "nobody/nothing"


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        ("left,right\n" + "a b c d,e f g h\n" * 9, [], "--task: the columns 'left' (text), 'right' (text)"),
        ("text,label\nx,1\n", ["--target", "labels"], "--target: 'labels' is no column"),
        ("text,label\nx,1\n", ["--input", "\x1b[31mred"], "--input: '\\x1b[31mred' is no column"),
        ("text,label\nx,1\n", ["--task", "classify"], "--task: 'classify'"),
        (
            "text,label\nx,1\n",
            ["--model", "bundled:gpt9", "--task", "text-classification", "--target", "label"],
            "--model: there is no 'bundled:gpt9'",
        ),
        ("text\n", [], "holds no rows"),
        (
            "text,kind,tone\n" + "x y,a,b\nz w,c,d\n" * 9,
            ["--task", "text-classification"],
            "--target: several",
        ),
        ("left,right\n" + "a b c d,e f g h\n" * 9, ["--task", "text-to-text"], "--input: several columns"),
        ("text,a,b\n" + "x y,1,2\n" * 9, ["--task", "text-to-text", "--target", "a,b"], "--input: the rows"),
    ],
)
def test_what_cannot_be_told_names_its_option(tmp_path: Path, rows: str, more: list[str], said: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(rows, encoding="utf-8")
    done = CliRunner().invoke(app, ["init", "--data", str(path), "--out", str(tmp_path / "x.yaml"), *more])
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "x.yaml").exists()


def test_no_data_and_nobody_to_ask(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["init", "--out", str(tmp_path / "x.yaml")])
    assert (done.exit_code, "--data" in done.output) == (2, True)


def test_a_recipe_is_not_replaced(models: Path, tmp_path: Path) -> None:
    data, out = KINDS["label"][0](tmp_path), tmp_path / "recipe.yaml"
    out.write_text("mine", encoding="utf-8")
    asked = ["init", "--data", str(data), "--model", str(models / "bert"), "--out", str(out)]
    assert CliRunner().invoke(app, [*asked, "--yes"]).exit_code == 2
    assert out.read_text(encoding="utf-8") == "mine"
    assert CliRunner().invoke(app, [*asked, "--yes", "--force"]).exit_code == 0
    assert load_recipe(out).task


def test_columns_of_a_stranger_do_no_harm(models: Path, tmp_path: Path) -> None:
    names = ["te\x1b[31mxt", "x\nmodel: evil", "label # no: {comment}"]
    rows = [{names[0]: _text(i), names[1]: f"{i}", names[2]: "a: b" if i % 2 else "c"} for i in range(ROWS)]
    data = tmp_path / "ro\x1bws.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    done = CliRunner().invoke(
        app,
        [
            *("init", "--data", str(data), "--model", str(models / "bert"), "--yes"),
            *("--target", names[2], "--input", names[0], "--task", "text-classification"),
            *("--out", str(tmp_path / "recipe.yaml")),
        ],
    )
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert "\x1b" not in text
    columns = yaml.safe_load(text)["data"]["columns"]
    assert columns == {"input": names[0], "target": names[2]}
    assert load_recipe(tmp_path / "recipe.yaml").model.name == str(models / "bert")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltatune.cli.commands.init.on_terminal", lambda: True)


@pytest.mark.usefixtures("asked")
def test_it_asks_on_a_terminal(models: Path, tmp_path: Path) -> None:
    data = _csv(tmp_path, "left,right,mark", lambda i: f"{_text(i)},{_text(i + 1)},{'x' if i % 2 else 'y'}")
    out = tmp_path / "recipe.yaml"
    out.write_text("mine", encoding="utf-8")
    answers = [
        str(tmp_path / "no such"),
        str(data),
        "text-classification",
        "right",
        "mark",
        str(models / "bert"),
        str(tmp_path / "new.yaml"),
    ]
    done = CliRunner().invoke(app, ["init", "--out", str(out)], input="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    recipe = load_recipe(tmp_path / "new.yaml")
    assert (recipe.data.columns.input, recipe.data.columns.target) == ("right", "mark")
    assert out.read_text(encoding="utf-8") == "mine"


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("given", [0, 1])
def test_an_end_of_input_leaves_nothing(models: Path, tmp_path: Path, given: int) -> None:
    data = KINDS["label"][0](tmp_path)
    before = sorted(tmp_path.iterdir())
    done = CliRunner().invoke(app, ["init", "--out", str(tmp_path / "x.yaml")], input=f"{data}\n" * given)
    assert done.exit_code == 130
    assert sorted(tmp_path.iterdir()) == before


def test_json_for_programs(models: Path, tmp_path: Path) -> None:
    data = KINDS["label"][0](tmp_path)
    out = tmp_path / "recipe.yaml"
    done = CliRunner().invoke(
        app, ["init", "--data", str(data), "--model", str(models / "bert"), "--out", str(out), "--json"]
    )
    told = json.loads(done.stdout)
    assert (told["task"], told["tried"], told["recipe"]) == ("text-classification", True, str(out))


@pytest.mark.slow
def test_whatever_a_table_holds_is_answered_in_words(models: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    cells = [
        "",
        "0",
        "1",
        "yes",
        "a,b",
        "[1]",
        '{"a": 1}',
        "\x1b[2J",
        "ä" * 400,
        "-1e999",
        "nan",
        "x y z",
        "#",
        "'",
    ]
    for number in range(30):
        header = [
            chance.choice(["text", "label", "id", "x:y", "tokens", "score", "", "#"]) + str(i)
            for i in range(3)
        ]
        rows = [{name: chance.choice(cells) for name in header} for _ in range(chance.choice([1, 3, 30]))]
        data, out = tmp_path / f"{number}.json", tmp_path / f"{number}.yaml"
        data.write_text(json.dumps(rows), encoding="utf-8")
        done = CliRunner().invoke(
            app, ["init", "--data", str(data), "--model", str(models / "bert"), "--yes", "--out", str(out)]
        )
        assert done.exit_code in (0, 2), done.output
        assert (done.exit_code == 0) == out.exists()
        if out.exists():
            assert CliRunner().invoke(app, ["check", str(out), "--quiet"]).exit_code == 0
