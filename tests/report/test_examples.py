from __future__ import annotations

import pytest

from deltatune.report.examples import marked

from .synthetic import HOSTILE


@pytest.mark.parametrize(
    ("text", "reference", "found"),
    [
        ("Rivers of Peru", "Rivers of Peru", "Rivers of Peru"),
        ("Rivers in Peru", "Rivers of Peru", "Rivers <del>of</del> <ins>in</ins> Peru"),
        ("Rivers of", "Rivers of Peru", "Rivers of <del>Peru</del> "),
        ("rivers of Peru", "Rivers of Peru", "rivers of Peru"),
        ("Cities of Iran", "Long and wide rivers of Peru", "<ins>Cities</ins> of <ins>Iran</ins>"),
        ("?!", "?!", "?!"),
        ("Long rivers of Peru", "rivers of Peru", "<ins>Long</ins> rivers of Peru"),
        ("all, but other", "not a word, the same", "<ins>all, but other</ins>"),
        ("positive", "negative", "<ins>positive</ins>"),
        ("\u65e5\u672c\u8a9e", "\u65e5\u672c\u4eba", "\u65e5\u672c <del>\u4eba</del> <ins>\u8a9e</ins>"),
        ("a <b>", "a <i>", "a &lt; <del>i</del> <ins>b</ins>&gt;"),
    ],
)
def test_words_that_differ_are_marked(text, reference, found):
    assert str(marked(text, reference)) == found


def test_what_a_model_wrote_stays_text():
    for text, reference in ((HOSTILE, "x"), ("a", HOSTILE), (HOSTILE, HOSTILE), (f"a {HOSTILE}", "a b")):
        assert "<script" not in marked(text, reference)
        assert "<img" not in marked(text, reference)
