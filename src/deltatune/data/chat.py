"""Conversations as tokens: written by a chat template, with what is learned told from what is read.

Where the template marks what the assistant says (`{% generation %}`), its marks are used. Elsewhere an answer
begins where the conversation before it ends, written so that an answer shall follow, and it ends where the
conversation up to it ends: each must be the beginning of the whole. Its last label is its end token. A token
that lies in an answer with some of its letters belongs to it, as in Transformers.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

from deltatune.data.messages import Message, said, with_json
from deltatune.data.rows import Conversation, Row
from deltatune.data.tokens import TextTokens
from deltatune.data.turns import answered, asked, fitting
from deltatune.errors import DataError, SilentRowError
from deltatune.recipe.sections import PLAIN_CHAT
from deltatune.tasks.task import IGNORED

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PLAIN = (
    "{% if tools %}Tools:{{ '\\n' + tools | tojson + '\\n\\n' }}{% endif %}"
    "{% for message in messages %}{{ message.role | capitalize + ':\\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content | trim }}"
    "{% for call in message.tool_calls or [] %}{{ '\\n' + call.function | tojson }}{% endfor %}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ message.content | trim }}{% endif %}"
    "{{ '\\n\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"
)
"""Behind a line break no tokenizer puts a token together with the first letter of what is said."""

Span = tuple[int, int]


class LongTurnError(DataError):
    """The last turn of a conversation has more tokens than are read."""


class Chat(NamedTuple):
    """A conversation as tokens."""

    ids: list[int]
    labels: list[int]
    """The ids that are learned, -100 elsewhere."""
    prompt: list[int]
    """What comes before the last answer, as it is when that is to be written."""
    answer: str | None
    """The last answer as the template writes it, without special tokens; None if it is nothing but a text."""
    cut: bool
    """Whether turns were left out."""
    left_out: str
    """What the template does not write of it, in words; else empty."""


class _Read(NamedTuple):
    """A conversation as the template writes it."""

    text: str
    ids: list[int]
    encoding: Any
    """Of `tokenizers`, which says where each token stands in the text, if that is asked for."""


class Chats:
    """Writes conversations.

    Args:
        tokens: The tokenizer with its end tokens settled.
        template: The recipe's own template: `plain`, or its text; None for the tokenizer's.

    Raises:
        DataError: There is none, or the tokenizer cannot say where its tokens stand.
    """

    def __init__(self, tokens: TextTokens, template: str | None) -> None:
        self._tokens, self._tokenizer = tokens, tokens.tokenizer
        self._template = chat_template(template)
        if self._template is None and not getattr(self._tokenizer, "chat_template", None):
            raise DataError(
                "is missing: the model's tokenizer has no chat template.",
                field="data.chat_template",
                remedy="Set it to plain (User: ... Assistant: ...) or to a file with a Jinja template, or "
                "take a chat model.",
            )
        if not self._tokenizer.is_fast:
            raise DataError(
                f"has a tokenizer ({type(self._tokenizer).__name__}) that does not tell where its tokens "
                "stand in a text, so that answers cannot be told from questions.",
                field="model",
                remedy="Take a model with a fast tokenizer (tokenizer.json).",
            )

    @property
    def template(self) -> str | None:
        """The recipe's own template; None: the tokenizer's."""
        return self._template

    def learned(self, row: Row, limit: int, train_on: str | None) -> Chat:
        """Write a row's conversation up to its last answer.

        Args:
            row: The row.
            limit: Largest number of ids.
            train_on: Which turns are learned: `assistant` (or None), `last_assistant` or `all`.

        Raises:
            SilentRowError: Nothing is left to learn from.
            DataError: The template refuses it, or does not tell answers from the rest.
        """
        whole = answered(_conversation(row))
        read = self._read(whole, row)

        def length(talk: Conversation) -> int:
            ids = read.ids if talk is whole else self._ids(self._render(talk.messages, talk, row))
            return len(self._ended(ids, (0, len(ids)), row)[0])

        talk, count = fitting(whole, limit, length)
        if count > limit:
            raise SilentRowError(
                f"has {count:,} tokens in its last answer and the turn before it, and {limit:,} are allowed: "
                "nothing is left to learn from it.",
                field=f"row {row.id}",
                remedy="Raise data.max_input_tokens, or remove it.",
                tokens=count,
            )
        read = read if talk is whole else self._read(talk, row)
        ids, spans = self._spans(read, talk, train_on, row)
        if not spans:
            raise SilentRowError(
                "has no answer left that may be learned.",
                field=f"row {row.id}",
                remedy="Raise data.max_input_tokens, let the last answer be learned, or remove the row.",
            )
        labels = [IGNORED] * len(ids)
        for start, end in spans:
            labels[start:end] = ids[start:end]
        before = self._before(talk, len(talk.messages) - 1, row)
        prompt = self._ids(before)
        last, answer = talk.messages[-1], None
        if set(last) - {"role", "content"}:  # how calls and thoughts are written is the template's affair
            written = read.text[len(before) :] if read.text.startswith(before) else said(last)
            answer = self._tokens.decode(self._ids(written))
        left_out = self._left_out(read, talk, row)
        for start, end in spans:
            if not self._tokens.has_content(ids[start:end]):
                raise DataError(
                    f"is written as an answer that says nothing{f': {left_out}' if left_out else ''}.",
                    field=f"row {row.id}",
                    remedy="Take a model whose chat template writes it, name one as data.chat_template, or "
                    "give the message train: false.",
                )
        return Chat(ids, labels, prompt, answer, len(talk.messages) < len(whole.messages), left_out)

    def prompt(self, row: Row, limit: int) -> tuple[list[int], bool]:
        """Write what is to be answered, which an answer at the end is not; say whether turns were left out.

        Raises:
            LongTurnError: Its last turn alone is too long.
            DataError: The template refuses it.
        """
        whole = asked(_conversation(row))

        def ids(talk: Conversation) -> list[int]:
            return self._ids(self._before(talk, len(talk.messages), row))

        talk, count = fitting(whole, limit, lambda talk: len(ids(talk)))
        if count > limit:
            raise LongTurnError(
                f"has {count:,} tokens in its last turn, and {limit:,} are allowed.",
                field=f"row {row.id}",
                remedy="Raise data.max_input_tokens, or shorten it.",
            )
        return ids(talk), len(talk.messages) < len(whole.messages)

    def _read(self, talk: Conversation, row: Row) -> _Read:
        text = self._render(talk.messages, talk, row)
        coded = self._tokenizer(text, add_special_tokens=False, verbose=False)
        return _Read(text, list(coded["input_ids"]), coded.encodings[0])

    def _marks(self, talk: Conversation, row: Row) -> list[Span]:
        """Tokens that the template marks as said by the assistant."""
        mask = self._apply(
            talk.messages, talk, row, tokenize=True, return_dict=True, return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
        )["assistant_masks"]  # fmt: skip
        edges = [place for place, (a, b) in enumerate(zip([0, *mask], [*mask, 0], strict=True)) if a != b]
        return list(zip(edges[::2], edges[1::2], strict=True))

    def _marked(self, talk: Conversation) -> bool:
        template = self._tokenizer.get_chat_template(self._template, list(talk.tools) or None)
        return bool(_MARKED.search(template))

    def _spans(
        self, read: _Read, talk: Conversation, train_on: str | None, row: Row
    ) -> tuple[list[int], list[Span]]:
        """All ids, with an end token if the template puts none behind the last answer; what is learned."""
        turns = [place for place, may in enumerate(talk.learned) if may]
        turns = turns[-1:] if train_on == "last_assistant" else turns
        if train_on == "all":
            ids, _ = self._ended(read.ids, (0, len(read.ids)), row)
            return ids, [(0, len(ids))] if turns else []
        if self._marked(talk):
            spans = self._marked_spans(talk, turns, row)
        else:
            offsets = read.encoding.offsets
            starts, ends = ([pair[side] for pair in offsets] for side in (0, 1))
            places = [self._place(read, talk, turn, row) for turn in turns]
            spans = [(bisect_right(ends, start), bisect_left(starts, end)) for start, end in places]
        ids, ended = read.ids, []
        for span in spans:
            ids, found = self._ended(ids, span, row)
            ended.append(span if self._marked(talk) and found[1] < span[1] else found)
        return ids, ended

    def _marked_spans(self, talk: Conversation, turns: Sequence[int], row: Row) -> list[Span]:
        marks = self._marks(talk, row)
        answers = [place for place, message in enumerate(talk.messages) if message["role"] == "assistant"]
        if len(marks) != len(answers):
            if marks and list(turns) == answers:
                return marks
            raise DataError(
                f"marks {len(marks)} spans ({{% generation %}}) in {len(answers)} answers of row "
                f"{row.id}, so that what is learned cannot be told.",
                field="data.chat_template",
                remedy="Mark each answer once, or take a template without marks.",
            )
        return [marks[answers.index(turn)] for turn in turns]

    def _place(self, read: _Read, talk: Conversation, turn: int, row: Row) -> Span:
        """Where an answer stands in the text, found by what the template writes before it and up to it."""
        before = self._before(talk, turn, row)
        upto = read.text
        if turn + 1 < len(talk.messages):
            upto = self._render(talk.messages[: turn + 1], talk, row)
            if not read.text.startswith(upto):  # some templates end every text with an end token of their own
                upto = upto.removesuffix(str(self._tokenizer.eos_token))
        if not (read.text.startswith(before) and read.text.startswith(upto) and len(before) < len(upto)):
            raise _not_told(turn + 1, row, read.text.startswith(before), last=upto == read.text)
        return len(before), len(upto)

    def _before(self, talk: Conversation, turn: int, row: Row) -> str:
        """What the template writes before the answer that is message `turn`."""
        if turn:
            return self._render(talk.messages[:turn], talk, row, add_generation_prompt=True)
        # Nothing comes before it, and templates write no empty conversation: its head is what all have.
        both = [self._render([{"role": "assistant", "content": text}], talk, row) for text in ("a", "b")]
        same = (place for place, (a, b) in enumerate(zip(*both, strict=False)) if a != b)
        return both[0][: next(same, 0)]

    def _ended(self, ids: list[int], span: Span, row: Row) -> tuple[list[int], Span]:
        """A span up to its end token, which may stand behind it or, of the last answer, be missing."""
        start, end = span
        if (place := self._end_in(ids, start, end)) is not None:
            return ids, (start, place)
        if end < len(ids) and ids[end] in self._tokens.eos_ids:  # GLM ends a turn by the next one's role
            return ids, (start, end + 1)
        if end == len(ids):
            return [*ids, self._closing], (start, end + 1)
        raise DataError(
            f"puts no end token behind an answer (row {row.id}), so that a model would not learn to stop.",
            field="data.chat_template",
            remedy="Set data.train_on: last_assistant, or take another template, such as plain.",
        )

    def _end_in(self, ids: list[int], start: int, end: int) -> int | None:
        """Behind the end token of a span, if nothing but blanks and special tokens stands behind it."""
        first = None
        for place in range(end - 1, start - 1, -1):
            if self._tokens.decode(ids[place : place + 1]):
                break
            first = place if ids[place] in self._tokens.eos_ids else first
        if first is None:
            return None
        while first + 1 < end and ids[first + 1] in self._tokens.eos_ids:  # Command-R's answers end by two
            first += 1
        return first + 1

    def _left_out(self, read: _Read, talk: Conversation, row: Row) -> str:
        """What the template does not write: some know no tools, or one system message, and say nothing."""
        bare = self._render(talk.messages, replace(talk, tools=()), row) if talk.tools else read.text
        calls = [call["function"]["name"] for each in talk.messages for call in each.get("tool_calls", ())]
        if missing := next((name for name in calls if name not in bare), None):
            return f"the template leaves out the call of {missing!r}"
        if talk.tools and bare == read.text:
            return "the template leaves out the tools"
        text = _letters(read.text)
        for number, message in enumerate(talk.messages, start=1):
            # What is thought in earlier answers is left out by design; results of tools may stand as JSON.
            wanted = message["content"] if message["role"] != "assistant" else ""
            ways = (wanted, json.dumps(wanted, ensure_ascii=False)[1:-1])
            if not any(_letters(way) in text for way in ways):
                return f"the template leaves out message {number}, of the {message['role']}"
        return ""

    @cached_property
    def _closing(self) -> int:
        """The end token of an answer that the template leaves open until another turn follows."""
        turns = [("user", "a question"), ("assistant", "an answer"), ("user", "a question")]
        messages = [{"role": role, "content": text} for role, text in turns]
        try:
            text = str(self._tokenizer.apply_chat_template(messages, tokenize=False, **self._own))
        except Exception:  # a template is a program of others
            text = ""
        behind = self._ids(text.partition("an answer")[2])[:1]
        return next((id_ for id_ in behind if id_ in self._tokens.eos_ids), self._tokens.eos_ids[0])

    @property
    def _own(self) -> dict[str, Any]:
        return {} if self._template is None else {"chat_template": self._template}

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _render(self, messages: Sequence[Message], talk: Conversation, row: Row, **options: Any) -> str:
        return str(self._apply(messages, talk, row, tokenize=False, **options))

    def _apply(self, messages: Sequence[Message], talk: Conversation, row: Row, **options: Any) -> Any:
        apply, tools = self._tokenizer.apply_chat_template, list(talk.tools) or None
        try:
            try:
                return apply(list(messages), tools=tools, **self._own, **options)
            except TypeError:  # DeepSeek's template puts arguments as they are behind a text
                return apply(list(map(with_json, messages)), tools=tools, **self._own, **options)
        except Exception as error:  # a template is a program of others, and may refuse what it likes
            raise DataError(
                f"is refused by the chat template: {str(error).strip().rstrip('.') or type(error).__name__}.",
                field=f"row {row.id}",
                remedy="Mend or remove it, or name another template as data.chat_template.",
            ) from error


def _letters(text: str) -> str:
    """A text without its blanks, which templates add and take away."""
    return "".join(text.split())


def chat_template(given: str | None) -> str | None:
    """The text of a recipe's chat template; None for the tokenizer's own."""
    return _PLAIN if given == PLAIN_CHAT else given


def _not_told(number: int, row: Row, begins: bool, *, last: bool) -> DataError:
    """The error of an answer whose place cannot be told, since a part is no beginning of the whole.

    Args:
        number: The message.
        row: Its row.
        begins: Whether what comes before it is one.
        last: Whether nothing follows it.
    """
    part = "up to" if begins else "before"
    start = "Name" if last else "Set data.train_on: last_assistant, or name"
    return DataError(
        f"writes what comes {part} message {number} of row {row.id} in another way once more is said (as "
        "templates do that leave out earlier thoughts, or begin an answer with one), so that answers cannot "
        "be told from the rest.",
        field="data.chat_template",
        remedy=f"{start} a file with a template that marks answers ({{% generation %}}) as "
        "data.chat_template.",
    )


def _conversation(row: Row) -> Conversation:
    if row.conversation is None:
        raise DataError("is no conversation.", field=f"row {row.id}", remedy="Use another task.")
    return row.conversation
