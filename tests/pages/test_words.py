"""Pages are in plain words: a few forms that had to be read twice are not used again."""

from __future__ import annotations

import re

import pytest

from .blocks import ROOT, pages

UNITS = "tokens|seconds|numbers|bytes|lines?|rows|files?|loss|cross-entropy|FLOPs?|operations|times|ms|MB|GB"
PER = "token|second|row|step|parameter|word|layer|element|line|epoch|prediction|method|task|target|evaluation"
VERBS = "Reached|Shown|Refused|Meant|Counted|Spared|Told"
FORBIDDEN = {
    "a verb before its subject": rf"(?:^|[.:;] )(?:{VERBS}) (?:is|are|was|were)\b",
    "'a token' for 'per token'": rf"\b(?:{UNITS}) an? (?:{PER})\b",
    "a chain of 'so that'": r"\bso that\b[^.]*\bso that\b",
    "a clause as a noun": r"\b[Ww]hat is \w+ed (?:is|are|has|have|was|counts)\b",
    "a word of ours for one of the field": r"\bkept trunk\b|\bkept layers\b",
}
"""What is wrong -> how it looks."""
OLDER = ("docs/adr/", "docs/methods.md")
"""Decisions stay as they were written; methods.md is made of what methods say in the terminal."""


@pytest.mark.parametrize("page", [page for page in pages() if not page.startswith(OLDER)])
def test_pages_are_in_plain_words(page: str) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?=[-|#])", text)]
    found = [
        f"{wrong}: ...{paragraph[max(0, m.start() - 30) : m.end() + 30]}..."
        for paragraph in paragraphs
        for wrong, form in FORBIDDEN.items()
        for m in re.finditer(form, paragraph)
    ]
    assert not found
