"""A notebook as a page: its texts, its code, and what the cells printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat

LONGEST = 60
"""Lines of an output that are shown."""


def notebook_page(path: Path) -> str:
    """Markdown of a notebook. Tables and reports that a notebook shows as HTML are here as text."""
    book = nbformat.read(path, as_version=4)
    parts = []
    for cell in book.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.source.strip():
            parts.append(f"```python\n{cell.source}\n```")
            parts += [shown for output in cell.outputs if (shown := _shown(output))]
    return "\n\n".join(parts) + "\n"


def _shown(output: Any) -> str | None:
    data = output.get("data", {})
    if "image/svg+xml" in data:
        return f'<div class="chart">{_joined(data["image/svg+xml"])}</div>'
    text = output.get("text") if output.output_type == "stream" else data.get("text/plain")
    if not text or output.output_type == "display_data":
        return None
    lines = _joined(text).rstrip().splitlines()
    rest = len(lines) - LONGEST
    shown = [*lines[:LONGEST], f"... {rest} more lines"] if rest > 0 else lines
    return "```text\n" + "\n".join(line.rstrip() for line in shown) + "\n```"


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
