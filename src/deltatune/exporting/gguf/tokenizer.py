"""A tokenizer as metadata of a GGUF file.

llama.cpp runs its own tokenizers: byte-level BPE, SentencePiece's BPE and BERT's word pieces. What a
tokenizer.json says beyond what these do is refused here, since nobody would notice later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deltatune.errors import ModelError
from deltatune.exporting.gguf.splits import KNOWN, WITHOUT_MARKS, described, split_name

NORMAL, UNKNOWN, CONTROL, GIVEN, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens, by llama.cpp's numbers; a given one is found in a text before it is split."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "\u2581"
_BLOCK = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
"""Marks what an assistant says, for training; elsewhere no template engine need know it."""


@dataclass(frozen=True)
class Vocabulary:
    """What a file says of a tokenizer."""

    kind: str
    """llama.cpp's name: `gpt2`, `llama` or `bert`."""
    tokens: list[str]
    types: list[int]
    split: str | None = None
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    """Special tokens by llama.cpp's names."""
    adds: dict[str, bool] = field(default_factory=dict)
    """What a text gets: `bos_token`, `eos_token`, `space_prefix`."""
    normalizes: dict[str, bool] = field(default_factory=dict)
    """What is done to letters: `lowercase`, `strip_accents`."""
    template: str | None = None
    """Jinja, of conversations."""
    warnings: list[str] = field(default_factory=list)

    def write(self, writer: Any) -> None:
        """Put it into the metadata of a `gguf.GGUFWriter`."""
        writer.add_tokenizer_model(self.kind)
        if self.split is not None:
            writer.add_tokenizer_pre(self.split)
        writer.add_token_list([token.encode(errors="replace") for token in self.tokens])
        writer.add_token_types(self.types)
        if self.scores:
            writer.add_token_scores(self.scores)
        if self.merges:
            writer.add_token_merges(self.merges)
        for name, number in self.ids.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
        for name, added in self.adds.items():
            writer.add_bool(f"tokenizer.ggml.add_{name}", added)
        for name, done in self.normalizes.items():
            writer.add_bool(f"tokenizer.ggml.normalizer.{name}", done)
        if self.template is not None:
            writer.add_chat_template(self.template)


def vocabulary_of(tokenizer: Any, size: int, end_ids: Sequence[int] = ()) -> Vocabulary:
    """What a file is to say of a tokenizer.

    Args:
        tokenizer: Of Transformers, a fast one.
        size: Rows of the model's table of embeddings.
        end_ids: Tokens that end what the model writes, the first one before all.

    Raises:
        ModelError: llama.cpp would split texts otherwise.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise _refused(f"is a {type(tokenizer).__name__} without a tokenizer.json", "Take a fast tokenizer.")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    tokens, types = _table(tokenizer, content, size)
    ids = _special_ids(tokenizer, end_ids)
    template = tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    template = None if template is None else _BLOCK.sub(_as_condition, template)
    common: dict[str, Any] = {"ids": ids, "adds": _added(tokenizer), "template": template}
    if model["type"] == "WordPiece":
        return _word_pieces(content, tokens, types, common)
    if model["type"] != "BPE":
        raise _refused(f"is of the kind {model['type']}", "GGUF is written with BPE and WordPiece.")
    if model.get("byte_fallback"):
        return _sentence_pieces(content, tokens, types, common)
    return _byte_level(content, tokens, types, common)


def _refused(what: str, remedy: str) -> ModelError:
    what = f"the tokenizer {what}, which llama.cpp would read otherwise."
    return ModelError(what, field="--as", remedy=remedy)


def _as_condition(match: re.Match[str]) -> str:
    """The block that marks a turn as one that is always written; its blanks are trimmed as before."""
    return re.sub(r"(end)?generation", "endif" if match[1] else "if true", match[0])


def _table(tokenizer: Any, content: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Token and kind of each row of the embeddings; rows beyond the vocabulary are unused."""
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    if known and max(known) >= size:
        raise ModelError(
            f"the tokenizer has tokens up to {max(known):,}, and the model embeddings for {size:,}.",
            field="model",
            remedy="Load the model with its own tokenizer.",
        )
    added = {token["id"]: token for token in content.get("added_tokens", ())}
    unknown = content["model"].get("unk_token")
    tokens, types = [], []
    for index in range(size):
        token = known.get(index)
        special = added.get(index)
        if token is None:
            tokens.append(f"[PAD{index}]")
            types.append(UNUSED)
            continue
        tokens.append(token)
        if special is not None:
            types.append(CONTROL if special["special"] else GIVEN)
        else:
            types.append(BYTE if _BYTE.fullmatch(token) and content["model"].get("byte_fallback") else NORMAL)
        if token == unknown and content["model"].get("byte_fallback"):
            types[-1] = UNKNOWN
    return tokens, types


