"""The functions of the package, as a script or a notebook calls them."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import deltatune as dt
from deltatune.errors import DataError, DeltatuneError, RecipeError
from deltatune.results import CertifiedFolder, Leaderboard, RunResult, SavedDelta
from tests.tiny_recipe import WORDS, bert_folder, rows, t5_folder  # noqa: F401 - fixtures


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def films() -> list[dict[str, Any]]:
    return [{"text": f"{word} {number}", "label": word} for number in range(20) for word in WORDS[:2]]


def sections(folder: Path) -> dict[str, Any]:
    return {
        "task": "text-classification",
        "model": str(folder),
        "train": {"epochs": 1, "batch_size": 8, "precision": "fp32"},
    }


def test_rows_in_memory_from_recipe_to_prediction(
    bert_folder: Path,  # noqa: F811
    films: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    pandas = pytest.importorskip("pandas")
    columns = {"input": "text", "target": "label"}
    data = {"source": pandas.DataFrame(films), "columns": columns, "split": {"test": 0.2}}
    recipe = dt.make_recipe(**sections(bert_folder), data=data, methods=[dt.LoraConfig(r=2), "prefix"])
    assert [entry.name for entry in recipe.methods] == ["lora", "prefix"]
    assert recipe.entry("lora").config["r"] == 2
    assert dt.check(recipe, quiet=True).rows == {"train": 28, "validation": 4, "test": 8}
    assert [entry.name for entry in dt.plan(recipe, quiet=True).planned] == ["lora", "prefix"]

    board = dt.compare(recipe, tmp_path / "out", quiet=True)
    assert isinstance(board, Leaderboard)
    assert board.folder == tmp_path / "out"
    frame = board.to_pandas()
    assert set(frame["method"]) == {"lora", "prefix", "majority", "head"}
    assert 'srcdoc="&lt;!doctype html&gt;' in board._repr_html_()
    board.plot("train_seconds").save(tmp_path / "time.svg")
    assert "Training time" in (tmp_path / "time.svg").read_text(encoding="utf-8")

    run = tmp_path / "out" / "runs" / "lora-s0"
    asked = pandas.DataFrame(films[:2])
    found = dt.predict(run, asked)
    assert [prediction.prediction in WORDS[:2] for prediction in found] == [True, True]
    assert dt.predict(str(run), [film["text"] for film in films[:2]])[0].prediction == found[0].prediction
    assert (
        dt.evaluate(run, quiet=True)["accuracy"] == board.rows[0].metrics["accuracy"] or len(board.rows) > 1
    )
    assert type(dt.load(run).model).__name__ == "AdaptedModel"
    merged = dt.merge(run, tmp_path / "merged")
    assert (merged.folder, merged.dtype) == (str(tmp_path / "merged"), "fp32")
    assert merged.max_abs_logit_difference < 1e-4 * merged.logit_scale
    saved = dt.inspect(run)
    assert isinstance(saved, SavedDelta)
    assert (saved.method, saved.config["r"], saved.certified, saved.wants.runs_code) == (
        "lora",
        2,
        True,
        False,
    )
    assert isinstance(dt.inspect(tmp_path / "merged"), CertifiedFolder)


def test_train_returns_what_is_in_the_file(t5_folder: Path, rows: Path, tmp_path: Path) -> None:  # noqa: F811
    recipe = {
        "task": "text-to-text", "model": str(t5_folder), "methods": "lora",
        "data": {"source": rows, "columns": {"input": "text", "target": "title"}, "split": {"test": 0.2}},
        "train": {"epochs": 1, "precision": "fp32"}, "evaluation": {"max_new_tokens": 4},
    }  # fmt: skip
    result = dt.train(recipe, tmp_path / "run", seed=5, quiet=True)
    assert isinstance(result, RunResult)
    assert (result.seed, result.method) == (5, "lora")
    assert (tmp_path / "run" / "result.json").exists()


def test_bare_rows_get_parts_of_their_own(bert_folder: Path, films: list[dict[str, Any]]) -> None:  # noqa: F811
    renamed = [{"input": film["text"], "target": film["label"]} for film in films]
    recipe = dt.make_recipe(**sections(bert_folder), data=renamed, methods="lora")
    assert dt.check(recipe, quiet=True).rows == {"train": 32, "validation": 4, "test": 4}


def test_a_file_is_changed_by_keywords(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "task: causal-lm\nmodel: bundled:smollm2-135m\ndata: {source: r.csv, split: {}}\nmethods: [lora]\n"
    )
    recipe = dt.make_recipe(path, methods=["prompt"], seeds=[1, 2])
    assert ([entry.name for entry in recipe.methods], recipe.seeds) == (["prompt"], [1, 2])
    assert recipe.data.source == str(tmp_path / "r.csv")
    assert dt.make_recipe(dt.make_recipe(path), seeds=[3]).seeds == [3]
    assert dt.make_recipe(recipe) is recipe


@pytest.mark.parametrize(
    ("given", "error", "parts"),
    [
        ({"tasks": "causal-lm"}, RecipeError, ["tasks: is no section of a recipe", "Did you mean 'task'"]),
        (
            {"task": "causal"},
            RecipeError,
            ["'causal' is not a known task", "Did you mean 'causal-lm'"],
        ),
        ({"methods": [{"lora": {"rank": 4}}]}, RecipeError, ["methods.0.lora.rank", "Did you mean 'r'?"]),
        ({"data": [1, 2]}, DataError, ["data, row 0", "mapping"]),
        ({"data": {"source": []}}, DataError, ["data.source", "no rows"]),
    ],
)
def test_mistakes_are_named(given: dict[str, Any], error: type[DeltatuneError], parts: list[str]) -> None:
    complete = {
        "task": "causal-lm",
        "model": "bundled:smollm2-135m",
        "data": "bundled:tables",
        "methods": "lora",
    }
    with pytest.raises(error) as caught:
        dt.make_recipe(**{**complete, **given})
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"rank": 4}, ["rank: is not a known key", "Did you mean 'r'?"]),
        ({"target_modules": ["q"]}, ["target_modules", "Did you mean 'targets'?"]),
        ({"r": "four"}, ["r: 'four' must be a valid integer"]),
        ({"r": 0, "dropout": 2}, ["2 problems", "r: 0 must be greater", "dropout: 2"]),
    ],
)
def test_settings_in_python_are_explained_as_in_recipes(settings: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        dt.LoraConfig(**settings)
    for part in parts:
        assert part in str(caught.value)


def test_every_public_name_is_there() -> None:
    assert [name for name in dt.__all__ if not hasattr(dt, name)] == []
    assert all(callable(getattr(dt, name)) for name in ("train", "compare", "evaluate"))


OLD = """
import warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    from deltatune.evaluate import loss_on
    from deltatune.train.run import run
    from deltatune.compare.statistics import pairwise
