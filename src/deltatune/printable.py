"""Text of others on its way to a terminal: nothing in it may move the cursor, recolour or reorder lines."""

from __future__ import annotations

import json
import re
from typing import Any

# C0 but tab and newline, DEL and C1 (escape sequences), marks that reorder a line, separators that some
# terminals break a line at, halves of surrogate pairs, which cannot be written at all, and what XML refuses.
_MARKS = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff"
_UNPRINTABLE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_MARKS}]")
_UNSAFE_IN_JSON = re.compile(f"[\x7f-\x9f{_MARKS}]")  # JSON itself escapes C0


def printable(text: object) -> str:
    r"""The text with each control character or mark of direction as its escape: `\x1b`, `\u202e`."""
    return _UNPRINTABLE.sub(lambda found: _escape(found[0]), str(text))


def printable_json(value: Any, *, indent: int | None = 2) -> str:
    """A value as JSON that is safe to print, and reads as the same value."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
