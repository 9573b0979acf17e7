"""What is lost, in every format of the report and in words."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deltatune.report import render
from deltatune.report.html import render_html
from deltatune.report.load import load
from deltatune.report.lost import losses
from deltatune.report.lost_words import lost_words, sureness
from deltatune.report.text import render_csv, render_markdown
from deltatune.report.words import plain
from deltatune.results import Prediction

from .classified import write_classes
from .synthetic import write_comparison

BASE = 2.9


def general(change: float, low: float, high: float) -> dict[str, Any]:
    return {
        "text": "bundled", "sha256": "ef" * 32, "measure": "next token", "documents": 70, "tokens": 6_800,
        "base": BASE, "delta": BASE + change, "difference": change, "low": low, "high": high,
    }  # fmt: skip


def latency(*, merged: bool) -> dict[str, Any]:
    ratio = {"median": 1.01, "low": 0.97, "high": 1.04}
    return {
        "rows": 4, "turns": 12, "tokens": 16, "base_seconds": 0.2, "delta_seconds": 0.23,
        "merged_seconds": 0.2 if merged else None,
        "delta": {"median": 1.15, "low": 1.1, "high": 1.22}, "merged": ratio if merged else None,
        "not_merged": None if merged else "adds tokens and cannot be written into weights",
    }  # fmt: skip


def with_lost(folder: Path, lost: dict[str, dict[str, Any]], *, alone: bool = True) -> Path:
    """The made-up comparison, with what is lost by some of its methods, and energies."""
    path = write_comparison(folder) / "leaderboard.json"
    board = json.loads(path.read_text(encoding="utf-8"))
    for row in board["rows"]:
        row["lost"] = lost.get(row["name"])
        if row["cost"] and row["name"] in lost:
            row["cost"] |= {"energy_joules": 1_240.0, "energy_of": "package-0"}
        row["train_seconds"] = [1.0, 1.0] if alone else None
    path.write_text(json.dumps(board), encoding="utf-8")
    return folder


LOST = {
    "untuned": {"general": general(0.0, 0.0, 0.0), "latency": None},
    "lora r8": {"general": general(0.41, 0.36, 0.47), "latency": latency(merged=True)},
    "adalora": {"general": general(0.02, -0.01, 0.05), "latency": latency(merged=True)},
    "prefix (encoder, decoder and cross-attention)": {
        "general": general(1.5, 1.2, 1.9), "latency": latency(merged=False),
    },
}  # fmt: skip


def test_every_format_has_it(tmp_path: Path) -> None:
    comparison = load(with_lost(tmp_path, LOST))
    page, text = render_html(comparison), render_markdown(comparison)
    assert "What is lost</h2>" in page
    assert "2.900 \u2192 3.310" in page
    assert 'title="adds tokens and cannot be written into weights"' in page
    assert "## What is lost" in text
    assert "(adds tokens and cannot be written into weights)" in text
    assert "6,800 tokens to predict" in text
    assert "shared the machine" not in page
    lines = {line["name"]: line for line in csv.DictReader(io.StringIO(render_csv(comparison)))}
    assert lines["lora r8"]["general_difference"] == "0.41"
    assert lines["lora r8"]["answer_delta_by_base"] == "1.15"
    assert lines["lora r8"]["energy_joules"] == "1240.0"
    assert lines["prompt"]["general_loss"] == ""
    rows = json.loads(render(tmp_path, "json"))["rows"]
    assert next(row for row in rows if row["name"] == "adalora")["lost"] == LOST["adalora"]


def test_words_are_of_the_method_to_take_and_of_the_outermost(tmp_path: Path) -> None:
    comparison = load(with_lost(tmp_path, LOST))
    words = plain(lost_words(comparison))
    assert words.startswith(
        "On general text, the loss of lora r8 changes by +0.410 [+0.360,\u00a0+0.470] nats"
    )
    assert "from 2.90 to 3.31 (perplexity 18.17 to 27.39)" in words
    assert "adalora forgets least: +0.020 [\u22120.010,\u00a0+0.050]." in words
    assert "forgets most: +1.500" in words
    assert (
        "Answers of lora r8 take 1.15\u00d7 the time of the base's [1.10,\u00a01.22], merged 1.01\u00d7"
        in words
    )
    assert "Training lora r8 took 1.24\u202fkJ, by the counters of package-0." in words


def test_no_change_is_called_that(tmp_path: Path) -> None:
    lost = LOST | {"lora r8": {"general": general(0.01, -0.02, 0.04), "latency": None}}
    words = plain(lost_words(load(with_lost(tmp_path, lost))))
    assert (
        "no change of the loss of lora r8 is shown: +0.010 nats per token [\u22120.020,\u00a0+0.040]" in words
    )
    assert "forgets least" not in words


def test_energy_of_a_machine_that_was_shared_is_no_sentence(tmp_path: Path) -> None:
    comparison = load(with_lost(tmp_path, LOST, alone=False))
    assert "Training" not in plain(lost_words(comparison))
    shown = losses(comparison)
    assert shown is not None
    assert "Runs shared the machine" in shown.notes[-1]


def test_nothing_is_said_of_what_was_not_measured(comparison_dir: Path) -> None:
    comparison = load(comparison_dir)
    assert losses(comparison) is None
    assert lost_words(comparison) == []
    assert "What is lost" not in render_html(comparison)
    assert "general_loss" not in render_csv(comparison)


def test_a_classifier_that_is_too_sure_is_told_beside_the_head(tmp_path: Path) -> None:
    folder = write_classes(tmp_path, methods=("lora", "head"))
    for name, sure in (("lora", 0.999), ("head", 0.6)):
        path = folder / "runs" / f"{name}-s0" / "predictions.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            others = [label for label in line["probabilities"] if label != line["prediction"]]
            line["probabilities"] = {line["prediction"]: sure} | dict.fromkeys(others, 1 - sure)
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    board = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    board["pairs"] = [
        {"a": "lora", "b": "head", "difference": 0.1, "low": 0.05, "high": 0.2, "p": 0.001, "tie": False}
    ]
    (folder / "leaderboard.json").write_text(json.dumps(board), encoding="utf-8")
    words = plain(lost_words(load(folder)))
    assert words.startswith("lora is too sure: 99.9\u202f% on average where it is right in")
    assert "head has one of" in words
    assert "the other way" in words


def test_the_interval_of_sureness_holds_its_truth() -> None:
    """Of rows in twos, whose answers are the same, as many intervals hold the truth as they claim."""
    random, held = np.random.default_rng(5), 0
    for _ in range(100):
        right = random.random(80) < 0.8
        rows = [
            Prediction(f"{pair}-{twin}", "x", "a", "a" if right[pair] else "b", None, group=str(pair),
                       probabilities={"a": 0.9, "b": 0.1} if right[pair] else {"a": 0.1, "b": 0.9})
            for pair in range(80) for twin in range(2)
        ]  # fmt: skip
        found = sureness([rows])
        assert found is not None
        held += found.low <= 0.1 <= found.high
    assert held / 100 == pytest.approx(0.95, abs=0.06)
