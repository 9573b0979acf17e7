"""Entities in the report: marked in texts, and how well each class is found."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest

from deltatune.report import render
from deltatune.report.entities import entity_classes, predicted_entities, true_entities
from deltatune.report.load import load
from deltatune.results import Prediction

from .classified import write_classes

LABELS = ["O", "B-LOC", "I-LOC", "B-<b>", "I-<b>"]


def line(text: str, reference: str, prediction: str, number: int = 0) -> dict[str, Any]:
    places, end = [], 0
    for word in text.split():
        places.append([end, end + len(word)])
        end += len(word) + 1
    return {
        "id": str(number), "input": text, "reference": reference, "prediction": prediction, "stopped": None,
        "scores": {}, "nll": 1.0, "tokens": len(places), "spans": [], "words": places, "group": str(number),
        "schema": 1,
    }  # fmt: skip


def tagged(folder: Path) -> Path:
    """A comparison of taggers, as runs write it, without any training."""
    write_classes(folder, methods=("lora", "full"), rows=40)
    draw = random.Random(0)
    for method in ("lora", "full"):
        lines = []
        for number in range(40):
            true = draw.choices(LABELS, [4, 2, 1, 1, 1], k=6)
            guess = [tag if draw.random() < 0.7 else draw.choice(LABELS) for tag in true]
            lines.append(line("a & b <c> d e f", " ".join(true), " ".join(guess), number))
        path = folder / f"runs/{method}-s0/predictions.jsonl"
        path.write_text("".join(f"{json.dumps(each)}\n" for each in lines), "utf-8")
    board = json.loads((folder / "leaderboard.json").read_text("utf-8"))
    board |= {"task": "token-classification", "primary_metric": "entity_f1"}
    board["data"]["labels"] = LABELS
    for row in board["rows"]:
        row["metrics"] = {"entity_f1": 0.5}
    (folder / "leaderboard.json").write_text(json.dumps(board), "utf-8")
    return folder


def test_classes_are_found_as_seqeval_says(tmp_path: Path) -> None:
    theirs = pytest.importorskip("seqeval.metrics")
    section = entity_classes(load(tagged(tmp_path)))
    assert section is not None
    for judged in section.judged:
        path = tmp_path / f"runs/{judged.method.name}-s0/predictions.jsonl"
        lines = [json.loads(each) for each in path.read_text("utf-8").splitlines()]
        sides = [[each[side].split() for each in lines] for side in ("reference", "prediction")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = theirs.classification_report(*sides, output_dict=True)
        assert [each.name for each in judged.classes] == ["<b>", "LOC"]
        for each in judged.classes:
            wanted = report[each.name]
            assert each.entities == wanted["support"]
            assert each.f1 == pytest.approx(wanted["f1-score"])
            assert each.precision is not None
            assert each.recall is not None
            assert each.precision.value == pytest.approx(wanted["precision"])
            assert each.recall.value == pytest.approx(wanted["recall"])
            assert each.recall.low < each.recall.value < each.recall.high


def test_the_page_shows_them_escaped(tmp_path: Path) -> None:
    page = render(tagged(tmp_path))
    assert "How well each class is found" in page
    assert "entities that are right" in page
    assert "&lt;c&gt;" in page
    assert "<c>" not in page
    assert "<small>&lt;b&gt;</small>" in page


def test_entities_are_marked_right_missed_and_made_up() -> None:
    made = line("Anna saw New York", "B-P O B-L I-L", "B-P B-P B-L O")
    prediction = Prediction(**{**made, "words": [tuple(place) for place in made["words"]]})
    assert true_entities(prediction) == "<b>Anna <small>P</small></b> saw <b>New York <small>L</small></b>"
    assert predicted_entities(prediction) == (
        "<b>Anna <small>P</small></b> <ins>saw <small>P</small></ins> "
        "<ins>New <small>L</small></ins> <del>New York <small>L</small></del>"
    )
