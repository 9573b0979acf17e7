"""`train`, `evaluate` and `predict`: what they ask of the library and what they print."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.results import Prediction, RunResult

CONTENT = {
    "schema": 1,
    "status": "done",
    "name": "lora r4",
    "seed": 3,
    "model": {},
    "data": {"fingerprint": "ab", "labels": None, "warnings": []},
    "selected": {"by": "loss"},
    "metrics": {"validation": {"loss": 2.0}, "test": {"rougeL_f": 0.51234, "bleu": 12.5}},
    "cost": {
        "trained_parameters": 147456,
        "stored_parameters": 147456,
        "total_parameters": 76961152,
        "trained_share": 0.0019,
        "peak_memory_bytes": 1_600_000_000,
        "memory_kind": "rss",
        "train_seconds": 83.2,
        "evaluation_seconds": 9.75,
        "tokens_per_second": 900.0,
        "file_bytes": 600_000,
        "steps": 150,
        "epochs": 3.0,
    },
}
RESULT = RunResult.of(CONTENT, "it", remedy="")

PLAN = {
    "model": "bundled:t5-small",
    "sites": [f"encoder.block.{layer}.attention.q" for layer in range(8)],
    "heads": [],
    "budget": None,
    "from": None,
    "trained_parameters": 147456,
    "trained_share": 147456 / 76961152,
    "file_bytes_about": 589824,
    "total_parameters": 76961152,
    "lr": 1e-3,
    "lr_because": "lora's 0.0005, raised for a run of 150 steps",
    "head_lr": None,
    "steps": 150,
    "rows": {"train": 800, "validation": 100, "test": 100},
    "tokens_per_epoch": 90000,
    "supervised_tokens": 8000,
    "truncated_inputs": 0,
    "truncated_targets": 0,
    "padding": {"share": 0.38, "packed": True},
    "tasks": {"choose": ["acc", "acc_norm"]},
    "metrics": ["rougeL_f", "bleu"],
}


def busy(*_: Any, observer: Any, **__: Any) -> dict[str, Any]:
    """A run that shows progress."""
    observer.stage("loading the model")
    observer.start("train", 20)
    for step in range(20):
        observer.advance("train", 1, {"loss": 3.0 - step / 10})
    observer.finish("train")
    observer.warn("something is odd")
    return RESULT


def test_train_passes_the_entry_seed_and_folder(recipe: Path, run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.training", "run", busy)
    done = run("train", recipe, "--method", "lora r4", "--set", "train.lr=1e-3", "--resume")
    assert done.code == 0, done.err
    loaded, entry, seed, out = calls[0].arguments
    assert (entry.method, entry.config["r"], entry.train.lr, seed) == ("lora", 4, 1e-3, 3)
    assert loaded.train.lr == 1e-3
    assert out == Path("out/tables/runs/lora-r4-s3")
    assert (calls[0].options["resume"], calls[0].options["overwrite"]) == (True, False)
    assert "ROUGE-L F" in done.out
    assert "51.2" in done.out
    assert "147,456 of 76,961,152 parameters" in done.out
    assert "1 min 23 s, 150 steps" in done.out
    assert "600 kB" in done.out


def test_json_is_alone_on_stdout(recipe: Path, run: Callable, fake: Callable) -> None:
    fake("deltatune.training", "run", busy)
    done = run("train", recipe, "-m", "lora r4", "--json")
    assert json.loads(done.out) == CONTENT
    assert "loading the model" in done.err
    assert "Warning: something is odd" in done.err


def test_timings_are_a_table_that_adds_up(recipe: Path, run: Callable, fake: Callable) -> None:
    spent = {"training": (30.0, 50.0), "test rows": (9.0, 12.0), "other": (1.0, 0.5)}
    timeline = [
        {"name": name, "seconds": wall, "processor_seconds": worked} for name, (wall, worked) in spent.items()
    ]
    fake("deltatune.training", "run", RunResult.of(CONTENT | {"timeline": timeline}, "it", remedy=""))
    assert "phase" not in run("train", recipe, "-m", "lora r4").out
    table = run("train", recipe, "-m", "lora r4", "--timings").out.partition("Time of lora r4 (seed 3)")[2]
    rows = [line.split() for line in table.splitlines()]
    assert ["training", "30.00", "75", "%", "50.00"] in rows
    assert ["other", "1.00", "2.5", "%", "0.50"] in rows
    assert ["in", "all", "40.00", "62.50"] in rows
    fake("deltatune.training", "run", RESULT)  # of an older version
    assert "Time of" not in run("train", recipe, "-m", "lora r4", "--timings").out


def test_quiet_leaves_warnings(recipe: Path, run: Callable, fake: Callable) -> None:
    fake("deltatune.training", "run", busy)
    done = run("train", recipe, "-m", "lora r4", "--quiet")
    assert done.err == "Warning: something is odd\n"


def test_dry_run_prints_the_plan(recipe: Path, run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.training", "plan", PLAN)
    done = run("train", recipe, "-m", "lora r4", "--dry-run", "--seed", "7")
    assert done.code == 0, done.err
    assert calls[0].arguments[1].name == "lora r4"
    assert calls[0].arguments[2] == 7
    assert "147,456 of 76,961,152 parameters (0.19 %)" in done.out
    assert "encoder.block.*.attention.q  (8)" in done.out
    assert "150, peak learning rate 0.001 (lora's 0.0005, raised for a run of 150 steps)" in done.out
    assert json.loads(run("train", recipe, "-m", "lora r4", "--dry-run", "--json").out) == PLAN


def test_several_methods_need_a_choice(recipe: Path, run: Callable) -> None:
    done = run("train", recipe)
    assert done.code == 2
    assert done.err.startswith("Error: --method: the recipe has 2 methods")
    assert "untuned, lora r4" in done.err


def test_an_interrupted_run_says_how_to_go_on(recipe: Path, run: Callable, fake: Callable) -> None:
    fake("deltatune.training", "run", KeyboardInterrupt())
    done = run("train", recipe, "-m", "lora r4")
    assert done.code == 130
    assert "Interrupted" in done.err
    assert "--resume" in done.err
    assert "Traceback" not in done.err


def test_evaluate(run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.runs", "evaluate_run", {"accuracy": 0.875})
    done = run("evaluate", "some/run", "--split", "validation")
    assert done.code == 0, done.err
    assert calls[0].arguments == (Path("some/run"),)
    assert calls[0].options["split"] == "validation"
    assert "87.5" in done.out


def test_evaluate_refuses_an_unknown_split(run: Callable) -> None:
    done = run("evaluate", "some/run", "--split", "tst")
    assert done.code == 2
    assert "Did you mean 'test'?" in done.err


def echo(_: Path, inputs: Any, **__: Any) -> Any:
    for number, text in enumerate(inputs):
        yield Prediction(str(number), text, "", f"title\nof {text}", True)


def test_predict_arguments_stdin_and_file(tmp_path: Path, run: Callable, fake: Callable) -> None:
    importlib.import_module("deltatune.runs.inputs")  # it cannot be found below the stand-in
    fake("deltatune.runs", "predict", echo)
    expected = ["title\nof a", "title\nof b"]
    for done in (run("predict", "r", "a", "b"), run("predict", "r", stdin="a\nb\n")):
        assert [json.loads(line)["prediction"] for line in done.out.splitlines()] == expected
    calls = fake("deltatune.runs", "predict", [])
    assert run("predict", "r", "--file", tmp_path / "inputs.txt").code == 0
    assert calls[0].arguments == (Path("r"), tmp_path / "inputs.txt")


def test_predict_json_is_one_object_a_line(run: Callable, fake: Callable) -> None:
    fake("deltatune.runs", "predict", echo)
    lines = run("predict", "r", "a", "b", "--json").out.splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == ["title\nof a", "title\nof b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "r", "a", "--file", "x.txt"), "both as arguments and as a file"),
    ],
)
def test_predict_refuses_unclear_input(run: Callable, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_is_held_to_the_recipes_rule(recipe: Path, run: Callable, fake: Callable, seed: str) -> None:
    calls = fake("deltatune.training", "run", {})
    done = run("train", recipe, "-m", "untuned", "--seed", seed)
    assert (done.code, calls) == (2, [])
    assert "seeds.0" in done.err
