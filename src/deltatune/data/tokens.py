"""What a tokenizer leaves open: one end token, at most one begin token, truncation that is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltatune.errors import DataError


class TextTokens:
    """A tokenizer with its begin, end and pad ids settled.

    Args:
        tokenizer: A Hugging Face tokenizer.
        model_config: The base's config; its end tokens are used where the tokenizer has none, and stop
            generation besides the tokenizer's own.
        generates: Whether the task needs an end token.

    Raises:
        DataError: An end token is needed and there is none.
    """

    def __init__(self, tokenizer: Any, model_config: Any = None, generates: bool = True) -> None:
        self.tokenizer = tokenizer
        configured = getattr(model_config, "eos_token_id", None)
        candidates = [
            tokenizer.eos_token_id,
            *(configured if isinstance(configured, list | tuple) else [configured]),
        ]
        self.eos_ids: list[int] = list(dict.fromkeys(id_ for id_ in candidates if id_ is not None))
        if generates and not self.eos_ids:
            raise DataError(
                "has no end token, so that a generated text would never stop.",
                field=f"tokenizer {tokenizer.name_or_path or type(tokenizer).__name__}",
                remedy="Use a model whose tokenizer has one.",
            )
        pad = tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else (self.eos_ids[0] if self.eos_ids else 0)
        self.bos_id: int | None = tokenizer.bos_token_id

    def with_specials(self, text: str, limit: int) -> tuple[list[int], bool]:
        """Tokenise as the model's input, special tokens included, at most `limit` ids; say if it was cut."""
        ids = self._ids(text)
        if len(ids) <= limit:
            return ids, False
        return list(self.tokenizer(text, truncation=True, max_length=limit)["input_ids"]), True

    def target(self, text: str, limit: int, *, as_target: bool) -> tuple[list[int], bool]:
        """Tokenise a text to produce: its ids and exactly one end token, at most `limit` in all.

        Args:
            text: The target.
            limit: Largest number of ids, the end token included.
            as_target: Whether the tokenizer adds the special tokens of a decoder (encoder-decoder models), or
                none, since the target follows a prompt (causal models).
        """
        if as_target:
            ids = list(self.tokenizer(text_target=text, verbose=False)["input_ids"])
        else:
            ids = self._ids(text, add_special_tokens=False)
        body = [id_ for id_ in ids if id_ not in self.eos_ids]
        return [*body[: limit - 1], self.eos_ids[0]], len(body) > limit - 1

    def prompt(self, text: str, limit: int) -> tuple[list[int], bool]:
        """Tokenise a causal model's prompt: one begin token if the tokenizer adds one, no end token.

        Too long a prompt loses tokens on its left, behind the begin token.
        """
        ids = self._ids(text)
        while ids and ids[-1] in self.eos_ids and ids[-1] != self.bos_id:
            ids.pop()
        begin = ids[:1] if ids and ids[0] == self.bos_id else []
        body = ids[len(begin) :]
        while begin and body[:1] == begin:  # the text itself began with the begin token
            body = body[1:]
        room = limit - len(begin)
        return [*begin, *(body[-room:] if len(body) > room else body)], len(body) > room

    def plain(self, text: str, limit: int) -> tuple[list[int], bool]:
        """Tokenise a text to learn as it is: begin token as in `prompt`, one end token unless it is cut."""
        body, _ = self.prompt(text, limit=len(text.encode()) + 8)
        whole = [*body, self.eos_ids[0]]
        return (whole, False) if len(whole) <= limit else (body[:limit], True)

    def has_content(self, ids: Sequence[int]) -> bool:
        """Tell whether there is more than special tokens."""
        special = {*self.tokenizer.all_special_ids, *self.eos_ids} - {self.tokenizer.unk_token_id}
        return any(id_ not in special for id_ in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode without special tokens and outer blanks."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Give each id's token as it stands in the vocabulary."""
        return [str(piece) for piece in self.tokenizer.convert_ids_to_tokens(list(ids))]

    def _ids(self, text: str, add_special_tokens: bool = True) -> list[int]:
        # verbose=False: a text beyond the model's length is truncated and counted here, not warned about
        return list(self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])


def truncated_chat(tokenizer: Any, text: str, limit: int) -> tuple[list[int], bool]:
    """Tokenise a text as a user's turn, up to where the assistant's answer begins.

    Too long a turn loses tokens at the end of the user's text, so that the template stays whole.

    Raises:
        DataError: The tokenizer has no chat template, or the template alone exceeds the limit.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "is 'chat', but the model's tokenizer has no chat template.",
            field="data.template",
            remedy="Write a template, such as '{input}', or use a chat model.",
        )
    ids = _chat_ids(tokenizer, text)
    cut = len(ids) > limit
    while len(ids) > limit:
        content = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        kept = len(content["input_ids"]) - (len(ids) - limit)
        if kept < 1:
            raise DataError(
                f"({limit}) leaves no room for text beside the chat template.",
                field="data.max_input_tokens",
                remedy="Raise it.",
            )
        text = text[: content["offset_mapping"][kept][0]]
        ids = _chat_ids(tokenizer, text)
    return ids, cut


def _chat_ids(tokenizer: Any, text: str) -> list[int]:
    turn = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"])
