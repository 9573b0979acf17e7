"""Byte-level tokenizers whose way to split a text into words llama.cpp has, under a name for each.

A file names the way, and does not describe it. So it is found by what tokenizer.json says: the very steps and
patterns. A tokenizer with others would be read by llama.cpp as if it had some of these, and a model would get
tokens that it never learned.
"""

from __future__ import annotations

from typing import Any

_CONTRACTED = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BEHIND_WORDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"{_CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
Step = tuple[str, Any]

_BYTES: Step = ("ByteLevel", True)
"""Bytes as letters, behind GPT-2's own pattern."""
_BARE: Step = ("ByteLevel", False)
KNOWN: dict[str, tuple[list[Step], bool]] = {
    "gpt-2": ([_BYTES], False),
    "smollm": ([("Digits", True), _BYTES], False),
    "llama-bpe": ([("Split", rf"{_WORDS}|\p{{N}}{{1,3}}{_BEHIND_WORDS}"), _BARE], True),
    "qwen2": ([("Split", rf"{_WORDS}|\p{{N}}{_BEHIND_WORDS}"), _BARE], False),
    "tekken": (
        [("Split", rf"{_UPPER}*{_LOWER}+|{_UPPER}+{_LOWER}*|\p{{N}}{_SLASH}"), _BARE],
        True,
    ),
    "gpt-4o": (
        [
            (
                "Split",
                rf"{_UPPER}*{_LOWER}+{_CONTRACTED}?|{_UPPER}+{_LOWER}*{_CONTRACTED}?|\p{{N}}{{1,3}}{_SLASH}",
            ),
            _BARE,
        ],
        False,
    ),
}
"""Steps by name, and whether a word that is a token counts as one before anything is merged."""
WITHOUT_MARKS = ("tekken", "gpt-4o")
"""Those that keep marks (accents, vowels as Hindi has them) with letters, which llama.cpp does not."""


def split_name(pre_tokenizer: Any, ignore_merges: bool) -> str | None:
    """llama.cpp's name of the way that a tokenizer.json splits texts; None if it has none.

    Args:
        pre_tokenizer: That part of the file.
        ignore_merges: What its model says.
    """
    steps = _steps(pre_tokenizer)
    return next((name for name, known in KNOWN.items() if known == (steps, ignore_merges)), None)


def described(pre_tokenizer: Any) -> str:
    """The steps, for a message."""
    return ", ".join(f"{kind} {setting!r}" for kind, setting in _steps(pre_tokenizer)) or "no steps"


def _steps(part: Any) -> list[Step]:
    if not isinstance(part, dict):
        return []
    kind = str(part.get("type"))
    if kind == "Sequence":
        return [step for each in part.get("pretokenizers", ()) for step in _steps(each)]
    if kind == "ByteLevel":
        begun = ", add_prefix_space" if part.get("add_prefix_space") else ""
        return [(kind + begun, part.get("use_regex", True))]
    if kind == "Digits":
        return [(kind, part.get("individual_digits", False))]
    if kind == "Split":
        pattern = part.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        plain = part.get("behavior") == "Isolated" and not part.get("invert")
        return [(kind if plain else f"{kind} {part.get('behavior')}", regex)]
    return [(kind, None)]
