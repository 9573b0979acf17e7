"""Texts of others on a page in Markdown."""

from __future__ import annotations

import re

from deltatune.printable import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


def plain(text: object) -> str:
    """A text of others in one line, in which no sign is taken for markup."""
    line = " ".join(printable(text).split())
    return _SPECIAL.sub(r"\\\1", line)
