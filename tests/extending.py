"""The examples of docs/extending.md, which are tested as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def example(name: str) -> str:
    """The code of the block that begins with this file's name."""
    found = re.search(rf"^```python\n# {re.escape(name)}\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert found, f"{PAGE.name} has no example {name}"
    return found[1]
