"""The types of what runs and comparisons write: read as it was written, refused in our words if damaged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.errors import AdapterError, DataError, DeltatuneError
from deltatune.files import as_json, write_lines
from deltatune.results import (
    Certificate,
    FailedRun,
    Leaderboard,
    PausedRun,
    Prediction,
    RunResult,
    read_predictions,
    run_result,
    whole_predictions,
)
from deltatune.results.json_schema import KINDS, results_schema

OLD = Path(__file__).parents[1] / "fixtures" / "version_0_1"


def old(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((OLD / name).read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize(
    ("name", "kind"),
    [("run", RunResult), ("paused", PausedRun), ("comparison/runs/untuned-s0", RunResult)],
)
def test_a_result_of_version_0_1_is_kept_key_for_key(name: str, kind: type) -> None:
    content = old(f"{name}/result.json")
    result = run_result(content, "it", remedy="")
    assert type(result) is kind
    assert result.as_dict() == content


def test_old_files_are_kept_byte_for_byte() -> None:
    for name, kind in (("comparison/leaderboard.json", Leaderboard), ("run/certificate.json", Certificate)):
        assert as_json(kind.of(old(name), name, remedy="").as_dict()) == (OLD / name).read_text("utf-8")


def test_unknown_keys_of_later_versions_are_kept() -> None:
    content = old("run/result.json") | {"later": {"a": [1]}}
    content["cost"]["joules"] = 3.5
    assert run_result(content, "it", remedy="").as_dict() == content


def without(*path: str) -> Callable[[Any], None]:
    def damage(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        del content[path[-1]]

    return damage


def holding(value: Any, *path: str) -> Callable[[Any], None]:
    def damage(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without("cost", "steps"), "lacks cost.steps."),
        (without("data", "labels"), "lacks data.labels."),
        (holding("4", "cost", "steps"), "bad value for cost.steps: '4' must be a valid integer."),
        (holding(True, "cost", "steps"), "bad value for cost.steps: True must be a valid integer."),
        (holding([], "cost"), "bad value for cost: [] must be an object."),
        (holding("much", "metrics", "test", "bleu"), "bad value for metrics.test.bleu: 'much' must be a"),
        (holding("x" * 900, "seed"), "bad value for seed: 'xxx"),
        (holding("over", "status"), "is no result of a run: its status is 'over', not done, paused, failed."),
    ],
)
def test_a_damaged_result_is_refused_in_our_words(damage: Callable[[Any], None], said: str) -> None:
    content = old("run/result.json")
    damage(content)
    with pytest.raises(AdapterError) as caught:
        run_result(content, "'run/result.json'", remedy="Train it again.", error=AdapterError)
    assert f"'run/result.json' {'has a ' if said.startswith('bad') else ''}{said}" in caught.value.what
    assert len(caught.value.what) < 200
    assert caught.value.remedy == "Train it again."
    assert "pydantic" not in str(caught.value)


def test_any_json_is_a_result_or_refused() -> None:
    for content in ({}, {"status": []}, {"status": None}, {"status": "failed", "error": 3}):
        with pytest.raises(DeltatuneError, match="'it'"):
            run_result(content, "'it'", remedy="")
    failed = run_result({"status": "failed"}, "'it'", remedy="")
    assert isinstance(failed, FailedRun)
    assert failed.message == ""


PREDICTIONS = [
    Prediction("a", "in", "ref\u2028erence", "out", True, {"rougeL_f": 0.25}, 1.5, 3, None, "ab"),
    Prediction("b", "[image, 8 x 8 pixels]", "cat", "dog", None, {}, None, None, {"cat": 0.25, "dog": 0.75}),
]


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write_lines(path, [prediction.as_dict() for prediction in PREDICTIONS])
    assert read_predictions(path, remedy="") == PREDICTIONS
    first, second = (json.loads(line) for line in path.read_text("utf-8").removesuffix("\n").split("\n"))
    assert list(first) == [
        *("id", "input", "reference", "prediction", "stopped", "scores", "nll", "tokens", "group", "schema")
    ]
    assert list(second)[-3:] == ["probabilities", "group", "schema"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"id": "a", "inp', "is no JSON"),
        (b"", "is no JSON"),
        (b"[1]", "is no record: [1] must be an object"),
        (b'{"id": "a", "input": "", "reference": ""}', "lacks prediction."),
        (b'{"id": 3, "input": "", "reference": "", "prediction": ""}', "bad value for id: 3 must be"),
        (
            b'{"id": "a", "input": "", "reference": "", "prediction": "", "scores": {"bleu": NaN}}',
            "bad value for scores.bleu: nan must be a finite number",
        ),
        (b'{"id": "\xff", "input": "", "reference": "", "prediction": ""}', "is no JSON"),
        (b"[" * 5000, "is no JSON"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "predictions.jsonl"
    whole = json.dumps(PREDICTIONS[0].as_dict()).encode()
    path.write_bytes(whole + b"\n" + line + b"\n" + whole + b"\n")
    with pytest.raises(DataError) as caught:
        read_predictions(path, remedy="Train it again.")
    assert said in caught.value.what
    assert caught.value.field == f"{path}, line 2"
    assert "pydantic" not in str(caught.value)
    assert [one and one.id for one in whole_predictions(path)] == (["a", None, "a"] if line else ["a", "a"])


def test_thousands_of_predictions_are_read_quickly(tmp_path: Path) -> None:
    """As quickly as the lines are parsed by Python's own JSON, twice over: checking them costs no more."""
    path = tmp_path / "predictions.jsonl"
    scores = {f"metric_{index}": index / 7 for index in range(12)}
    lines = [
        Prediction(str(i), "word " * 40, "a title", "another", True, scores, 1.5, 7) for i in range(5000)
    ]
    write_lines(path, [line.as_dict() for line in lines])

    def seconds(read: Callable[[], object]) -> float:
        began = time.process_time()
        read()
        return time.process_time() - began

    parsed = min(seconds(lambda: [json.loads(line) for line in path.open("rb")]) for _ in range(3))
    checked = min(seconds(lambda: read_predictions(path, remedy="")) for _ in range(3))
    assert checked < 2 * parsed


@pytest.mark.parametrize("kind", KINDS)
def test_the_json_schema_explains_every_field(kind: str) -> None:
    schema = results_schema(kind)
    parts = [schema, *schema.get("$defs", {}).values()]
    lacking = [
        f"{part.get('title')}.{name}"
        for part in parts
        for name, field in part.get("properties", {}).items()
        if not field.get("description")
    ]
    assert not lacking
    assert all(part.get("description") for part in parts if "properties" in part)
