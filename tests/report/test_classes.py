"""The report's section about classes: what is confused, with intervals, and whether probabilities hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, confusion_matrix

from deltatune.comparison.scores import read_sample
from deltatune.comparison.statistics import bootstrap_interval
from deltatune.report import render
from deltatune.report.calibration import Share
from deltatune.report.classes import Classes, classes
from deltatune.report.load import load

from .classified import write_classes
from .test_browser import CHROMIUM, ask

HOSTILE = "<script>alert(1)</script> & \u202eads which have a very long name indeed"


def section(folder: Path) -> Classes:
    comparison = load(folder)
    found = classes(comparison, {method.name: place for place, method in enumerate(comparison.methods)})
    assert found is not None
    return found


def predictions(folder: Path, name: str, seed: int = 0) -> list[dict]:
    lines = (folder / f"runs/{name}-s{seed}/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(("part", "rows"), [(0, 10), (3, 10), (10, 10), (47, 120)])
def test_shares_have_wilsons_intervals(part, rows):
    share = Share.of(part, rows, rows)
    wanted = stats.binomtest(part, rows).proportion_ci(method="wilson")
    assert (share.low, share.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    assert Share.of(0, 0, 0) is None
    repeated = Share.of(4 * part, 4 * rows, rows)  # four rows of each input tell no more than one
    assert repeated == pytest.approx(share)


def test_the_maps_count_as_scikit_learn_does(tmp_path):
    folder = write_classes(tmp_path, labels=("a", "b", "c"))
    found = section(folder)
    lines = predictions(folder, "lora")
    wanted = confusion_matrix([line["reference"] for line in lines], [line["prediction"] for line in lines])
    cells = [[int(cell.text) for cell in row] for _, row in found.maps[0].rows]
    assert cells == wanted.tolist()
    assert [cell.best for cell in found.maps[0].rows[1][1]] == [False, True, False]
    tip = found.maps[0].rows[0][1][1].tip
    assert tip.startswith(f"true a, predicted b\n{wanted[0, 1]} of {wanted[0].sum()} rows: ")
    for place, line in enumerate(found.judged[0].classes):
        true, predicted, right = wanted[place].sum(), wanted[:, place].sum(), wanted[place, place]
        rest = len(lines) - true
        assert (line.rows, line.predicted) == (true, pytest.approx(predicted))
        assert line.sensitivity.value == pytest.approx(right / true)
        assert line.precision.value == pytest.approx(right / predicted)
        assert line.specificity.value == pytest.approx((rest - predicted + right) / rest)
        assert line.specificity.low < line.specificity.value < line.specificity.high
    assert len(found.maps) == 3
    assert not found.judged[0].confused


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_calibration_has_the_numbers_of_the_metrics(tmp_path, seeds):
    folder = write_classes(tmp_path, seeds=seeds)
    assert "The positive class is pneumonia." in section(folder).note
    assert ("over seeds" in section(folder).note) == (len(seeds) > 1)
    (method, (ece, brier)), *_ = section(folder).calibration.numbers
    assert method.name == "lora"
    files = [folder / f"runs/lora-s{seed}/predictions.jsonl" for seed in seeds]
    lines = predictions(folder, "lora")
    groups = list(dict.fromkeys(line["group"] for line in lines))
    for number, key in ((ece, "ece"), (brier, "brier")):
        sample = read_sample(files, key, labels=["normal", "pneumonia"])
        assert number.value == pytest.approx(sample.mean())
        if len(seeds) == 1:  # more of them widen the comparison's intervals
            grouped = sample.grouped([groups.index(line["group"]) for line in lines])
            low, high = bootstrap_interval(grouped, resamples=2000)
            ends = [float(end) for end in re.findall(r"[\d.]+", number.bounds)]
            assert ends == pytest.approx([low, high], abs=0.15 * (high - low))
    wanted = np.mean([
        brier_score_loss([line["reference"] == "pneumonia" for line in predictions(folder, "lora", seed)],
                         [line["probabilities"]["pneumonia"] for line in predictions(folder, "lora", seed)])
        for seed in seeds
    ])  # fmt: skip
    assert brier.value == pytest.approx(wanted, abs=1e-6)


def test_many_classes_are_told_by_the_pairs_most_confused(tmp_path):
    folder = write_classes(tmp_path, labels=[f"species {i}" for i in range(120)], rows=400)
    found = section(folder)
    assert not found.maps
    pairs = found.judged[0].confused
    assert len(pairs) == 10
    assert [pair.rows for pair in pairs] == sorted((pair.rows for pair in pairs), reverse=True)
    lines = predictions(folder, "lora")
    counted = sum(
        line["reference"] == pairs[0].true and line["prediction"] == pairs[0].predicted for line in lines
    )
    assert pairs[0].rows == counted
    assert len(found.judged[0].classes) == 10
    assert found.judged[0].more == 110
    assert len(render(folder)) < 200_000


def test_old_runs_have_the_section_and_others_do_not(tmp_path):
    old = write_classes(tmp_path / "old", old=True)
    assert section(old).maps
    for path in old.glob("runs/*/predictions.jsonl"):  # as a tool may have written them
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            del line["probabilities"]
        path.write_text("\n".join(map(json.dumps, lines)))
    assert section(old).calibration is None
    assert "Accuracy by confidence" not in render(old)
    for path in old.glob("runs/*/predictions.jsonl"):
        path.unlink()
    assert "<h2>Classes</h2>" not in render(old)
    board = json.loads((old / "leaderboard.json").read_text()) | {"task": "text-to-text"}
    (old / "leaderboard.json").write_text(json.dumps(board))
    assert "<h2>Classes</h2>" not in render(old)


def test_a_damaged_line_and_a_class_without_rows(tmp_path):
    folder = write_classes(tmp_path, labels=("a", "b", "c"), rows=30)
    path = folder / "runs/lora-s0/predictions.jsonl"
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["reference"] != "b"]
    path.write_text("\n".join([*kept, '{"id": "cut off']))
    line = section(folder).judged[0].classes[1]
    assert (line.rows, line.sensitivity) == (0, None)
    assert [cell.text for cell in section(folder).maps[0].rows[1][1]] == ["0", "0", "0"]
    assert "nan" not in re.findall(r"data-v=\"(.*?)\"", render(folder))


def test_names_cannot_break_the_page(tmp_path):
    page = render(write_classes(tmp_path, labels=(HOSTILE, "b")))
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "<h2>Classes</h2>" in page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize(
    "labels",
    [("normal", "pneumonia"), [f"class {i} " + "x" * i for i in range(12)], [f"c{i}" for i in range(120)]],
    ids=len,
)
def test_nothing_overflows(tmp_path, width, labels):
    page = render(write_classes(tmp_path / "run", labels=labels, methods=("lora", "prefix", "full", "head")))
    found = ask(
        tmp_path, page,
        "d.querySelectorAll('details').forEach(x=>x.open=true);"
        "out.width=d.documentElement.scrollWidth;"
        "out.out=[...d.querySelectorAll('main *')].filter(x=>!x.closest('.scroll,pre'))"
        ".filter(x=>x.getBoundingClientRect().right>f.clientWidth+1).map(x=>x.outerHTML.slice(0,80))",
        width,
    )  # fmt: skip
    assert found == {"width": width, "out": []}
