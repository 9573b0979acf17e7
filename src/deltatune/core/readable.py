"""Which tokens make readable text that a tokenizer reads back as the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltatune.errors import TargetError

_PROBE = "zebra"
_STARTS = (_PROBE, "The", "good", "1", "a")
_SEPARATORS = (" ", "\n", "")


class Reader:
    """A tokenizer, seen from the side of a prompt that is put before texts.

    Args:
        tokenizer: The base's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.separator, self.end = self._ending()
        """What stands between the prompt and the input, as text and as token ids (none for a blank that the
        tokenizer puts before every word)."""
        self.beginnings = self._beginnings()
        """Token ids that come before the text of an input: those of an empty one, and of a chat's turn."""

    def ids(self, text: str) -> list[int]:
        """Token ids of `text` without special ones.

        Raises:
            TargetError: There are none.
        """
        found = list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if not found:
            raise TargetError(
                f"{text!r} has no tokens.",
                field="hard_prompt.initial",
                remedy="Give a text with words in it.",
            )
        return found

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, as it is."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def _texts(self, rows: list[list[int]]) -> list[str]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return [self.text(row) for row in rows]
        texts: list[str] = backend.decode_batch(rows, skip_special_tokens=False)  # 20 times as fast
        return texts

    def reads_back(self, ids: Sequence[int]) -> bool:
        """Whether the text of `ids`, put before an input, is tokenised to `ids`."""
        whole = self.ids(self.text(ids) + self.separator + _PROBE)
        return whole == [*ids, *self.end, *self.ids(_PROBE)]

    def words(self, size: int) -> list[int]:
        """The tokens below `size` that are whole printable words and read back, alone and twice in a row.

        Raises:
            TargetError: There is none.
        """
        special = set(self.tokenizer.all_special_ids)
        tokens = [i for i in range(min(size, len(self.tokenizer))) if i not in special]
        once, twice = (self._texts([[i] * n for i in tokens]) for n in (1, 2))
        words = [
            i
            for i, word, pair in zip(tokens, once, twice, strict=True)
            if word.strip().isprintable()
            and "\ufffd" not in word
            and word.strip()
            and pair.strip() == f"{word.strip()} {word.strip()}"
        ]
        texts = dict(zip(tokens, twice, strict=True))
        encoded = self.tokenizer([texts[i] for i in words], add_special_tokens=False, verbose=False)
        candidates = [i for i, ids in zip(words, encoded["input_ids"], strict=True) if list(ids) == [i, i]]
        if not candidates:
            raise TargetError(
                "the tokenizer has no token that reads back as itself.",
                field="method",
                remedy="Use prompt, whose vectors need no text.",
            )
        return candidates

    def _ending(self) -> tuple[str, tuple[int, ...]]:
        """The first separator that keeps the tokens of a word and of whatever follows it."""
        for separator in _SEPARATORS:
            ends = {self._between(" the", separator, start) for start in _STARTS}
            end = ends.pop()
            if not ends and end is not None:
                return separator, end
        return " ", ()

    def _between(self, word: str, separator: str, start: str) -> tuple[int, ...] | None:
        """Tokens that the separator adds; None if it changes those of the word or of what follows."""
        before, after, whole = self.ids(word), self.ids(start), self.ids(word + separator + start)
        rest = whole[len(before) : len(whole) - len(after)]
        return tuple(rest) if whole == [*before, *rest, *after] else None

    def _beginnings(self) -> tuple[tuple[int, ...], ...]:
        found = {self._before_probe(self.tokenizer(_PROBE, verbose=False)["input_ids"])}
        if getattr(self.tokenizer, "chat_template", None):
            turn = [{"role": "user", "content": _PROBE}]
            text = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            found.add(self._before_probe(self.ids(text)))
        return tuple(sorted(found - {()}))

    def _before_probe(self, ids: Sequence[int]) -> tuple[int, ...]:
        probe = self.ids(_PROBE)
        for start in range(len(ids) - len(probe) + 1):
            if list(ids[start : start + len(probe)]) == probe:
                return tuple(ids[:start])
        return ()
