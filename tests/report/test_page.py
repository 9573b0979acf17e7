from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from deltatune.errors import DeltatuneError
from deltatune.report import TEXTS, render, write_report

from .synthetic import FAILURE, HOSTILE, METHODS, write_comparison

VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text += data


@pytest.fixture(scope="module")
def page(comparison_dir):
    return render(comparison_dir)


def test_is_written_and_self_contained(comparison_dir, page):
    path = write_report(comparison_dir)
    assert path == comparison_dir / "report.html"
    assert path.read_text(encoding="utf-8") == page
    reader = Reader(page)
    assert not reader.open
    names = {tag for tag, _ in reader.tags}
    assert not names & {"link", "img", "iframe", "object", "base", "form"}
    attributes = {name for _, attrs in reader.tags for name in attrs}
    assert not {name for name in attributes if name.startswith("on")}
    assert not attributes & {"src", "href", "xlink:href", "action", "style", "srcset"}
    assert not re.search(r"url\(|@import", page)
    policy = next(attrs["content"] for _, attrs in reader.tags if "http-equiv" in attrs)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert len(script.splitlines()) < 100
    assert not re.search(r"fetch|XMLHttpRequest|import\(|eval|innerHTML|https?:", script)
    assert len(page) < 400_000


def test_texts_of_model_and_data_are_shown_as_they_are(page):
    assert HOSTILE in Reader(page).text
    assert page.count("<script") == 1  # our own
    assert "\x07" not in page
    assert "\\x07(2)" in page


MARKS = "".join(map(chr, [*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F])) + "".join(
    map(chr, [*range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xD800, 0xDFFF, 0xFFFE, 0xFFFF])
)


@pytest.mark.parametrize("format", TEXTS)
def test_no_control_character_or_mark_of_direction_is_in_a_report(tmp_path, format):
    """Of names, rows, warnings and errors: they reorder lines, and halves of pairs cannot be written."""
    write_comparison(tmp_path)
    hostile, marks = json.dumps(HOSTILE)[1:-1], json.dumps(MARKS)[1:-1]
    for path in tmp_path.rglob("*.json*"):
        text = path.read_text().replace(hostile, marks).replace(FAILURE["message"], f"failed{marks}")
        path.write_text(text.replace('"name": "adalora"', f'"name": "ada{marks}lora"'))
    text = render(tmp_path, format)
    assert not set(MARKS) & set(text)
    assert r"\u202e" in text
    text.encode()


@pytest.mark.parametrize("place", ["name", "model", "label_in_recipe"])
def test_hostile_names_are_inert(tmp_path, place):
    write_comparison(tmp_path)
    board = json.loads((tmp_path / "leaderboard.json").read_text())
    if place == "model":
        board["model"] = HOSTILE
    elif place == "name":
        for pair in board["pairs"]:
            pair["a"], pair["b"] = (HOSTILE if n == "adalora" else n for n in (pair["a"], pair["b"]))
        board["rows"][2]["name"] = HOSTILE
    (tmp_path / "leaderboard.json").write_text(json.dumps(board))
    reader = Reader(render(tmp_path))
    names = [tag for tag, _ in reader.tags]
    assert (names.count("script"), names.count("img")) == (1, 0)
    assert HOSTILE in reader.text


def test_every_part_is_there(page):
    text = Reader(page).text
    for name in METHODS:
        assert name in text
    for part in (
        "tie for first place", "What failed", "TargetError", "Training loss", "Validation loss",
        "ROUGE-L F against trained parameters", "ROUGE-L F against training time",
        "ROUGE-L F against memory of a step", "ROUGE-L F against file size", "On the Pareto front (line): ",
        "the band reaches", "adalora: learned rank by layer", "8 of 16 ranks were kept", "Certificates",
        "pip install deltatune==0.1.0", "commit ffffffffffff", "deltatune compare recipe.yaml --out DIR",
        "The same 10 test examples", "How to reproduce", "model: bundled:t5-small",
        "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0", "torch 2.13.0", "base unchanged",
    ):  # fmt: skip
        assert part in text, part
    assert page.count("cut off") == 10  # the untuned base, once an example
    assert page.count('<article class="card example">') == 10
    assert "NaN" not in text


def test_the_same_examples_for_every_method(page):
    articles = re.findall(r'<article class="card example".*?</article>', page, re.DOTALL)
    ids = [re.search(r"<bdi>(table-\d+)</bdi>", article)[1] for article in articles]
    assert (ids[0], ids[-1], len(set(ids))) == ("table-0", "table-59", 10)
    for article in articles:
        assert article.count("<dt") == 5  # the reference and four methods that finished


def test_examples_are_matched_by_id_whatever_the_order_of_a_file(tmp_path):
    write_comparison(tmp_path, seeds=(0,))
    whole = re.findall(r'<article class="card example".*?</article>', render(tmp_path), re.DOTALL)
    for path in sorted(tmp_path.glob("runs/*/predictions.jsonl"))[1:3]:
        path.write_text("\n".join(reversed(path.read_text().splitlines())))
    articles = re.findall(r'<article class="card example".*?</article>', render(tmp_path), re.DOTALL)
    assert sorted(articles) == sorted(whole)


