"""One message of a conversation, brought into the form that chat templates of Transformers read.

Roles have several names; what becomes of them is one of four. Parts of text are put together, and a call of a
tool has its arguments as an object, though OpenAI writes their JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltatune.data.cells import as_text
from deltatune.errors import DataError

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "ai": "assistant", "model": "assistant", "bot": "assistant",
    "chatgpt": "assistant", "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool",
}  # fmt: skip
"""What roles are called, and what they are."""
OURS = ("role", "from", "content", "value", "train", "weight", "tool_calls", "function_call")
"""Keys of a message that are brought into one form; others are handed on to the template."""

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, and whether it may be learned where it is the assistant's."""

    message: Message
    learned: bool = True

    @classmethod
    def of(cls, role: str, content: str) -> Turn:
        """A message that is a text."""
        return cls({"role": role, "content": content})

    @property
    def role(self) -> str:
        """Whose it is."""
        return str(self.message["role"])


def parsed(value: Any) -> Any:
    """A cell, or the JSON that it writes."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def listed(value: Any) -> Any:
    """A cell as `parsed` gives it; of an object of lists, which `datasets` may make, the list of objects."""
    found = parsed(value)
    if isinstance(found, dict) and found and all(isinstance(column, list) for column in found.values()):
        try:
            return [dict(zip(found, items, strict=True)) for items in zip(*found.values(), strict=True)]
        except ValueError:
            return found
    return found


def role_of(item: Mapping[str, Any]) -> str | None:
    """Whose a message is; None if it does not say so, or by a name that is not known."""
    name = item.get("role", item.get("from"))
    return ROLES.get(name.strip().lower()) if isinstance(name, str) else None


def turn_of(item: Any, where: str) -> Turn:
    """Make a message of what a row holds.

    Raises:
        DataError: It is none, or holds what is no text.
    """
    if not isinstance(item, dict):
        raise DataError(
            f"is no message but {str(item)[:40]!r}.",
            field=where,
            remedy='Write {"role": ..., "content": ...}.',
        )
    if (role := role_of(item)) is None:
        name = item.get("role", item.get("from"))
        raise DataError(
            f"has the role {str(name)[:40]!r}." if name is not None else "has no role.",
            field=where,
            remedy=f"Roles are system, user, assistant and tool; also known: {', '.join(ROLES)}.",
        )
    calls = _tool_calls(item, where)
    content = _content(item.get("content", item.get("value")), where, needed=not calls)
    others = {key: value for key, value in item.items() if key not in OURS and value is not None}
    message = {"role": role, "content": content, **others, **({"tool_calls": calls} if calls else {})}
    return Turn(message, _may_be_learned(item, where))


def _may_be_learned(item: Mapping[str, Any], where: str) -> bool:
    """What a message says of itself: `train: false`, or `weight: 0` as OpenAI has it."""
    train, weight = item.get("train"), item.get("weight")
    if train not in (None, True, False) or weight not in (None, 0, 1):
        key, value = ("train", train) if train not in (None, True, False) else ("weight", weight)
        raise DataError(
            f"has {key}: {value!r}.", field=where, remedy="Write train: true or false, or weight: 0 or 1."
        )
    return train is not False and weight != 0


def _content(value: Any, where: str, *, needed: bool) -> str:
    """What a message says as one text; parts of text are put together."""
    if isinstance(value, list):
        return "".join(_part(part, where) for part in value)
    if value is None and not needed:
        return ""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise DataError(
            "has no content." if value is None else f"has content that is no text: {as_text(value)[:40]!r}.",
            field=where,
            remedy="Give the text that was said, or remove the message.",
        )
    return as_text(value)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    raise DataError(
        "has a part of text that holds none."
        if kind == "text"
        else f"has a part of the type {str(kind)[:40]!r}; only text can be learned.",
        field=where,
        remedy="Remove the row, or put the part's text in its place.",
    )


def _tool_calls(item: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Calls of tools as Transformers' templates read them: arguments are an object, not its JSON."""
    calls = parsed(item.get("tool_calls"))
    if calls is None and isinstance(item.get("function_call"), dict):
        calls = [item["function_call"]]
    if calls is None:
        return []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise DataError(
            f"has tool_calls that are no list of objects: {as_text(calls)[:40]!r}.",
            field=where,
            remedy='Write [{"type": "function", "function": {"name": ..., "arguments": {...}}}].',
        )
    return [_call(call, where) for call in calls]


def _call(call: dict[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(
            f"calls a tool without a name: {as_text(call)[:40]!r}.",
            field=where,
            remedy='Write {"type": "function", "function": {"name": ..., "arguments": {...}}}.',
        )
    arguments = parsed(function.get("arguments"))
    made = {"name": function["name"], "arguments": {} if arguments is None else arguments}
    rest = {key: value for key, value in call.items() if key in ("id", "type") and value is not None}
    return {"type": "function", **rest, "function": made}


def with_json(message: Message) -> Message:
    """The message with the arguments of its calls as JSON, as OpenAI writes them."""
    calls = [
        {**call, "function": {**call["function"], "arguments": as_text(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, **({"tool_calls": calls} if calls else {})}


def said(message: Message) -> str:
    """What a message says, with the tools that it calls."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join([message["content"], *calls] if message["content"] or not calls else calls)


def shown(messages: Sequence[Message]) -> str:
    """What is said in some messages, for people; a single turn of the user's as it is."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return said(messages[0])
    return "\n".join(f"{message['role']}: {said(message)}" for message in messages)
