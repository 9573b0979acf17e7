"""Why a request is not answered, in the engine's words; which status that is, `http/errors.py` says."""

from __future__ import annotations

from typing import Literal

from deltatune.errors import DeltatuneError

Reason = Literal[
    "invalid",  # as it is written it cannot be answered
    "unauthorized",  # it lacks the token
    "forbidden",  # it comes from a page of another origin, or asks for what is not offered
    "unknown",  # no such delta, no such route
    "too_long",  # more tokens than the model reads
    "too_large",  # more bytes than are read
    "too_slow",  # its bytes did not come
    "busy",  # the queue is full
    "late",  # its time is over
    "stopping",  # the server stops
    "loading",  # the model is not there yet
    "memory",  # its batch does not fit
    "failed",  # computing it failed
    "gone",  # whoever asked has left
]


class Refusal(DeltatuneError):
    """A request is not answered, and others are not disturbed.

    Args:
        reason: Why, in a word.
        what: As of every error.
        field: The field of the request.
        remedy: As of every error.
    """

    def __init__(
        self, reason: Reason, what: str, *, field: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(what, field=field, remedy=remedy)
        self.reason: Reason = reason