def test_missing_and_broken_run_files_leave_gaps_but_a_page(tmp_path):
    write_comparison(tmp_path, seeds=(0,))
    shutil.rmtree(tmp_path / "runs" / "adalora-s0")
    (tmp_path / "runs" / "lora-s0" / "predictions.jsonl").write_text("not json\n")
    (tmp_path / "recipe.yaml").unlink()
    text = Reader(render(tmp_path)).text
    assert "adalora" in text
    assert "Training loss" in text


def test_nothing_finished(tmp_path):
    write_comparison(tmp_path)
    board = json.loads((tmp_path / "leaderboard.json").read_text())
    for row in board["rows"]:
        row |= {
            "rank": None,
            "status": "failed",
            "error": "boom",
            "metrics": {},
            "interval": None,
            "cost": {},
        }
    board["pairs"] = []
    (tmp_path / "leaderboard.json").write_text(json.dumps(board))
    text = Reader(render(tmp_path)).text
    assert "No method finished" in text
    assert "Leaderboard" not in text
    assert text.count("boom") == 5


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, "no leaderboard.json"),
        ("{", "cannot be read as JSON"),
        ("[]", "not an object"),
        ("{}", "lacks primary_metric"),
    ],
)
def test_a_folder_without_comparison_is_refused(tmp_path, content, rule):
    if content is not None:
        (tmp_path / "leaderboard.json").write_text(content)
    with pytest.raises(DeltatuneError, match=rule):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_unknown_format(comparison_dir):
    with pytest.raises(DeltatuneError, match="Did you mean 'html'"):
        render(comparison_dir, "htm")


def test_certificates_show_each_run_and_what_failed(page):
    cards = re.findall(r'<article class="card (sound|failure)".*?</article>', page, re.DOTALL)
    assert sorted(cards) == ["failure"] * 2 + ["sound"] * 8  # five methods, two seeds; prompt failed
    assert page.count('aria-label="failed"') == 4  # a check, and the run itself
    assert "hash ab12" in page


def test_failed_runs_stand_in_the_table_and_sort_last(page):
    board = re.search(r'<table class="board.*?</table>', page, re.DOTALL)[0]
    rows = re.findall(r"<tr data-m.*?</tr>", board, re.DOTALL)
    assert len(rows) == 5
    assert "failed" in rows[-1]
    assert 'data-v=""' in rows[-1]
    assert all(row.count("data-v=") == 10 for row in rows[:-1])


def test_what_was_tried_and_stopped_is_told(tmp_path):
    write_comparison(tmp_path, seeds=(0,))
    board = json.loads((tmp_path / "leaderboard.json").read_text())
    tried = [
        {
            "label": "lr=0.001",
            "settings": {"train.lr": 0.001},
            "status": "done",
            "value": 1.25,
            "step": 400,
            "steps": 400,
            "error": None,
        },
        {
            "label": "lr=0.01",
            "settings": {"train.lr": 0.01},
            "status": "stopped",
            "value": 2.5,
            "step": 100,
            "steps": 400,
            "error": None,
        },
        {
            "label": "lr=0.1",
            "settings": {"train.lr": 0.1},
            "status": "failed",
            "value": None,
            "step": 0,
            "steps": None,
            "error": HOSTILE,
        },
    ]
    board["rows"][1]["tuning"] = {
        "kind": "rates", "by": "loss", "seed": 0, "chosen": {"train.lr": 0.001}, "tried": tried,
        "at_edge": True, "train_seconds": 75.0, "steps": 500,
    }  # fmt: skip
    stopped = [{"name": f"full {HOSTILE}", "method": "full"} | tried[1]]
    board["halving"] = {"by": "loss", "stopped": stopped, "saved_share": 0.375, "risk": "Slow ones are lost."}
    (tmp_path / "leaderboard.json").write_text(json.dumps(board))
    page = render(tmp_path)
    text = Reader(page).text.replace("\u202f", " ")
    for part in (
        "0.001 1.250", "0.01 2.500 (stopped at step 100)", "0.1 failed", "best at the edge", "saved 38 %",
        "Slow ones are lost.", "1 configuration was stopped",
    ):  # fmt: skip
        assert part in text, part
    assert page.count('class="chosen"') == 1
    assert page.count("<script") == 1


def test_a_report_names_the_folders_of_no_machine(tmp_path):
    folder = write_comparison(tmp_path / "comparison")
    model, rows = str(tmp_path / "models/t5"), str(tmp_path / "rows.jsonl")
    board = json.loads((folder / "leaderboard.json").read_text())
    board |= {"model": model, "recipe": {"model": {"name": model}, "data": {"source": rows, "x": "/dev"}}}
    (folder / "leaderboard.json").write_text(json.dumps(board))
    (folder / "recipe.yaml").write_text(f"model: {model}\ndata: {rows}\n")
    for format in ("html", "md"):
        text = render(folder, format)
        assert str(tmp_path) not in text
        assert ">t5</span></h1>" in text if format == "html" else "ways to adapt t5" in text
    for named in ("model: ../models/t5", "data: ../rows.jsonl"):
        assert named in render(folder)
