"""What one thread of a process does at a time."""

from __future__ import annotations

import contextlib
import threading


class _Alone(contextlib.ContextDecorator):
    """Lets one thread at a time do what the function does.

    Transformers changes torch for all threads while it loads a model, so that two that load at once both
    fail; and random numbers come from one generator, so that two runs at once would have each other's.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


alone = _Alone()
