"""Answers in the shapes of OpenAI's API."""

from __future__ import annotations

import base64
import json
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from deltatune.serve.deltas.served import Served
from deltatune.serve.engine.sampling import Chosen
from deltatune.serve.engine.text import BROKEN
from deltatune.serve.engine.work import Written

Decode = Callable[[Sequence[int]], str]


class Head:
    """What all pieces of one answer have in common.

    Args:
        kind: `chat.completion` or `text_completion`.
        model: Who answers.
    """

    def __init__(self, kind: str, model: str) -> None:
        prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self.kind = kind

    def of(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """An answer, or a piece of one."""
        return {**self._head, "object": self.kind, "choices": choices, **more}


def usage(texts: Sequence[Written]) -> dict[str, int]:
    """Tokens that were read and written; the one that ends a text counts as none."""
    read = sum(text.read for text in texts)
    written = sum(len(text.tokens) for text in texts)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def chat_logprobs(tokens: Sequence[Chosen], decode: Decode) -> dict[str, Any]:
    """Log-probabilities as a chat's answer has them."""
    content = [
        {
            **_token(chosen.token, chosen.logprob, decode),
            "top_logprobs": [_token(token, value, decode) for token, value in chosen.likeliest],
        }
        for chosen in tokens
    ]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[Chosen], decode: Decode, start: int) -> dict[str, Any]:
    """The same as a completion has them; `start` is the offset of the first token in the text."""
    texts = [decode([chosen.token]) for chosen in tokens]
    offsets = [start + sum(map(len, texts[:place])) for place in range(len(texts))]
    top = [{decode([token]): _finite(value) for token, value in chosen.likeliest} for chosen in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [_finite(chosen.logprob) for chosen in tokens],
        "top_logprobs": top,
        "text_offset": offsets,
    }


def _token(token: int, logprob: float | None, decode: Decode) -> dict[str, Any]:
    text = decode([token])
    known = BROKEN not in text  # a token may be a part of a character, which has no text
    return {
        "token": text,
        "logprob": _finite(logprob),
        "bytes": list(text.encode()) if known else None,
    }


def _finite(value: float | None) -> float:
    """A log-probability that JSON can hold: OpenAI writes -9999 for what cannot be."""
    return -9999.0 if value is None or value < -9999.0 else value


def vector(numbers: Sequence[float], encoding: str) -> list[float] | str:
    """A vector as numbers, or as base64 of its float32 in little-endian order."""
    if encoding == "float":
        return list(numbers)
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def event(content: dict[str, Any] | str) -> str:
    """A server-sent event."""
    return f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n"


def card(served: Served, attached: bool) -> dict[str, Any]:
    """A model in the list of models; keys from `task` on are ours."""
    task, run = served.task, served.run
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "deltatune",
        "task": task.name,
        "method": run.method,
        "base": run.base.name,
        "reads": task.reads,
        "writes": task.writes_text,
        "chats": served.chats,
        "labels": run.encoder.labels,
        "template": run.recipe.data.template if task.reads == "text" else None,
        "in_memory": attached,
    }
