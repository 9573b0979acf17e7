"""Conversations in the forms that people have them in, each made a list of messages.

| form | columns |
|---|---|
| messages | a list of `{role, content}`, with `tool_calls`, and `tools` beside it |
| sharegpt | a list of `{from, value}` |
| alpaca | `instruction`, `input` and `history` (may be missing), `output`; Dolly's `context` and `response` |
| prompt-completion | `prompt` and `completion`, texts or lists of messages; other pairs of names too |

Of preference data the `chosen` answer is learned, and `rejected` is never taken by itself.

Lists may also stand as JSON in a text, as in CSV. A text `system` beside them is a first message. Each
form is told by the columns of the first row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltatune.data.cells import as_text, columns_as_text
from deltatune.data.messages import Turn, listed, parsed, role_of, said, shown, turn_of
from deltatune.data.rows import Conversation, Record, Row, each_row
from deltatune.errors import DataError
from deltatune.recipe.sections import CONVERSATION_FORMS, ColumnsSpec, DataSpec

LISTS = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue")
"""Columns of lists, the likeliest first; another that holds one does as well."""
PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("prompt", "chosen"),
    ("question", "chosen"), ("input", "target"),
)  # fmt: skip
"""Columns of what is asked and what is answered; the last may be alpaca's too."""


_OF_LISTS = ("messages", "sharegpt")


@dataclass(frozen=True, slots=True)
class Form:
    """How the rows of a source write conversations."""

    name: str
    """One of `CONVERSATION_FORMS`."""
    columns: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.columns))
        return f"{self.name} ({'column' if len(self.columns) == 1 else 'columns'} {names})"


def conversation_rows(records: Sequence[Record], spec: DataSpec) -> list[Row]:
    """Make rows of records: with what is said, and what comes before the last answer as `input`.

    Args:
        records: At least one.
        spec: The recipe's data section.

    Raises:
        DataError: A row is no conversation, or has no answer to learn; how many there are is said.
    """
    form = find_form(records[0], spec)
    return each_row(records, lambda record, number: _row(record, form, spec.columns.id, number))


def asked_row(value: str | Mapping[str, Any], spec: DataSpec, row_id: str) -> Row:
    """Make a row of what is to be answered: a text as the user's only turn, or a row, maybe as JSON.

    If the columns hold the answer too, as a row of test data does, it is left out.

    Raises:
        DataError: They are no conversation.
    """
    where = f"input {row_id}"
    written = parsed(value)
    if isinstance(written, dict) and any(map(_kind, written.values())):  # a row, as a line of JSON
        value = written
    if isinstance(value, Mapping):
        record = Record(where, dict(value))
        conversation = read(record, find_form(record, spec, answered=False), answered=False)
    else:
        conversation = Conversation(({"role": "user", "content": value},), (False,))
    messages = conversation.messages
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not any(message["content"].strip() for message in messages):
        raise DataError("has nothing to answer.", field=where, remedy="Give a message of the user's.")
    conversation = Conversation(messages, (False,) * len(messages), conversation.tools)
    return Row(row_id, shown(messages), "", {}, conversation)


def find_form(record: Record, spec: DataSpec, *, answered: bool = True) -> Form:
    """Tell how a row writes its conversation: by the columns that the recipe names, or by those that it has.

    Args:
        record: The row.
        spec: The recipe's data section.
        answered: Whether there must be an answer; else what is asked will do.

    Raises:
        DataError: It writes none.
    """
    columns, named = record.columns, spec.columns
    wanted = spec.format if spec.format in CONVERSATION_FORMS else None
    for form in _named(columns, named) or _known(columns, answered):
        if wanted in (None, form.name) and all(name in columns for name in form.columns):
            return form
    meant = [name for name in LISTS if name in columns and not _kind(columns[name])]
    if meant and named.input == "auto" and wanted in (None, *_OF_LISTS):
        return Form(wanted or "messages", (meant[0],))  # it holds none, and why is told where it is read
    as_what = f" written as {wanted}" if wanted else ""
    raise DataError(
        f"holds no conversation{as_what}; it has the columns {', '.join(map(repr, columns))}.",
        field=record.where,
        remedy="Give a column of messages (role and content, or from and value), instruction and output, or "
        "prompt and completion; others are named by data.columns.input (messages, or what is asked) and "
        "data.columns.target (what is answered).",
    )


