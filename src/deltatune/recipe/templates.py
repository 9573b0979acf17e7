"""Templates: texts with `{column}` for a column of the row, and `{{` and `}}` for braces.

What stands between braces is a column's name and nothing else: no attribute, index, conversion or format, as
`str.format` has them. So any name can stand there (`0`, `meta.title`), and a template reaches nothing but
the row's texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[^{}]+")


@lru_cache(maxsize=1000)
def _pieces(template: str) -> tuple[tuple[str, bool], ...]:
    """The template's texts and columns in order; with each, whether it is a column's name.

    Raises:
        ValueError: A brace is not closed or not opened, or holds no name.
    """
    pieces = []
    place = 0
    while place < len(template):
        match = _PIECE.match(template, place)
        if match is None:
            raise ValueError(f"{template[place : place + 20]!r} is not a plain {{column}} field.")
        if match[1] is not None:
            pieces.append((match[1], True))
        else:
            pieces.append((match[0][0] if match[0] in ("{{", "}}") else match[0], False))
        place = match.end()
    return tuple(pieces)


def template_fields(template: str) -> list[str]:
    """List the columns that a template names.

    Raises:
        ValueError: A brace is not closed or not opened, or holds no name.
    """
    return [piece for piece, is_column in _pieces(template) if is_column]


def fill_template(template: str, columns: Mapping[str, str]) -> str:
    """Put the columns' texts in their places; each named column must be there."""
    return "".join(columns[piece] if is_column else piece for piece, is_column in _pieces(template))
