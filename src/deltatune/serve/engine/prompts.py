"""What requests ask for, as the ids and rows that the engine takes: by the way that `predict` goes.

One thread does it, since tokenizers are altered by what they are asked; the engine decodes with a copy.
"""

from __future__ import annotations

import base64
import binascii
import copy
import re
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.data.chat import Chats, LongTurnError, chat_template
from deltatune.data.decode import decode_image
from deltatune.data.encode import Encoded
from deltatune.data.load import prompt_row
from deltatune.data.messages import shown, turn_of
from deltatune.data.rows import Conversation, Row
from deltatune.data.tokens import TextTokens
from deltatune.errors import DataError
from deltatune.runs.asking import Failed, asked_row, encoded_rows, said
from deltatune.serve.deltas.served import Served
from deltatune.serve.engine.limits import Limits
from deltatune.serve.refusal import Refusal

_URI = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)
COMPLETION, CHAT = 16, 256
"""Tokens that are written where a request does not say how many: OpenAI's, and that of `deltatune chat`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a text is written behind."""

    ids: Sequence[int]
    most: int
    """Tokens that may be written."""
    ends: frozenset[int]
    """Ids that end the text."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Inputs as rows, in their order, and what is wrong with some."""

    made: list[Row | Failed]
    encoded: Encoded | None
    """Of those that are rows; None if none is."""

    @property
    def rows(self) -> list[Row]:
        """Those that can be answered."""
        return [row for row in self.made if isinstance(row, Row)]


