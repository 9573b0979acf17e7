"""What a tokenizer leaves open: which token ends a text, one begin token at most, what is cut off."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from deltatune.data.pieces import Pieces, Places, pieces_of
from deltatune.errors import DataError
from deltatune.tasks.task import Shot

if TYPE_CHECKING:
    from deltatune.models.processor import ModelFacts


class TextTokens:
    """A tokenizer with its begin, end and pad ids settled.

    Args:
        tokenizer: A Hugging Face tokenizer.
        of_model: What the model's files say: their end tokens stop generation besides the tokenizer's own,
            and are taught where it has none.
        generates: Whether the task needs an end token.
        chat: Whether prompts go through the chat template, whose end of a turn is taught then.
        template: A chat template in place of the tokenizer's own.

    Raises:
        DataError: An end token is needed and there is none.
    """

    def __init__(
        self,
        tokenizer: Any,
        of_model: ModelFacts | None = None,
        generates: bool = True,
        chat: bool = False,
        template: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = of_model.vocabulary if of_model else None
        # Asked for where the model has them: since Transformers 5 the tokenizers of ALBERT and XLNet do not
        # give them by themselves. None: as the tokenizer does.
        self._types = of_model.token_types if of_model else None
        added = tokenizer.added_tokens_decoder.items()
        self._special_ids = {*tokenizer.all_special_ids, *(id_ for id_, token in added if token.special)}
        texts = {*tokenizer.all_special_tokens, *(token.content for _, token in added if token.special)}
        self._special = re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")
        candidates = [
            end_of_turn(tokenizer, self._special_ids, template) if chat else None,
            tokenizer.eos_token_id,
            *(of_model.end_ids if of_model else ()),
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

    def of_words(self, text: str, places: Places, limit: int) -> Pieces:
        """Tokenise a text as the model's input, and find its words in it; see `pieces_of`."""
        return pieces_of(self.tokenizer, text, places, limit)

    def with_pair(
        self, first: str, second: str, limit: int
    ) -> tuple[dict[str, list[int]], tuple[bool, bool]]:
        """Tokenise two texts as the tokenizer writes pairs, at most `limit` ids; the longer one is cut first.

        Returns:
            `input_ids`, and `token_type_ids` where the model knows to which text a token belongs; and which
            of the texts were cut.

        Raises:
            DataError: The limit leaves no room beside the special tokens.
        """
        types, cut = self._types, (False, False)
        coded = self.tokenizer(first, second, return_token_type_ids=types, verbose=False)
        if len(coded["input_ids"]) > limit:
            lengths = self._lengths(coded, first, second)
            room = limit - (len(coded["input_ids"]) - sum(lengths))
            if room < 2:
                raise DataError(
                    f"({limit}) leaves no room for two texts beside the special tokens of a pair.",
                    field="data.max_input_tokens",
                    remedy=f"Raise it to {limit + 2 - room} at least; better to what the texts have.",
                )
            coded = self.tokenizer(
                first, second, return_token_type_ids=types, truncation="longest_first", max_length=limit
            )
            # The longer one until both have half of the room; of an odd room one of them has a token more.
            cut = (
                lengths[0] > max(room - lengths[1], room // 2),
                lengths[1] > max(room - lengths[0], room // 2),
            )
        return {name: list(coded[name]) for name in ("input_ids", "token_type_ids") if name in coded}, cut

    def _lengths(self, coded: Any, *texts: str) -> list[int]:
        """How many tokens of `coded` are of each text; slow tokenizers do not tell, and write each alone."""
        if not coded.is_fast:
            return [len(self.bare(text)) for text in texts]
        of = coded.sequence_ids()
        return [of.count(number) for number in range(len(texts))]

    @cached_property
    def parts_pairs(self) -> bool:
        """Whether anything tells where the second text of a pair begins: a token between them, or types."""
        coded, _ = self.with_pair("a", "b", limit=64)
        ids, joined = coded["input_ids"], [*self.bare("a"), *self.bare("b")]
        beside = any(ids[place : place + len(joined)] == joined for place in range(len(ids)))
        return not beside or len(set(coded.get("token_type_ids", ()))) > 1

    @property
    def pad_type(self) -> int:
        """The token type of what fills up batches."""
        return int(getattr(self.tokenizer, "pad_token_type_id", 0) or 0)

    def target(self, text: str, limit: int, *, as_target: bool) -> tuple[list[int], bool]:
        """Tokenise a text to produce: its ids and exactly one end token, at most `limit` in all.

        Args:
            text: The target.
            limit: Largest number of ids, the end token included.
            as_target: Whether the tokenizer adds the special tokens of a decoder (encoder-decoder models), or
                none, since the target follows a prompt (causal models).
        """
        ids = self._target_ids(text) if as_target else self._ids(text, add_special_tokens=False)
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

    def chat_prompt(self, text: str, limit: int, shots: Sequence[Shot] = ()) -> tuple[list[int], bool]:
        """Tokenise a text as a user's turn, behind turns that show others; see `truncated_chat`."""
        return truncated_chat(self.tokenizer, text, limit, shots)

    def plain(self, text: str, limit: int) -> tuple[list[int], bool]:
        """Tokenise a text to learn as it is: begin token as in `prompt`, one end token unless it is cut."""
        body, _ = self.prompt(text, limit=len(text.encode()) + 8)
        whole = [*body, self.eos_ids[0]]
        return (whole, False) if len(whole) <= limit else (body[:limit], True)

    def bare(self, text: str) -> list[int]:
        """Tokenise a text without special tokens around it."""
        return self._ids(text, add_special_tokens=False)

    def has_content(self, ids: Sequence[int]) -> bool:
        """Tell whether there is more than special tokens."""
        special = {*self.tokenizer.all_special_ids, *self.eos_ids} - {self.tokenizer.unk_token_id}
        return any(id_ not in special for id_ in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode without special tokens and outer blanks."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def before(self, ids: Sequence[int], text: str) -> list[int] | None:
        """The ids before those that a text begins in; None if it is not among what they say."""
        if text not in str(self.tokenizer.decode(list(ids))):
            return None
        said = [str(self.tokenizer.decode(list(ids[:end]))) for end in range(len(ids) + 1)]
        place = said[-1].index(text)
        return list(ids[: next(end for end, so_far in enumerate(said) if len(so_far) > place) - 1])

    def reference(self, text: str) -> str:
        """A target as a prediction is shown: without the special tokens that may be written in it.

        They are learned, and `decode` leaves them out of what is generated.
        """
        return self.decode(self._target_ids(text)) if self._special.search(text) else text

    def unknown(self, ids: Sequence[int], text: str) -> bool:
        """Whether `ids` hold unknown tokens beyond those that `text` itself spells out."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown in (self.bos_id, self.pad_id, *self.eos_ids):  # GPT-2's stands for both
            return False
        return list(ids).count(unknown) > text.count(self.tokenizer.unk_token)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Give each id's token as it stands in the vocabulary."""
        return [str(piece) for piece in self.tokenizer.convert_ids_to_tokens(list(ids))]

    def _target_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text_target=text, verbose=False)["input_ids"])

    def _ids(self, text: str, add_special_tokens: bool = True) -> list[int]:
        # verbose=False: a text beyond the model's length is truncated and counted here, not warned about
        return list(self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])


