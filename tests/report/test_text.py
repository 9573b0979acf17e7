from __future__ import annotations

import csv
import hashlib
import io
import json
import re

import pytest

from deltatune.report import display, render

from .synthetic import METHODS, write_comparison, write_models


def test_csv_has_a_line_a_method_with_unrounded_numbers(comparison_dir):
    board = json.loads((comparison_dir / "leaderboard.json").read_text())
    lines = list(csv.DictReader(io.StringIO(render(comparison_dir, "csv"))))
    assert {line["name"] for line in lines} == set(METHODS)
    first = next(row for row in board["rows"] if row["name"] == lines[0]["name"])
    assert float(lines[0]["rougeL_f"]) == first["metrics"]["rougeL_f"]
    assert lines[-1]["status"] == "failed"
    assert "TargetError" in lines[-1]["error"]


def test_csv_cells_are_no_formulas(tmp_path):
    write_comparison(tmp_path)
    text = (tmp_path / "leaderboard.json").read_text().replace('"name": "adalora"', '"name": "=HYPERLINK(1)"')
    (tmp_path / "leaderboard.json").write_text(text)
    names = [line["name"] for line in csv.DictReader(io.StringIO(render(tmp_path, "csv")))]
    assert "'=HYPERLINK(1)" in names


def test_markdown_is_one_table_with_a_verdict(comparison_dir):
    text = render(comparison_dir, "md")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(METHODS)
    assert {line.replace("\\|", "").count("|") for line in table} == {10}
    assert "tie for first place" in text
    assert "<script" not in text.replace("\\<", "")


def test_titles_name_the_folder_of_a_local_model(tmp_path):
    write_comparison(tmp_path)
    board = tmp_path / "leaderboard.json"
    text = board.read_text()
    assert text.count('"bundled:t5-small"') > 0
    board.write_text(text.replace('"bundled:t5-small"', '"/home/ada/models/my-t5/"'))
    page, table = render(tmp_path), render(tmp_path, "md")
    heading = re.search("<h1>.*</h1>", page)
    assert heading
    assert '<span class="model">my-t5</span>' in heading[0]
    assert table.startswith("# 5 ways to adapt my-t5\n")
    assert display.model_name("org/bart-base") == "org/bart-base"


def test_json_is_the_leaderboard_and_the_verdict(comparison_dir):
    found = json.loads(render(comparison_dir, "json"))
    board = json.loads((comparison_dir / "leaderboard.json").read_text())
    assert found["rows"] == board["rows"]
    assert "tie for first place" in found["verdict"]


def test_every_form_names_models_warnings_and_how_to_reproduce(tmp_path):
    write_models(tmp_path)
    page, table = render(tmp_path), render(tmp_path, "md")
    lines = {line["name"]: line for line in csv.DictReader(io.StringIO(render(tmp_path, "csv")))}
    found = json.loads(render(tmp_path, "json"))
    assert "5 ways to adapt t5-small and bart-base" in table
    assert re.search(r"\| adalora \| bart-base, 139.M \|", table.replace("\u202f", "."))
    assert lines["adalora"]["model"] == "facebook/bart-base"
    assert lines["lora r8"]["model"] == "bundled:t5-small"
    assert float(lines["adalora"]["total_parameters"]) == 139_420_416
    assert "adalora on bart-base" in found["verdict"]
    assert "own tokenizer" in found["caveat"]
    assert "<b>adalora on bart-base</b>" in page
    for text in (page, table):
        assert "have the same input as a training row" in text
    again = found["reproduce"]
    assert [model["name"] for model in again["models"]] == ["bundled:t5-small", "facebook/bart-base"]
    assert (again["seeds"], again["data"], again["commit"]) == ([0, 1], "cd" * 32, "f" * 40)
    recipe = (tmp_path / "recipe.yaml").read_bytes()
    assert again["recipe"] == hashlib.sha256(recipe).hexdigest()
    hashes = ["f" * 40, "ab" * 32, "cd" * 32, "ef" * 32, again["recipe"]]
    for text in (page, table):
        assert all(wanted in text for wanted in [*again["commands"], *hashes, "torch 2.13.0"])


def test_one_model_has_no_column(comparison_dir):
    assert "bundled:t5-small" in render(comparison_dir, "csv")
    assert "| Model |" not in render(comparison_dir, "md")
    assert "Model, parameters" not in render(comparison_dir)
    assert "own tokenizer" not in render(comparison_dir)


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (display.amount, 0, "0"),
        (display.amount, 999, "999"),
        (display.amount, 688_128, "688 k"),
        (display.amount, 999_900, "1.00 M"),
        (display.amount, 76_961_152, "77.0 M"),
        (display.amount, None, "\u2013"),
        (display.size, 900, "900 B"),
        (display.size, 2_753_412, "2.75 MB"),
        (display.size, 1.42e9, "1.42 GB"),
        (display.duration, 0.42, "0.4 s"),
        (display.duration, 59.6, "1 min"),
        (display.duration, 96, "1 min 36 s"),
        (display.duration, 7499, "2 h 5 min"),
        (display.tick, 1_500_000, "1.5 M"),
        (display.tick, 0.25, "0.25"),
        (display.moment, "2026-11-23T22:00:00+00:00", "2026-11-23 22:00 UTC"),
        (display.moment, "today", "today"),
    ],
)
def test_numbers_for_people(function, value, text):
    assert function(value).replace("\u202f", " ") == text


def test_metrics_for_people():
    assert display.metric("rougeL_f", 0.6123) == "61.2"
    assert display.metric("rougeL_f", -0.031) == "\u22123.1"
    assert display.metric("loss", -0.0001) == "0.000"
    assert display.metric("accuracy", 0.974) == "97.4\u202f%"
    assert display.metric("bleu", 23.456) == "23.5"
    assert display.metric("mine", 0.5) == "0.500"
    assert display.metric("loss", None) == "\u2013"
    assert display.style("rouge2_p").label == "ROUGE-2 precision"
    assert display.share(688_128, 76_961_152) == "0.89\u202f%"