import deltatune
from deltatune.evaluation import loss_on as now
assert loss_on is now
assert "deltatune.evaluate is deltatune.evaluation now." in {str(each.message) for each in told}
assert callable(deltatune.train) and callable(deltatune.evaluate) and callable(deltatune.compare)
"""


def test_the_former_paths_work_and_say_where_to_go() -> None:
    done = subprocess.run([sys.executable, "-c", OLD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_of_ours_takes_a_former_path() -> None:
    source = Path(dt.__file__).parent
    former = re.compile(r"deltatune\.(compare|evaluate|train)(\.| import)")
    found = [path.name for path in source.rglob("*.py") if former.search(path.read_text(encoding="utf-8"))]
    assert found == ["_moved.py"]


def test_threads_take_turns(t5_folder: Path, rows: Path, tmp_path: Path) -> None:  # noqa: F811
    """At once they would break each other's loading, and draw from one generator of random numbers."""
    recipe = dt.make_recipe(
        task="text-to-text", model=str(t5_folder), methods=["lora"],
        data={"source": rows, "columns": {"input": "text", "target": "title"}, "split": {}},
        train={"max_steps": 2, "batch_size": 8, "precision": "fp32"},
        evaluation={"max_new_tokens": 2},
    )  # fmt: skip
    found: dict[str, float] = {}

    def train(name: str) -> None:
        found[name] = dt.train(recipe, tmp_path / name, quiet=True).metrics.test["loss"]

    threads = [threading.Thread(target=train, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.keys() == {"a", "b"}
    assert found["a"] == found["b"]
