"""A page about thousands of methods opens in a browser: it grows with the methods, not with their pairs."""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from types import FrameType

import pytest

from deltatune.report import render
from deltatune.report.ranking import LEADING
from tests.report.synthetic import write_comparison


def of_many(folder: Path, count: int) -> None:
    """A board of so many methods, whose runs are those of one."""
    path = folder / "leaderboard.json"
    board = json.loads(path.read_bytes())
    row = next(row for row in board["rows"] if row["method"] == "lora")
    board["rows"] = [
        row
        | {"name": f"m{i}", "rank": 1 + i, "metrics": {"rougeL_f": 0.9 - i / 4000}}
        | {"cost": {"train_seconds": 60.0}}
        for i in range(count)
    ]
    pair = {"difference": 0.1, "low": 0.05, "high": 0.15, "p": 0.01, "tie": False}
    kept = [*combinations(range(LEADING), 2), *((0, i) for i in range(LEADING, count))]
    board["pairs"] = [pair | {"a": f"m{i}", "b": f"m{j}"} for i, j in kept]
    settings = [{"name": f"m{i}", "lora": {"r": i}, "train": {"lr": 0.1}} for i in range(count)]
    board["recipe"] = {"task": "text-to-text", "methods": settings}
    path.write_text(json.dumps(board))


def calls_of_rendering(folder: Path) -> tuple[int, str]:
    """How many functions of the report are called for a page, and the page."""
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and "report" in frame.f_code.co_filename

    sys.setprofile(count)
    try:
        page = render(folder)
    finally:
        sys.setprofile(None)
    return calls, page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_comparison(tmp_path_factory.mktemp("many"), seeds=(0,), rows=6)
    (folder / "runs/lora-s0/metrics.jsonl").write_text("")
    return folder


def test_a_page_grows_with_the_methods_and_not_with_their_pairs(folder: Path) -> None:
    found = {}
    for count in (70, 100, 130):
        of_many(folder, count)
        found[count] = calls_of_rendering(folder)
    more, still_more = (found[b][0] - found[a][0] for a, b in ((70, 100), (100, 130)))
    assert still_more < 1.1 * more  # no call for each two methods
    sizes = {count: len(page) for count, (_, page) in found.items()}
    assert sizes[130] - sizes[100] < 30 * 2500  # a row of the table
    page = found[130][1]
    assert "What follows is of the first 60. The other 70 are in this table" in page
    assert all(f'data-v="m{i}"' in page for i in range(130))
    assert page.count('class="card sound"') + page.count('class="card failure"') == LEADING


def test_a_page_of_few_tells_all(folder: Path) -> None:
    of_many(folder, LEADING)
    assert "What follows" not in render(folder)