def end_of_turn(tokenizer: Any, special_ids: Container[int], template: str | None = None) -> int | None:
    """The special token that the chat template puts behind what the assistant says; None if it puts none.

    Often it is another one than the tokenizer's end of a text: `<|im_end|>`, `<end_of_turn>`, `<|eot_id|>`.
    """
    said = "an answer"
    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": said}]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False))
    except Exception:  # a template is a program of others, and may refuse what it likes
        return None
    behind = rendered.rpartition(said)[2] if said in rendered else ""
    ids = tokenizer(behind, add_special_tokens=False, verbose=False)["input_ids"]
    end = next((id_ for id_ in ids if id_ in special_ids), None)
    return None if end == tokenizer.bos_token_id != tokenizer.eos_token_id else end


def truncated_chat(
    tokenizer: Any, text: str, limit: int, shots: Sequence[Shot] = ()
) -> tuple[list[int], bool]:
    """Tokenise a text as a user's turn, up to where the assistant's answer begins.

    Too long a turn loses tokens at the end of the user's text, so that the template stays whole.

    Args:
        tokenizer: With a chat template.
        text: What the user says.
        limit: Largest number of ids, without those of earlier turns.
        shots: Rows that are earlier turns of the conversation, each one of the user and one of the assistant.

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
    return _chat_ids(tokenizer, text, shots) if shots else ids, cut


def _chat_ids(tokenizer: Any, text: str, shots: Sequence[Shot] = ()) -> list[int]:
    said = [turn for shot in shots for turn in zip(("user", "assistant"), shot, strict=True)]
    turns = [{"role": role, "content": content} for role, content in [*said, ("user", text)]]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"])
