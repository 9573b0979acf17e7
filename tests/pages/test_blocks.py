"""Every fenced block of README and docs/ holds, or says what it would need."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from .blocks import ELSEWHERE, ROOT, SHOWN, Block, blocks_of, inside, look_up, pages, run, validate_yaml

BLOCKS = [block for page in pages() for block in blocks_of(page)]
SLOW = ("docs/tutorial.md",)
"""Pages whose blocks take minutes."""
RUN = sorted({block.page for block in BLOCKS if block.mark == "test"})


def test_pages_that_are_tested_elsewhere_are_there() -> None:
    assert all((ROOT / page).exists() and (ROOT / where).exists() for page, where in ELSEWHERE.items())


def test_every_block_says_how_it_is_tested() -> None:
    unmarked = [
        f"{block} ({block.language})"
        for block in BLOCKS
        if not block.mark and block.language not in (*SHOWN, "yaml")
    ]
    assert not unmarked, "give these a mark (tests/pages/blocks.py says which)"


def test_every_mark_has_a_block() -> None:
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        marks = text.count("\n<!-- test") + text.count("\n<!-- needs:") + text.count("\n<!-- part:")
        assert marks == sum(block.mark is not None for block in blocks_of(page)), page


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "yaml" and block.mark in (None, "part")], ids=str
)
def test_recipes_are_valid(block: Block) -> None:
    validate_yaml(block)


def test_what_is_not_run_could_be() -> None:
    wrong = []
    for block in BLOCKS:
        if block.language == "bash":
            wrong += look_up(block)
        if block.language == "python":
            compile(block.code, str(block), "exec")
    assert not wrong


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page in SLOW else ()) for page in RUN]
)
def test_marked_blocks_work(page: str, tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    with inside(tmp_path):
        for block in blocks_of(page):
            if block.mark == "test":
                run(block, names)


SHORTER = {'"train": 1500': '"train": 100', "epochs: 3": "max_steps: 2"}


def test_the_tutorial_works_in_short(tmp_path: Path) -> None:
    """With a hundred rows, two steps and one method; `test_marked_blocks_work` follows it to the letter."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with inside(tmp_path):
        for block in blocks_of("docs/tutorial.md"):
            if block.mark == "test":
                code = block.code
                for long, short in SHORTER.items():
                    code = code.replace(long, short)
                if block.what:  # the other methods, and the baselines, train in the same way
                    code = re.sub(r"  - (prefix|bitfit).*\n", "", code) + "baselines: false\n"
                run(dataclasses.replace(block, code=code), names)