def _named(columns: Mapping[str, Any], named: ColumnsSpec) -> list[Form]:
    """The form that the recipe's columns mean."""
    if named.input == "auto":
        return []
    if isinstance(named.target, str) and named.target != "auto":
        return [Form("prompt-completion", (named.input, named.target))]
    kind = _kind(columns.get(named.input)) or "prompt-completion"
    return [Form(kind, (named.input,))]


def _known(columns: Mapping[str, Any], answered: bool) -> list[Form]:
    """The forms that the columns themselves may be."""
    names = dict.fromkeys([*(name for name in LISTS if name in columns), *columns])
    names.pop("rejected", None)
    pairs = {name for pair in PAIRS for name in pair} - ({"chosen"} if _is_whole(columns) else set())
    forms = [Form(kind, (name,)) for name in names if name not in pairs and (kind := _kind(columns[name]))]
    forms += [Form("prompt-completion", pair) for pair in PAIRS[:-1]]
    forms += [Form("alpaca", ("instruction", answer)) for answer in ("output", "response")]
    forms.append(Form("prompt-completion", PAIRS[-1]))
    if not answered:
        forms += [Form("prompt-completion", pair[:1]) for pair in PAIRS[:-1]]
        forms += [Form("alpaca", ("instruction",)), Form("prompt-completion", PAIRS[-1][:1])]
    # A column of a pair may hold a whole conversation.
    return forms + [Form(kind, (name,)) for name in names if name in pairs and (kind := _kind(columns[name]))]


def _is_whole(columns: Mapping[str, Any]) -> bool:
    """Whether a chosen conversation begins with what was asked, which else stands in a column beside it."""
    items = listed(columns.get("chosen"))
    return _kind(items) is not None and role_of(items[0]) != "assistant"


def _kind(value: Any) -> str | None:
    """Which list of messages a cell holds, if it is one."""
    items = listed(value)
    if not isinstance(items, list) or not items or not isinstance(items[0], dict):
        return None
    return "messages" if "role" in items[0] else "sharegpt" if "from" in items[0] else None


def _row(record: Record, form: Form, id_column: str | None, number: str) -> Row:
    conversation = read(record, form)
    answers = [place for place, each in enumerate(conversation.messages) if each["role"] == "assistant"]
    if not answers:
        raise DataError(
            "has no message of the assistant: there is nothing to learn from it.",
            field=record.where,
            remedy="Remove it, or add the answer.",
        )
    if not any(conversation.learned):
        raise DataError(
            "has train: false (or weight: 0) at every message of the assistant: there is nothing to learn "
            "from it.",
            field=record.where,
            remedy="Remove it, or let one be learned.",
        )
    columns = columns_as_text(Record(record.where, _others(record, form)))
    if id_column is not None and id_column not in columns:
        raise DataError(
            f"has no column {id_column!r}.", field=record.where, remedy="Set data.columns.id in the recipe."
        )
    row_id = number if id_column is None else columns[id_column]
    before, answer = conversation.messages[: answers[-1]], conversation.messages[answers[-1]]
    return Row(row_id, shown(before), said(answer), columns, conversation)


def _others(record: Record, form: Form) -> dict[str, Any]:
    """The columns beside the conversation."""
    return {name: value for name, value in record.columns.items() if name not in form.columns}


