"""Talking to runs: several deltas on one base, and the plain base, answer the same conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TextStreamer

from deltatune.core.devices import AUTO
from deltatune.data.chat import Chats, chat_template
from deltatune.data.conversations import Conversation, shown
from deltatune.data.rows import Row
from deltatune.data.tokens import TextTokens
from deltatune.errors import AdapterError, DataError
from deltatune.evaluation.generation import PLAIN_DECODING
from deltatune.phrasing import listing
from deltatune.recipe.given import Given
from deltatune.runs.inputs import checked
from deltatune.runs.load import attach_run, load_run
from deltatune.runs.loaded import NAME, require_model_alone
from deltatune.tasks import tasks_that

BASE = "base"
"""What the plain base is called."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered."""

    text: str
    stopped: bool
    """Whether the model ended it itself."""
    cut: bool
    """Whether the oldest turns were left out of what it read."""


class _Stream(TextStreamer):
    """Hands on text as it is written."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called with each piece."""
        self._write(text)


class Talk:
    """A conversation that any of the runs, or the plain base, may go on with.

    Args:
        folders: Runs on one base, or adapters without a run.
        trust_remote_code: As of `load_run`.
        given: As of `load_run`, of the first.
        device: As of `load_run`.

    Raises:
        AdapterError: A folder holds no finished run, they are on different bases, or write no text behind
            what they read.
        DataError: The base has no chat template, and the recipe names none.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        trust_remote_code: bool = False,
        given: Given | None = None,
        device: str = AUTO,
    ) -> None:
        loaded = load_run(folders[0], trust_remote_code=trust_remote_code, given=given, device=device)
        able = tasks_that(lambda task: task.continues)
        if loaded.recipe.task not in able:
            raise AdapterError(
                f"the run in '{folders[0]}' does the task {loaded.recipe.task}, which is no talk.",
                field="RUN",
                remedy=f"Name runs of {listing(able, 'or')}.",
            )
        self._model, template = loaded.model, loaded.recipe.data.chat_template
        self._tokens = TextTokens(
            loaded.base.processor, loaded.base.facts, chat=True, template=chat_template(template)
        )
        self._chats = Chats(self._tokens, template)
        self._limit = loaded.recipe.data.max_input_tokens
        self._adapters: dict[str, tuple[str, ...]] = {_free(loaded.name, []): (NAME,)}
        for number, folder in enumerate(folders[1:]):
            attach_run(loaded, folder, f"other-{number}")
            self._adapters[_free(folder.resolve().name, self._adapters)] = (f"other-{number}",)
        self._adapters[BASE] = ()
        for name in [name for names in self._adapters.values() for name in names]:
            require_model_alone(self._model.adapter(name), name)
        self._model.eval()
        self.speaker = self.names[0]
        self.messages: list[dict[str, Any]] = []

    @property
    def names(self) -> list[str]:
        """Who may answer."""
        return list(self._adapters)

    def begin(self, system: str | None) -> None:
        """Begin anew, with a system message or without one.

        Raises:
            DataError: It is no text.
        """
        self.messages = [] if system is None else [{"role": "system", "content": _written(system)}]

    def say(self, text: str, most: int, write: Callable[[str], None]) -> Reply:
        """Say something, and have it answered by the speaker.

        Args:
            text: The user's turn.
            most: Tokens after which the answer is cut off.
            write: Is given the answer piece by piece.

        Raises:
            DataError: It is no text, the template refuses the conversation, or it is too long; it is as
                before then.
        """
        self.messages.append({"role": "user", "content": _written(text)})
        try:
            reply = self.reply(self.speaker, most, write)
        except BaseException:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": reply.text})
        return reply

    def reply(self, name: str, most: int, write: Callable[[str], None]) -> Reply:
        """Have the last turn of the user's answered, as by `say`; what was answered before does not count."""
        messages = self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages
        talk = Conversation(tuple(messages), (False,) * len(messages))
        row = Row("you", shown(messages), "", {}, talk)
        prompt, cut = self._chats.prompt(row, self._limit)
        ids = torch.tensor([prompt], device=self._model.device)
        arguments = PLAIN_DECODING | {
            "max_new_tokens": most,
            "eos_token_id": list(self._tokens.eos_ids),
            "pad_token_id": self._tokens.pad_id,
            "streamer": _Stream(self._tokens.tokenizer, write),
        }
        with self._model.using(*self._adapters[name]):
            written = self._model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **arguments)
        answer = written[0, len(prompt) :].tolist()
        return Reply(self._tokens.decode(answer), bool(set(answer) & set(self._tokens.eos_ids)), cut)


def _written(text: str) -> str:
    """What was written, which a terminal or a pipe may give as bytes that are no text.

    Raises:
        DataError: They are none.
    """
    if isinstance(problem := checked(text), DataError):
        raise DataError(problem.what, field="what you said", remedy="Say it in another way.")
    return text


def _free(name: str, taken: Any) -> str:
    """A name that nobody else has."""
    number, free = 2, name
    while free in taken or free == BASE:
        free, number = f"{name}-{number}", number + 1
    return free