class Prompts:
    """Makes prompts and rows; its functions are called from one thread.

    Args:
        limits: How long texts may be.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._chats: weakref.WeakKeyDictionary[Served, tuple[Chats, TextTokens]] = weakref.WeakKeyDictionary()
        self._copies: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def decoder(self, served: Served) -> Callable[[Sequence[int]], str]:
        """What gives the text of ids in the engine's thread, by a tokenizer of its own."""
        tokenizer = served.run.base.processor
        if tokenizer not in self._copies:
            self._copies[tokenizer] = copy.deepcopy(tokenizer)
        own = self._copies[tokenizer]
        return lambda ids: str(own.decode(list(ids), skip_special_tokens=True))

    def chat(self, served: Served, messages: Sequence[Mapping[str, Any]], most: int | None) -> Prompt:
        """A conversation, as a chat template writes it.

        Raises:
            Refusal: The run does not talk, or it is too long.
            DataError: A message is none, or the template refuses it.
        """
        if not served.task.continues:
            raise self._no_text(served)
        if served not in self._chats:
            self._chats[served] = _chats_of(served)
        chats, tokens = self._chats[served]
        made = [turn_of(item, f"messages.{place}").message for place, item in enumerate(messages)]
        self._require_short("messages", *(message["content"] for message in made))
        if made[-1]["role"] == "assistant":
            raise Refusal("invalid", "the last message is the assistant's.", field="messages")
        if not any(message["content"].strip() for message in made):
            raise Refusal("invalid", "there is nothing to answer.", field="messages")
        row = Row("request", shown(made), "", {}, Conversation(tuple(made), (False,) * len(made)))
        limit = served.run.recipe.data.max_input_tokens
        try:
            ids, cut = chats.prompt(row, limit)
        except LongTurnError as error:
            raise self._too_long(served, "messages") from error
        except DataError as error:
            if error.field == "row request":
                raise Refusal("invalid", f"it {error.what}", field="messages") from error
            raise
        if cut:
            raise self._too_long(served, "messages")
        return self._prompt(served, ids, most, CHAT, tokens.eos_ids)

    def raw(self, served: Served, text: str | Sequence[int], most: int | None) -> Prompt:
        """A text that is read as it is, without the run's template; or the ids of one.

        Raises:
            Refusal: The run writes no text, or it is too long or empty.
        """
        if not served.task.writes_text:
            raise self._no_text(served)
        tokens, limit = served.run.encoder.tokens, served.run.recipe.data.max_input_tokens
        if isinstance(text, str):
            self._require_short("prompt", text)
            read = tokens.prompt if served.task.continues else tokens.with_specials
            ids, cut = read(text, limit)
        else:
            ids, cut = list(text), len(text) > limit
        if cut:
            raise self._too_long(served, "prompt")
        if not ids:
            raise Refusal("invalid", "it has no tokens.", field="prompt")
        if tokens.vocabulary is not None and max(ids) >= tokens.vocabulary:
            what = f"has the token {max(ids)}, and the model has {tokens.vocabulary}."
            raise Refusal("invalid", what, field="prompt")
        return self._prompt(served, ids, most, COMPLETION, tokens.eos_ids)

    def rows(self, served: Served, inputs: Sequence[Any]) -> Rows:
        """Inputs as `predict` takes them, but for images, which come with the request.

        Raises:
            Refusal: There are too many.
        """
        if len(inputs) > self._limits.inputs:
            what = f"has {len(inputs)} inputs, and a request may have {self._limits.inputs}."
            raise Refusal("invalid", what, field="inputs", remedy="Send several requests.")
        make = self._image_row if served.task.reads == "images" else self._text_row
        encoded, made = encoded_rows(
            served.run, [make(served, str(n), each) for n, each in enumerate(inputs)]
        )
        return Rows(made, encoded)

    def written(self, served: Served, encoded: Encoded) -> list[Prompt]:
        """The prompts of rows whose texts are written, as `predict` writes them."""
        most = served.run.recipe.evaluation.max_new_tokens
        ends = frozenset(served.run.encoder.eos_ids)
        collate = served.run.encoder.collate_prompts
        batches = [collate([feature])["input_ids"][0].tolist() for feature in encoded.features]
        return [Prompt(ids, most, ends) for ids in batches]

    def _text_row(self, served: Served, number: str, value: Any) -> Row | Failed:
        try:
            self._require_short("input", *(value.values() if isinstance(value, Mapping) else (value,)))
        except Refusal as refusal:
            return Failed(number, "", said_of(refusal))
        return asked_row(served.run, number, value)

    def _image_row(self, served: Served, number: str, value: Any) -> Row | Failed:
        """A row of an image that came as bytes or as a data URI; never one of this machine's files."""
        run, columns = served.run, value if isinstance(value, Mapping) else {"image": value}
        name = next((key for key, cell in columns.items() if _is_image(cell)), None)
        if name is None:
            error = 'it holds no image. Write "data:image/png;base64,...".'
            return Failed(number, "", error)
        try:
            row_id = str(columns.get(run.recipe.data.columns.id or "", number))
            pixels = _pixels(columns[name], run.encoder.pixels.channels)
            return prompt_row({"image": pixels}, run.recipe.data, run.recipe.task, row_id)
        except DataError as error:
            return Failed(number, "[image]", f"it {said(error)}")

    def _prompt(
        self, served: Served, ids: Sequence[int], most: int | None, usual: int, ends: Sequence[int]
    ) -> Prompt:
        """A prompt for which there are positions.

        Raises:
            Refusal: There are none.
        """
        if most is not None and most > self._limits.tokens:
            what = f"is {most}, and this server writes {self._limits.tokens} tokens at most."
            raise Refusal("invalid", what, field="max_tokens")
        room, places = served.run.room, []
        if served.run.model.view.is_encoder_decoder:
            if room.positions.decoder is not None:
                places.append(room.positions.decoder - room.taken_in_decoder - 1)
            if room.positions.input is not None and len(ids) > room.positions.input - room.taken:
                raise self._too_long(served, "prompt")
        elif room.positions.input is not None:
            places.append(room.positions.input - room.taken - len(ids))
        left = min([self._limits.tokens, *places])
        if left < (most or 1):
            raise Refusal(
                "too_long",
                f"the prompt has {len(ids)} tokens, and leaves {max(left, 0)} to write.",
                field="max_tokens",
                remedy="Ask for fewer, or shorten the prompt.",
            )
        return Prompt(ids, most or min(usual, left), frozenset(ends))

    def _require_short(self, field: str, *texts: Any) -> None:
        size = sum(len(text) for text in texts if isinstance(text, str | list | dict))
        if size > self._limits.characters:
            what = f"has {size:,} characters, and {self._limits.characters:,} are read."
            raise Refusal("too_long", what, field=field, remedy="Shorten it.")

    def _too_long(self, served: Served, field: str) -> Refusal:
        limit = served.run.recipe.data.max_input_tokens
        return Refusal(
            "too_long",
            f"has more than {limit} tokens, which is what {served.name} reads (data.max_input_tokens).",
            field=field,
            remedy="Shorten it.",
        )

    def _no_text(self, served: Served) -> Refusal:
        what = f"{served.name} does the task {served.task.name}, which is not answered here."
        others = "/v1/completions or /predict" if served.task.writes_text else "/predict"
        return Refusal("invalid", what, field="model", remedy=f"Use {others}.")


def said_of(refusal: Refusal) -> str:
    """What it says, in one sentence or two."""
    return " ".join(part for part in (refusal.what, refusal.remedy) if part)


def _chats_of(served: Served) -> tuple[Chats, TextTokens]:
    run = served.run
    if served.task.conversations:
        return run.encoder.chats, run.encoder.tokens
    template = run.recipe.data.chat_template
    tokens = TextTokens(run.base.processor, run.base.facts, chat=True, template=chat_template(template))
    return Chats(tokens, template), tokens


def _is_image(cell: Any) -> bool:
    return isinstance(cell, bytes) or (isinstance(cell, str) and _URI.match(cell) is not None)


def _pixels(image: str | bytes, channels: int) -> Any:
    """Pixels of an image, as `predict` decodes a file of it.

    Raises:
        DataError: It is none.
    """
    if isinstance(image, str):
        try:
            image = base64.b64decode(image.partition(",")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError("is no base64.", remedy="Encode the bytes of the file.") from error
    with tempfile.NamedTemporaryFile(prefix="deltatune-") as file:
        file.write(image)
        file.flush()
        return decode_image(Path(file.name), channels)
