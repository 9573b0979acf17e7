"""Data, names and messages of strangers reach a terminal without control characters, by every command."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from deltatune.cli import output
from deltatune.cli.progress import Bars
from deltatune.errors import DataError
from deltatune.printable import printable, printable_json
from deltatune.report.text import render_csv
from deltatune.results import DataPreview, Leaderboard, LeaderboardRow, MeanCost, Prediction
from deltatune.runs import Failed
from tests.cli.test_compare import CONTENT
from tests.cli.test_train import PLAN, RESULT
from tests.cli.typed import merged, saved
from tests.report.synthetic import write_comparison

NASTY = "\x1b[31m[/x][bold]\x9b2J\x07\r\x7f:smile:\u202etxt.exe\u2066\ud800end"
SHOWN = r"\x1b[31m[/x][bold]\x9b2J\x07\x0d\x7f:smile:\u202etxt.exe\u2066\ud800end"
UNPRINTABLE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def require_clean(done: Any) -> None:
    assert not UNPRINTABLE.findall(done.out), done.out
    assert not UNPRINTABLE.findall(done.err), done.err


def test_control_characters_are_escaped_and_others_stay() -> None:
    assert printable(NASTY) == SHOWN
    assert printable("naïve 漢字 👩‍🚀\t\u05d7\n") == "naïve 漢字 👩‍🚀\t\u05d7\n"


@pytest.mark.parametrize("value", [{}, [], {"a": {}}])
def test_what_is_empty_is_said(value: Any) -> None:
    assert output.cell(value).endswith("none")


def test_json_reads_as_the_same_value() -> None:
    text = printable_json({NASTY: [NASTY]})
    assert json.loads(text) == {NASTY: [NASTY]}
    assert not UNPRINTABLE.findall(text)


def test_errors_and_warnings(recipe: Path, run: Callable, fake: Callable) -> None:
    def fails(*_: Any, observer: Any, **__: Any) -> None:
        observer.stage(f"stage {NASTY}")
        observer.log(f"log {NASTY}")
        observer.start(NASTY, 1)
        observer.advance(NASTY, 1, {NASTY: 1.0})
        observer.finish(NASTY)
        observer.warn(f"warning {NASTY}")
        raise DataError(f"row {NASTY}", field=NASTY, remedy=NASTY)

    fake("deltatune.training", "run", fails)
    done = run("--debug", "train", recipe, "-m", "untuned")
    require_clean(done)
    for words in ("stage ", "log ", "Warning: warning ", "row "):
        assert words + SHOWN in done.err
    assert "Traceback" in done.err


def test_defects_and_unknown_names(recipe: Path, run: Callable, fake: Callable) -> None:
    fake("deltatune.training", "run", ZeroDivisionError(NASTY))
    done = run("train", recipe, "-m", "untuned")
    require_clean(done)
    assert "[/x]" in done.err
    require_clean(run("train", recipe, "-m", NASTY))
    require_clean(run("report", NASTY.replace("\ud800", "")))


def test_bars_in_a_terminal() -> None:
    stream = io.StringIO()
    console = output._Printer(file=stream, force_terminal=True, width=200, color_system=None)
    with Bars(console) as bars:
        bars.stage(NASTY)
        bars.start(NASTY, 10)  # brackets in the name of an entry ended the display, and the run with it
        bars.advance(NASTY, 4, {NASTY: 1.25})
        bars.progress.refresh()
        bars.warn(NASTY)
        bars.finish(NASTY)
    printed = stream.getvalue()
    assert printed.count(SHOWN) >= 4
    assert not re.search("[\x07\x9b\u202e\u2066]|\x1b\\[31m", printed)


def test_a_console_escapes_what_comes_by_any_way() -> None:
    stream = io.StringIO()
    console: Console = output._Printer(file=stream, width=200, markup=False, highlight=False)
    console.print(NASTY.replace("\ud800", ""), end="")
    assert not UNPRINTABLE.findall(stream.getvalue())


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_train(recipe: Path, run: Callable, fake: Callable, option: list[str]) -> None:
    fake("deltatune.training", "run", RESULT.model_copy(update={"name": NASTY}))
    done = run("train", recipe, "-m", "lora r4", *option)
    assert done.code == 0, done.err
    require_clean(done)
    fake("deltatune.training", "plan", PLAN | {"model": NASTY, "sites": [NASTY], "metrics": [NASTY]})
    done = run("train", recipe, "-m", "lora r4", "--dry-run", *option)
    assert done.code == 0, done.err
    require_clean(done)


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_compare(recipe: Path, run: Callable, fake: Callable, option: list[str]) -> None:
    content, nasty = copy.deepcopy(CONTENT), NASTY.replace("\ud800", "")  # no record holds half a character
    content["rows"][0]["name"] = content["pairs"][0]["a"] = nasty
    content["rows"][2]["error"]["message"] = nasty
    fake("deltatune.comparison.runner", "compare", Leaderboard.of(content, "it", remedy=""))
    done = run("compare", recipe, *option)
    assert done.code == 2
    require_clean(done)
    assert "[/x]" in done.out


@pytest.mark.parametrize("form", ["md", "csv", "json"])
def test_report(tmp_path: Path, run: Callable, form: str) -> None:
    board = tmp_path / "leaderboard.json"
    write_comparison(tmp_path)
    name = json.dumps(NASTY.replace("\ud800", ""))[1:-1]
    board.write_text(board.read_text().replace("lora r8", name), encoding="utf-8")
    done = run("report", tmp_path, "--format", form)
    assert done.code == 0, done.err
    require_clean(done)
    assert "txt.exe" in done.out


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\n=", "\uff1d"])
def test_no_cell_of_a_csv_is_a_formula(start: str) -> None:
    cell = f'{start}HYPERLINK("http://x")'
    row = {"rank": 1, "name": cell, "method": cell, "model": cell, "seeds": [0], "status": "done"}
    cost = MeanCost().model_copy(update={"steps": cell})
    row |= {"metrics": {cell: 0.5}, "cost": cost, "interval": [cell, cell]}
    typed = LeaderboardRow(name="").model_copy(update=row)
    method = SimpleNamespace(
        row=typed, name=cell, error=cell, metrics={cell: cell}, cost=cost, shown=cell, on=""
    )
    comparison: Any = SimpleNamespace(methods=[method], ranked=[method], order=[method], model=cell)
    cells = [each for line in csv.reader(io.StringIO(render_csv(comparison))) for each in line]
    assert sum("HYPERLINK" in each for each in cells) == 9
    assert all(each.startswith("'") for each in cells if "HYPERLINK" in each)


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_inspect_merge_evaluate(run: Callable, fake: Callable, option: list[str]) -> None:
    certificate = {"passed": True, "lines": [{"check": NASTY, "passed": True, "detail": NASTY}]}
    found = saved(
        certificate,
        method=NASTY,
        config={NASTY: NASTY},
        base={"name": NASTY},
        heads=[NASTY],
        tensors={NASTY: {"shape": [1], "dtype": "float32"}},
    )
    fake("deltatune.runs", "inspect", found)
    done = run("inspect", "run", *option)
    assert done.code == 0, done.err
    require_clean(done)
    assert "txt.exe" in done.out
    fake("deltatune.runs", "evaluate_run", {NASTY: 0.5}, merge=lambda *_, **__: merged(folder=NASTY))
    require_clean(run("evaluate", "run", *option))
    require_clean(run("merge", "run", "--out", "merged", *option))


def test_predict(run: Callable, fake: Callable) -> None:
    good = Prediction(NASTY, NASTY, "", NASTY, True, probabilities={NASTY: 1.0})
    bad = Failed(NASTY, NASTY, NASTY)
    fake("deltatune.runs", "predict", [good, bad])
    done = run("predict", "run", "a", "b")
    require_clean(done)
    assert [json.loads(line)["input"] for line in done.out.splitlines()] == [NASTY, NASTY]


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_check(recipe: Path, run: Callable, fake: Callable, option: list[str]) -> None:
    tokens = {"total": 1, "supervised": 1, "median_length": 1, "longest": 1}
    tokens |= {"truncated_inputs": 0, "truncated_targets": 0}
    sample = {"id": NASTY, "length": 1, "supervised": 1, "tokens": [{"text": NASTY, "supervised": True}]}
    pair = {"similarity": 1.0, "row": NASTY, "other": NASTY, "excerpt": NASTY, "other_excerpt": NASTY}
    fake(
        "deltatune.training.before.preview",
        "preview",
        DataPreview.model_validate(
            {
                "task": "text-classification",
                "models": [
                    {"model": NASTY, "reading": NASTY, "samples": [sample], "tokens": {"train": tokens}}
                ],
                "rows": {"train": 1},
                "conversations": None,
                "model": NASTY,
                "reading": NASTY,
                "samples": [sample],
                "tokens": {"train": tokens},
                "classes": {"train": {NASTY: 1}},
                "majority": {"label": NASTY, "accuracy": 1.0},
                "duplicates": [
                    {"part": "train", "other": "test", "rows": 1, "exact": 1, "near": 0, "examples": [pair]}
                ],
                "repeated_training_rows": 0,
                "shifts": [],
                "unlabelled": {"train": {NASTY: 1}},
                "inputs": {"train": 1},
                "alike_classes": [[NASTY, NASTY]],
                "joined_classes": [NASTY],
                "contradictions": {
                    "inputs": 1,
                    "examples": [{"rows": [NASTY], "labels": [NASTY], "excerpt": NASTY}],
                },
                "warnings": [NASTY],
            }
        ),
    )
    done = run("check", recipe, *option)
    assert done.code == 0, done.err
    require_clean(done)
