"""The panel of certificates: from certificate.json, and from result.json for runs that have none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deltatune.report import render

from .synthetic import HOSTILE, write_comparison


def cards(page: str) -> dict[tuple[str, str], str]:
    """The card of each run, by method and seed."""
    found = re.findall(r'<article class="card (?:sound|failure)".*?</article>', page, re.DOTALL)
    assert found
    return {(re.search(r"<bdi>(.*?)</bdi>", c)[1], re.search(r"seed (\d+)", c)[1]): c for c in found}


def proved(folder: Path, run: str, **content: Any) -> None:
    (folder / "runs" / run / "certificate.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_comparison(tmp_path)


def test_a_card_shows_each_line_and_the_hash_of_its_delta(folder: Path) -> None:
    lines = [
        {"check": "targets reached", "passed": True, "detail": "12 modules (query 6, value 6)", "values": {}},
        {"check": "same after reload", "passed": True, "detail": f"differ by up to 0 {HOSTILE}"},
        {"check": "base unchanged", "passed": True, "detail": "sha256 ab before and after"},
    ]
    proved(folder, "adalora-s1", schema=1, passed=True, delta={"sha256": "0123456789abcdef" * 4}, lines=lines)
    page = render(folder)
    card = cards(page)["adalora", "1"]
    assert "3 of 3 checks passed" in card
    assert "12 modules (query 6, value 6)" in card
    assert "delta sha256 0123456789abcdef<" in card
    assert HOSTILE not in page
    assert "2 of 2 checks passed" in cards(page)["adalora", "0"]  # a run from before certificate.json


def test_a_failed_line_is_open_and_tells_the_remedy(folder: Path) -> None:
    lines = [
        {"check": "targets reached", "passed": True, "detail": "12 modules"},
        {
            "check": "every tap fired",
            "passed": False,
            "detail": "1 of 12 did not",
            "remedy": "Choose others.",
        },
    ]
    proved(folder, "prompt-s0", schema=1, passed=False, delta=None, lines=lines)
    card = cards(render(folder))["prompt", "0"]
    assert card.startswith('<article class="card failure"')
    assert "<details open>" in card
    assert "1 of 2 checks passed" in card
    assert "1 of 12 did not. Choose others." in card
    assert "delta sha256" not in card


@pytest.mark.parametrize("content", [{}, {"lines": None}, {"lines": ["text", {"passed": True}]}])
def test_a_certificate_of_another_shape_does_not_stop_the_page(folder: Path, content: Any) -> None:
    proved(folder, "adalora-s0", **content)
    card = cards(render(folder))["adalora", "0"]
    assert "No checks were recorded." in card or "1 of 1 checks passed" in card
