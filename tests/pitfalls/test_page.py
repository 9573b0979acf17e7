"""The page of pitfalls is complete, and what runs it notices what differs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pitfalls import page
from tests.pitfalls.page import SECTIONS

ROOT = Path(__file__).parents[2]


def test_every_section_is_tested() -> None:
    tests = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("test_*.py"))]
    tested = [heading for text in tests for heading in re.findall(r'read\("(.+?)"\)', text)]
    assert sorted(tested) == sorted(SECTIONS.keys() - {"", "Setup"})
    for heading in tested:
        languages = [block.language for block in SECTIONS[heading]]
        assert languages[:2] == ["python", "text"], heading  # the mistake, and what it prints
        assert {"console", "python"} & set(languages[2:]), heading  # ours


def test_the_page_is_linked_and_lists_its_sections() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    anchors = [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in SECTIONS]
    assert re.findall(r"\]\(#([^)]+)\)", text) == anchors[2:]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "[Pitfalls](docs/concepts/pitfalls.md) reproduces two dozen such mistakes" in readme
    assert len(anchors) - 2 >= 24
    assert "(concepts/pitfalls.md)" in (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("wanted", "printed"),
    [
        ("one\ntwo", "one\nthree"),
        ("one", "one\ntwo"),
        ("one\ntwo", "one"),
        ("...\ntwo", "one\nthree"),
        ("5 of 6", "6 of 6"),
        ("loss 1.20", "loss 1.50"),
        ("by 0.000", "by 0.004"),
        ("Warning: 3 rows ...", "Warning: 4 rows of many"),
    ],
)
def test_another_output_is_noticed(wanted: str, printed: str) -> None:
    with pytest.raises(AssertionError):
        page.compare(wanted, printed)


def test_left_out_lines_and_rounding_are_allowed() -> None:
    page.compare("a\n...\nloss 1.20, 5 steps\nand so ...", "a\nb\nc\nloss 1.24, 5 steps\nand so on and on")
