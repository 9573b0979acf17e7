"""The report over several data sets: its words, its page and its tables claim no more than the numbers do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deltatune.cli import output, show_sets
from deltatune.errors import DeltatuneError
from deltatune.report import render, write_report
from deltatune.report.across_words import answer
from deltatune.report.rank_chart import Placed, level_groups, rank_chart
from deltatune.results import Across
from tests.report.synthetic import HOSTILE

RANKS = {"lora": 1.2, "dora": 1.9, "prefix": 2.9}


def content(*, sets: int = 4, names: dict[str, float] | None = None, **changes: Any) -> dict[str, Any]:
    """An outcome in which methods rank in the order of their names' ranks, all of them apart here."""
    ranks = RANKS if names is None else names
    used = [
        {
            "name": f"set {i}",
            "folder": f"sets/set-{i}",
            "test_rows": 90,
            "zero": 0.3,
            "one": 0.8,
            "tells": True,
        }
        for i in range(sets)
    ]
    rows: list[dict[str, Any]] = [
        {
            "name": name, "method": "lora", "rank": place + 1, "iqm": 1 - 0.2 * place,
            "interval": [0.9 - 0.2 * place, 1.1 - 0.2 * place], "interval_on_tasks": None, "mean_rank": rank,
            "on_sets": [
                {"set": each["name"], "score": 0.8, "interval": [0.7, 0.9], "rank": 1, "normalised": 0.9,
                 "error": None} for each in used
            ],
            "profile": {"shares": [1.0, 0.5], "low": [0.9, 0.4], "high": [1.0, 0.6]},
        }
        for place, (name, rank) in enumerate(ranks.items())
    ]  # fmt: skip
    critical = {
        "sets": sets, "methods": len(ranks), "statistic": 6.0, "p": 0.03, "difference": 1.5, "least": 3,
        "needed": 19,
    }  # fmt: skip
    whole = {
        "schema": 1, "task": "text-classification", "models": ["m"], "primary_metric": "accuracy", "seeds": 2,
        "sets": used, "yardstick": "majority", "rows": rows, "critical": critical, "levels": [0.0, 1.0],
        "recipe": {"data": [], "methods": [{"name": name} for name in ranks]},
    }  # fmt: skip
    return whole | changes


def words(**changes: Any) -> str:
    return answer(Across.of(content(**changes), "it", remedy=""))


def test_the_answer_is_for_these_sets_and_for_tasks_like_these() -> None:
    told = words()
    assert (
        "Over these four data sets, lora is best: its interquartile mean is 100.0 [90.0,\u00a0110.0]" in told
    )
    assert "On tasks like these, lora (mean rank 1.2) is shown to be better than prefix." in told
    assert "dora cannot be told from it there." in told
    assert "About 19 data sets would tell lora and dora apart" in told


def test_ties_are_told_as_ties() -> None:
    given = content()
    for row in given["rows"]:
        row["rank"] = 1
    given["critical"] = given["critical"] | {"difference": 2.5, "p": 0.4}
    told = answer(Across.of(given, "it", remedy=""))
    assert "lora, dora and prefix cannot be told apart" in told
    assert "no method is shown to be better than another: mean ranks differ by 1.7 at most" in told
    assert "p\u00a0=\u00a0.40" in told


def test_few_sets_say_how_many_it_takes() -> None:
    critical = content()["critical"]
    told = words(sets=2, critical=critical | {"sets": 2, "difference": None})
    assert "two data sets are too few, and three are the least" in told
    told = words(sets=4, critical=critical | {"difference": None, "least": 6})
    assert "even four data sets that all agree cannot tell two of three methods apart; it takes six" in told
    told = words(sets=4, critical=critical | {"difference": None})  # ranks that are shared on most sets
    assert "methods score alike on too many of these data sets" in told


def test_nothing_better_than_the_yardstick_and_failures_are_said() -> None:
    given = content()
    for row in given["rows"]:
        row["iqm"] -= 1.5
    given["rows"].append({
        "name": "ia3", "on_sets": [{"set": "set 2", "error": "the loss is not finite"}],
    })  # fmt: skip
    told = answer(Across.of(given, "it", remedy=""))
    assert "no method is better than majority" in told
    assert "ia3 failed on set 2, and takes no part in this." in told
    nobody = content(rows=given["rows"][-1:], critical=None)
    assert "No method finished on all four" in answer(Across.of(nobody, "it", remedy=""))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "across.json").write_text(json.dumps(content(names={HOSTILE: 1.2, "=1+1": 2.0})))
    return tmp_path


def test_the_page_escapes_names_and_links_each_set(folder: Path) -> None:
    page = write_report(folder).read_text()
    assert HOSTILE not in page
    assert "<script>alert" not in page
    assert 'href="sets/set-0/report.html"' in page
    assert "alert(&#34;x&#34;)" in page
    assert "\n'=1+1," in render(folder, "csv")


@pytest.mark.parametrize("name", ["javascript:alert(1)//", "sets/..", "sets/a/b", "/etc", 'sets/a"b'])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    given = content()
    given["sets"][0]["folder"] = name
    (tmp_path / "across.json").write_text(json.dumps(given))
    with pytest.raises(DeltatuneError, match="none of a data set"):
        render(tmp_path)


def test_brackets_join_what_cannot_be_told_apart() -> None:
    """Demsar 2006, figure 1 (a): mean ranks and the critical difference 1.25 of his four variants."""
    assert level_groups([1.964, 2.0, 2.893, 3.143], 1.25) == [(0, 3)]
    assert level_groups([1.0, 2.0, 2.5, 4.0], 1.5) == [(0, 1), (1, 2)]
    assert level_groups([1.0, 3.0], 1.5) == []
    methods = [Placed(name, place, rank) for place, (name, rank) in enumerate(RANKS.items())]
    assert rank_chart(methods, 1.5).count('class="level"') == 2
    assert rank_chart(methods, None).count('class="level"') == 0


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_shows_all_names_and_numbers(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = {"lora": 1.0, "lora r=8 targets=query+value dora=true": 2.0}
    given = content(sets=7, names=names, answer="Over these: lora.")
    for place, used in enumerate(given["sets"]):
        used["name"] = f"rows of the reviews {place}"
    monkeypatch.setattr(output, "stdout", lambda: Console(width=width, highlight=False))
    show_sets.across(Across.of(given, "it", remedy=""), tmp_path)
    printed = capsys.readouterr().out
    tables = printed[: printed.index("Over these")]
    assert all(len(line) <= width for line in tables.splitlines())
    assert "…" not in tables
    assert tables.count("80.0") == 2 * 7 + 1  # a mean is 80.0 as well
    assert "100.0 [90.0,\u00a0110.0]" in tables
    for word in ("targets=query+value", "dora=true", *(f"reviews {place}" for place in range(7))):
        assert word in tables
