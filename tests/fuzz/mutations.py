"""Mutations of what people and strangers hand to deltatune: trees of plain values, texts and bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    10**400,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    -0.0,
    "",
    " ",
    "x",
    "\x00",
    "\ud7ff",
    "a" * 1000,
    "../..",
    "/etc/passwd",
    "{",
    "}",
    "{0}",
    "{a.b}",
    "[",
    "*",
    "(a+)+$",
    "bundled:",
    "hub:",
    "lora",
    "2024-13-45",
    "5e-4",
    "no",
    "\x1b[31m",
    "\u202e",
    "[/x]",
    [],
    [[]],
    [None],
    [1, 1],
    ["lora", "lora"],
    {},
    {"a": 1},
    {"from": 2, "to": 1, "steps": 3},
    {"lora": {"r": 0}},
)


def tree(value: Any, random: random.Random, keys: Sequence[str] = ()) -> Any:
    """The value with one place changed, dropped, doubled or renamed; `keys` are names worth adding."""
    if isinstance(value, dict) and random.random() < 0.85:
        changed = dict(value)
        key = random.choice(list(changed) or ["x"])
        kind = random.random()
        if kind < 0.6 and key in changed:
            changed[key] = tree(changed[key], random, keys)
        elif kind < 0.75 and keys:
            changed[random.choice(keys)] = random.choice(VALUES)
        elif kind < 0.9:
            changed.pop(key, None)
        else:
            changed[f"{key}x"] = changed.pop(key, None)
        return changed
    if isinstance(value, list) and random.random() < 0.85:
        changed_list = list(value)
        kind = random.random()
        if changed_list and kind < 0.6:
            at = random.randrange(len(changed_list))
            changed_list[at] = tree(changed_list[at], random, keys)
        elif kind < 0.8:
            changed_list.append(random.choice(VALUES))
        else:
            changed_list *= 2
        return changed_list
    return random.choice(VALUES)


def text(value: str, random: random.Random, pieces: Sequence[str]) -> str:
    """The text with letters replaced, removed or doubled, and `pieces` of its language put in."""
    letters = list(value)
    for _ in range(random.randint(1, 6)):
        at, kind = random.randrange(len(letters) or 1), random.random()
        if kind < 0.3 and letters:
            letters[at] = chr(random.choice((random.randrange(32, 127), random.randrange(0xD7FF))))
        elif kind < 0.5 and letters:
            del letters[at]
        elif kind < 0.8:
            letters.insert(at, random.choice(pieces))
        else:
            start = random.randrange(len(letters) or 1)
            letters[at:at] = letters[start : start + random.randint(1, 30)]
    return "".join(letters)


def raw(value: bytes, random: random.Random) -> bytes:
    """The bytes with a few changed, most of them near the start, where headers are; or cut short."""
    changed = bytearray(value)
    for _ in range(random.randint(1, 4)):
        near = min(len(changed), 2000) if random.random() < 0.7 else len(changed)
        changed[random.randrange(near)] = random.randrange(256)
    return bytes(changed[: random.randrange(len(changed))] if random.random() < 0.1 else changed)
