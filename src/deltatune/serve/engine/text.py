"""Text that grows token by token: handed on in pieces that make up the whole, and cut where it shall stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer gives for bytes that are no whole character yet."""


class Growing:
    """A text in the midst of being written.

    The pieces, put together, are what decoding all tokens at once gives: what may still change is held back,
    such as a character of which bytes are missing, the beginning of what the text shall stop at, and blanks
    at the end, which are not part of the text.

    Args:
        decode: Gives the text of ids.
        stops: Texts before which it ends; none of them is empty.
        strips: Whether blanks around the text are no part of it, as in what `predict` gives.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = (), *, strips: bool = True
    ) -> None:
        self._decode, self._stops, self._strips = decode, tuple(stops), strips
        self._told = ""

    def grown(self, ids: Sequence[int]) -> tuple[str, bool]:
        """What is new with these ids, which are all so far; and whether a text to stop at has come."""
        text = self._decode(ids)
        place = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=None)
        if place is not None:
            return self._new(self._stripped(text[:place])), True
        text = self._stripped(text.rstrip(BROKEN))
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        return self._new(self._stripped(text[: len(text) - held])), False

    def ended(self, ids: Sequence[int]) -> str:
        """What is left, with these ids as all that there will be."""
        return self._new(self._stripped(self._decode(ids)))

    @property
    def told(self) -> str:
        """All pieces together."""
        return self._told

    def _stripped(self, text: str) -> str:
        return text.strip() if self._strips else text

    def _new(self, text: str) -> str:
        if not text.startswith(self._told):  # a tokenizer wrote what was there in another way
            return ""
        new = text[len(self._told) :]
        self._told = text
        return new


def _overlap(text: str, stop: str) -> int:
    """How many letters at the end of a text are the beginning of what it shall stop at."""
    most = min(len(text), len(stop) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(stop[:size])), 0)
