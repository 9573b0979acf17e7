"""How a check says what it found. `assert` would be silent under `python -O`, and terse without pytest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


def expect(holds: bool, otherwise: str) -> None:
    """Raise an AssertionError that says `otherwise`, unless it holds."""
    if not holds:
        raise AssertionError(otherwise)


@contextlib.contextmanager
def broken(whose: str, promise: Callable[..., Any]) -> Iterator[None]:
    """Name the promise that is checked within: in the message of an AssertionError, and beside any other."""
    words = (promise.__doc__ or "").strip().partition("\n")[0]
    told = f"{whose} breaks the promise {promise.__name__!r}: {words}"
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{told}\n{error}") from error
    except Exception as error:
        error.add_note(told)
        raise
