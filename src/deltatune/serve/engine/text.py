"""Text that grows token by token: handed on in pieces that make up the whole, and cut where it shall stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REWRITTEN = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""What tokenizers that clean up write without its blank (`clean_up_tokenization_spaces`)."""
BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer gives for bytes that are no whole character yet."""


class Growing:
    """A text in the midst of being written.

    The pieces, put together, are what decoding all tokens at once gives: what may still change is held back,
    such as a character of which bytes are missing, the beginning of what the text shall stop at or of what a
    tokenizer writes in another way when it is whole, and blanks at the end, which are not part of the text.

    Args:
        decode: Gives the text of ids.
        stops: Texts before which it ends; none of them is empty.
        strips: Whether blanks around the text are no part of it, as in what `predict` gives.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = (), *, strips: bool = True
    ) -> None:
        self._decode, self._stops, self._strips = decode, tuple(stops), strips
        self._told = self._whole = ""

    def grown(self, ids: Sequence[int]) -> tuple[str, bool]:
        """What is new with these ids, which are all so far; and whether a text to stop at has come."""
        text = self._decode(ids)
        place = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=None)
        if place is not None:
            return self._new(self._stripped(text[:place])), True
        text = self._stripped(text.rstrip(BROKEN))
        held = max(_overlap(text, each) for each in (*self._stops, *_REWRITTEN))
        return self._new(self._stripped(text[: len(text) - held])), False

    def ended(self, ids: Sequence[int]) -> str:
        """What is left, with these ids as all that there will be."""
        return self._new(self._stripped(self._decode(ids)))

    @property
    def whole(self) -> str:
        """The text so far: all pieces together, unless the tokenizer wrote again what was told."""
        return self._whole

    def _stripped(self, text: str) -> str:
        return text.strip() if self._strips else text

    def _new(self, text: str) -> str:
        """What is new in a text: from where it differs, if a tokenizer wrote again what was told."""
        self._whole = text
        if self._told.startswith(text):
            return ""
        pairs = zip(self._told, text, strict=False)
        same = next((place for place, (old, new) in enumerate(pairs) if old != new), len(self._told))
        self._told = text
        return text[same:]


def _overlap(text: str, stop: str) -> int:
    """How many letters at the end of a text are the beginning of what it shall stop at."""
    most = min(len(text), len(stop) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(stop[:size])), 0)