def read(record: Record, form: Form, *, answered: bool = True) -> Conversation:
    """What is said in a row.

    Args:
        record: The row.
        form: How it is written.
        answered: Whether answers must say something.

    Raises:
        DataError: It is written in another way, or cannot be what a chat template reads.
    """
    columns, where = record.columns, record.where
    for name in form.columns:
        if name not in columns:
            raise DataError(
                f"has no column {name!r}, as the first row does.", field=where, remedy="Mend or remove it."
            )
    if form.name in _OF_LISTS:
        messages = _messages(columns[form.columns[0]], where, form.columns[0])
    elif form.name == "alpaca":
        asked = [_text(columns.get(name), where, name) for name in ("instruction", "input", "context")]
        messages = _history(columns.get("history"), where)
        messages.append(Turn.of("user", "\n\n".join(filter(str.strip, asked))))
        answers = [_text(columns[name], where, name) for name in form.columns[1:]]
        messages += [Turn.of("assistant", answer) for answer in answers]
    else:
        asked_for = _said_by(columns[form.columns[0]], "user", where, form.columns[0])
        messages = [Turn(turn.message, learned=False) for turn in asked_for]
        for name in form.columns[1:]:
            messages += _said_by(columns[name], "assistant", where, name)
    system = columns.get("system")
    if isinstance(system, str) and system.strip() and messages[0].role != "system":
        messages.insert(0, Turn.of("system", system))
    if answered:
        _require_answers(messages, where)
    return Conversation(
        tuple(turn.message for turn in messages),
        tuple(turn.learned and turn.role == "assistant" for turn in messages),
        _tools(columns, where),
        str(form),
    )


def _history(value: Any, where: str) -> list[Turn]:
    """What was asked and answered before, as LLaMA-Factory has it: a list of pairs. A text is none."""
    pairs = parsed(value)
    if not isinstance(pairs, list):
        return []
    turns = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(
                f"holds no pairs but {as_text(pair)[:40]!r}.",
                field=f"{where}, column 'history'",
                remedy='Write [["what was asked", "what was answered"], ...].',
            )
        asked, answer = map(as_text, pair)
        turns += [Turn.of("user", asked), Turn.of("assistant", answer)]
    return turns


def _require_answers(turns: Sequence[Turn], where: str) -> None:
    for number, turn in enumerate(turns, start=1):
        silent = not turn.message["content"].strip() and not turn.message.get("tool_calls")
        if silent and turn.role == "assistant" and turn.learned:
            raise DataError(
                f"has an empty answer (message {number}): a model would learn to say nothing.",
                field=where,
                remedy="Fill or remove it, or give the message train: false.",
            )


def _text(value: Any, where: str, column: str) -> str:
    """A cell that is one text; what has parts would be learned as its JSON."""
    if isinstance(value, list | dict):
        raise DataError(
            f"holds no text but {as_text(value)[:40]!r}.",
            field=f"{where}, column {column!r}",
            remedy="Write it as a text; as JSON in a text, if that is what is to be said.",
        )
    return as_text(value)


def _said_by(value: Any, role: str, where: str, column: str) -> list[Turn]:
    """A text as one turn of `role`, or a list of messages."""
    if _kind(value) is not None:
        return _messages(value, where, column)
    if isinstance(value, list | dict):
        raise _no_messages(where, column, value)
    return [Turn.of(role, as_text(value))]


def _messages(value: Any, where: str, column: str) -> list[Turn]:
    items = listed(value)
    if not isinstance(items, list) or not items:
        raise _no_messages(where, column, value)
    return [turn_of(item, f"{where}, message {number}") for number, item in enumerate(items, start=1)]


def _no_messages(where: str, column: str, value: Any) -> DataError:
    text = as_text(value)
    return DataError(
        f"holds no list of messages but {text[:40]!r}."
        if text not in ("", "[]")
        else "holds no message at all.",
        field=f"{where}, column {column!r}",
        remedy="That is how Python writes a list, and pandas into a CSV. Save the rows as JSON lines: "
        "to_json(path, orient='records', lines=True)."
        if text.startswith(("[{'", "{'"))
        else 'Write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].',
    )


def _tools(columns: Mapping[str, Any], where: str) -> tuple[dict[str, Any], ...]:
    """The tools that a row offers: a list of JSON schemas, or its JSON."""
    tools = parsed(columns.get("tools"))
    if tools is None or tools in ([], ""):
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(
            f"holds no list of tools but {as_text(tools)[:40]!r}.",
            field=f"{where}, column 'tools'",
            remedy="Write a list of JSON schemas, as OpenAI and Transformers have them.",
        )
    return tuple(tools)