def _special_ids(tokenizer: Any, end_ids: Sequence[int]) -> dict[str, int]:
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    end = end if end is not None else next(iter(end_ids), None)
    named = {
        "bos": begin,
        "eos": end,
        "unknown": tokenizer.unk_token_id,
        "seperator": tokenizer.sep_token_id,  # as llama.cpp spells it
        "padding": tokenizer.pad_token_id,
        "mask": tokenizer.mask_token_id,
        "cls": tokenizer.cls_token_id,
        "eot": next((each for each in end_ids if each != end), None),
    }
    return {name: int(number) for name, number in named.items() if number is not None}


def _added(tokenizer: Any) -> dict[str, bool]:
    """Whether a text gets a begin and an end token: as a call does it, whatever the settings say."""
    ids = tokenizer("a", verbose=False)["input_ids"]
    bare = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
    begin = {tokenizer.bos_token_id, tokenizer.cls_token_id} - {None}
    end = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    before, after = len(ids) > len(bare) and ids[0] in begin, len(ids) > len(bare) and ids[-1] in end
    if len(ids) != len(bare) + before + after:
        raise _refused("adds other tokens to a text than a begin and an end token", "Take another base.")
    return {"bos_token": before, "eos_token": after}


def _byte_level(
    content: dict[str, Any], tokens: list[str], types: list[int], common: dict[str, Any]
) -> Vocabulary:
    model, warnings = content["model"], []
    split = split_name(content.get("pre_tokenizer"), bool(model.get("ignore_merges")))
    if split is None:
        raise _refused(
            f"splits texts by {described(content.get('pre_tokenizer'))}",
            f"Known are the ways of {', '.join(sorted(KNOWN))}.",
        )
    normalizer = content.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise _refused(f"normalises texts by {normalizer.get('type')}", "Take another base.")
    if normalizer is not None:
        warnings.append(
            "llama.cpp does not compose letters and their accents (NFC) as this tokenizer does: give it "
            "composed texts, which nearly all are."
        )
    if split in WITHOUT_MARKS:
        warnings.append(
            "llama.cpp parts letters from marks that stand behind them, as in Hindi and Thai, where this "
            "tokenizer does not: such texts become other tokens there."
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _refused("marks parts of words", "Take another base.")
    return Vocabulary("gpt2", tokens, types, split, _merges(model), warnings=warnings, **common)


def _merges(model: dict[str, Any]) -> list[str]:
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]


def _sentence_pieces(
    content: dict[str, Any], tokens: list[str], types: list[int], common: dict[str, Any]
) -> Vocabulary:
    """SentencePiece's BPE: a piece's score says when it is put together, the earlier the higher."""
    model, warnings = content["model"], []
    place: dict[str, int] = {}
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        place.setdefault(left + right, len(place))
    scores = [-float(place[token]) if token in place else -float(len(place)) for token in tokens]
    steps = json.dumps([content.get("normalizer"), content.get("pre_tokenizer")], ensure_ascii=False)
    if _SPACE not in steps:
        raise _refused("writes blanks otherwise than SentencePiece", "Take another base.")
    first = '"prepend_scheme": "first"' in steps
    prefix = first or '"prepend_scheme": "always"' in steps or '"Prepend"' in steps
    if first:
        warnings.append(
            "llama.cpp puts a blank behind special tokens in a text too; this tokenizer puts one before the "
            "text alone."
        )
    adds = {**common.pop("adds"), "space_prefix": prefix}
    return Vocabulary(
        "llama", tokens, types, "default", scores=scores, adds=adds, warnings=warnings, **common
    )


def _word_pieces(
    content: dict[str, Any], tokens: list[str], types: list[int], common: dict[str, Any]
) -> Vocabulary:
    """BERT's: the beginning of a word is marked, where BERT marks its continuation."""
    normalizer, warnings = content.get("normalizer") or {}, []
    if normalizer.get("type") != "BertNormalizer" or not normalizer.get("handle_chinese_chars", True):
        raise _refused(f"normalises texts by {normalizer.get('type')}", "Take another base.")
    lowers = bool(normalizer.get("lowercase"))
    strips = normalizer.get("strip_accents")
    strips = lowers if strips is None else bool(strips)
    if not (lowers and strips):
        warnings.append(
            "The tokenizer keeps capitals or accents. Older versions of llama.cpp do not know that, and "
            "read all texts of a BERT in small letters."
        )
    if (content.get("pre_tokenizer") or {}).get("type") != "BertPreTokenizer":
        raise _refused(f"splits texts by {described(content.get('pre_tokenizer'))}", "Take another base.")
    prefix = content["model"].get("continuing_subword_prefix", "##")
    marked = [
        token
        if kind != NORMAL
        else token.removeprefix(prefix)
        if token.startswith(prefix) and token != prefix
        else _SPACE + token
        for token, kind in zip(tokens, types, strict=True)
    ]
    common.pop("adds")
    if strips:
        warnings.append(
            "llama.cpp does not take Korean syllables apart as BERT does: they become other tokens."
        )
    kept = {"lowercase": lowers, "strip_accents": strips}
    return Vocabulary("bert", marked, types, "default", normalizes=kept, warnings=warnings, **common)
