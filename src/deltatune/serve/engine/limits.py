"""How much the engine takes at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what one server computes and keeps."""

    rows: int = 32
    """Rows of one pass: texts that are written at once, inputs that are answered at once."""
    queue: int = 256
    """Requests that may wait."""
    gather: float = 0.004
    """Seconds that an input waits for others to share its pass, where no text is written."""
    prefill: int = 4096
    """Tokens of prompts, padding included, that are read in one pass, for which the others wait."""
    seconds: float = 120.0
    """Until a request is answered, the time in the queue included."""
    tokens: int = 1024
    """Tokens that a request may have written."""
    inputs: int = 64
    """Inputs of one request."""
    characters: int = 200_000
    """Of one text; it is refused before it is cut into tokens."""
    body: int = 16 << 20
    """Bytes of a request."""
