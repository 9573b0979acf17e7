"""Which turns of a conversation are written: up to its last answer or before it, and as many as a limit lets.

Too long a conversation loses its oldest turns, up to a message of the user's; system messages stay.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from deltatune.data.rows import Conversation


def answered(talk: Conversation) -> Conversation:
    """Up to its last answer: nothing behind it is learned."""
    last = max(place for place, message in enumerate(talk.messages) if message["role"] == "assistant")
    return replace(talk, messages=talk.messages[: last + 1], learned=talk.learned[: last + 1])


def asked(talk: Conversation) -> Conversation:
    """Without its last answer, where it ends by one."""
    if talk.messages[-1]["role"] != "assistant":
        return talk
    return replace(talk, messages=talk.messages[:-1], learned=talk.learned[:-1])


def fitting(
    whole: Conversation, limit: int, length: Callable[[Conversation], int]
) -> tuple[Conversation, int]:
    """The conversation with as few of its oldest turns left out as the limit asks for, and its length.

    Without all but the last turns it may still be too long.
    """
    if (count := length(whole)) <= limit:
        return whole, count
    roles = [message["role"] for message in whole.messages]
    first = next((place for place, role in enumerate(roles) if role != "system"), 0)
    last = len(roles) - 1 if roles[-1] == "assistant" else len(roles)
    starts = [place for place in range(first + 1, last) if roles[place] == "user"]
    if not starts:
        return whole, count
    fits = bisect_left(starts, True, key=lambda start: length(_from(whole, first, start)) <= limit)
    talk = _from(whole, first, starts[min(fits, len(starts) - 1)])
    return talk, length(talk)


def _from(talk: Conversation, first: int, start: int) -> Conversation:
    """System messages, which end at `first`, and what is said from `start` on."""
    kept = [*range(first), *range(start, len(talk.messages))]
    return replace(
        talk,
        messages=tuple(talk.messages[place] for place in kept),
        learned=tuple(talk.learned[place] for place in kept),
    )
