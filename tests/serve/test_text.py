"""Pieces of a text that grows, by tokenizers that write again what they have written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from transformers import PreTrainedTokenizerBase

from deltatune.serve.engine.text import Growing

TOKENS = ["I", " do", " n", "'", "t", " know", " .", " It", " '", "s", " mine", " ,", " no", " ?", " n", " ."]


def cleaned(ids: Sequence[int]) -> str:
    """As Transformers' tokenizers clean up."""
    text = "".join(TOKENS[id_] for id_ in ids)
    return PreTrainedTokenizerBase.clean_up_tokenization(None, text)  # type: ignore[arg-type]


def shifting(ids: Sequence[int]) -> str:
    """Writes in capitals what has a point behind it."""
    text = "".join(TOKENS[id_] for id_ in ids)
    return text.upper() if "." in text else text


def told(growing: Growing) -> list[str]:
    """Pieces."""
    ids = list(range(len(TOKENS)))
    pieces = [growing.grown(ids[: size + 1])[0] for size in ids]
    return [*pieces, growing.ended(ids)]


@pytest.mark.parametrize("strips", [True, False])
def test_what_is_cleaned_up_is_told_when_it_is_whole(strips: bool) -> None:
    growing = Growing(cleaned, strips=strips)
    pieces = told(growing)
    assert "".join(pieces) == growing.whole == "I don't know. It's mine, no? n."
    assert pieces[:2] == ["I", " do"]


@pytest.mark.parametrize("decode", [cleaned, shifting])
def test_the_whole_is_what_is_decoded_at_last(decode: Callable[[Sequence[int]], str]) -> None:
    growing = Growing(decode, ["nowhere"])
    pieces = told(growing)
    assert growing.whole == decode(range(len(TOKENS)))
    assert "".join(pieces).endswith(growing.whole[-8:])
