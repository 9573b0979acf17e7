"""Words of a text among its tokens, with tokenizers of all kinds."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from deltatune.data.pieces import pieces_of
from deltatune.data.split_words import joined, split_words, splitting_of
from deltatune.testing.tiny_tokenizers import SENTENCES
from tests.wordpiece import wordpiece

TEXTS = [
    "the quick brown fox, jumped (in 2001) over Spain's lazy dog.",
    " net  sales increased by 5.2 % to EUR 205.5 mn ... ",
    "Championship-medals: Zürich, 東京 and naïve café 😀!",
]


def _fast(tokenizer: Any, **names: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _byte_level(*, trim: bool, space: bool = False) -> Any:
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*SENTENCES, *TEXTS], trainer)
    if trim:  # as RoBERTa
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True)
    return _fast(tokenizer, bos_token="<s>", eos_token="</s>")


def _unigram() -> Any:
    tokenizer: Any = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<unk>", "</s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*SENTENCES, *TEXTS] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _fast(tokenizer, eos_token="</s>", unk_token="<unk>")


def _metaspace_bpe() -> Any:
    """Llama's and Mistral's kind: no pre-tokenizer, blanks are made marks by the normalizer."""
    tokenizer: Any = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=pieces, show_progress=False)
    split = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.pre_tokenizer = split
    tokenizer.train_from_iterator([*SENTENCES, *TEXTS], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _fast(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


KINDS = {
    "bert": lambda: wordpiece([*SENTENCES, *TEXTS]),
    "gpt2": functools.partial(_byte_level, trim=False),
    "roberta": functools.partial(_byte_level, trim=True),
    "roberta with a blank before": functools.partial(_byte_level, trim=True, space=True),
    "t5": _unigram,
    "llama": _metaspace_bpe,
    "byt5": ByT5Tokenizer,
}
built = functools.cache(lambda kind: KINDS[kind]())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_every_word_begins_at_its_first_token(kind: str, text: str) -> None:
    tokenizer, places = built(kind), split_words(text)
    pieces = pieces_of(tokenizer, text, places, 500)
    assert pieces.cut == 0
    plain = tokenizer(text)["input_ids"]
    if kind != "byt5":
        assert pieces.ids == plain, "the text is read as the model reads it elsewhere"
    unknown = tokenizer.unk_token_id
    before = 0
    for (start, end), first, last in zip(places, pieces.firsts, pieces.ends, strict=True):
        if first < 0:  # written as one with the word before
            assert before > 0
            continue
        assert before <= first < last
        before = last
        ids = pieces.ids[first:last]
        word = text[start:end]
        came = tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip().removeprefix("##")
        if unknown not in ids:
            folded = tokenizer.backend_tokenizer.normalizer.normalize_str(word) if kind == "bert" else word
            came, folded = came.replace(" ", ""), folded.strip()
            assert folded in came or came in folded, (word, came)
    lost = sum(first < 0 for first in pieces.firsts)
    assert lost <= len(places) / 3, "at most signs are written as one with what stands before"


@pytest.mark.parametrize("kind", KINDS)
def test_too_long_a_text_loses_whole_words(kind: str) -> None:
    tokenizer, text = built(kind), TEXTS[0]
    places = split_words(text)
    whole = pieces_of(tokenizer, text, places, 500)
    for limit in range(4, len(whole.ids) + 1):
        pieces = pieces_of(tokenizer, text, places, limit)
        kept = len(places) - pieces.cut
        assert len(pieces.ids) <= limit
        assert len(pieces.firsts) == len(places)
        assert all(first < 0 for first in pieces.firsts[kept:])
        assert pieces.firsts[:kept] == whole.firsts[:kept]
        assert pieces.ends[:kept] == whole.ends[:kept]
        if pieces.cut:  # one more word would not have found room
            behind = len(whole.ids) - max(whole.ends)
            assert max(whole.ends[: kept + 1]) + behind > limit
    one_short = pieces_of(tokenizer, text, places, whole.ends[0] + len(whole.ids) - max(whole.ends) - 1)
    assert one_short.cut == len(places)
    assert one_short.least == whole.ends[0] + len(whole.ids) - max(whole.ends)


def test_bert_has_the_first_pieces_of_transformers_own() -> None:
    tokenizer = built("bert")
    for text in TEXTS:
        words = text.split()
        joint, places = joined(words)
        theirs = tokenizer(words, is_split_into_words=True)
        numbers = theirs.word_ids()
        firsts = [numbers.index(number) for number in range(len(words))]
        ours = pieces_of(tokenizer, joint, places, 500)
        assert (ours.ids, ours.firsts) == (theirs["input_ids"], firsts)


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
def test_words_of_no_letters_have_no_token_or_one_of_their_own(kind: str) -> None:
    words = ["the", "\u200b", "", "\x07", " ", "dog", "\ufeff"]
    text, places = joined(words)
    pieces = pieces_of(built(kind), text, places, 500)
    assert pieces.firsts[0] >= 0
    assert pieces.firsts[5] > pieces.firsts[0]
    assert pieces.firsts[2] == -1
    named = [first for first in pieces.firsts if first >= 0]
    assert len(set(named)) == len(named)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Angela's 5.5 km-run", ["Angela", "'", "s", "5", ".", "5", "km", "-", "run"]),
        ("東京タワーへ行く", list("東京タワーへ行く")),
        ("स्टेशन पर", ["स्टेशन", "पर"]),
        ("a\u200bb\x00c", ["a", "b", "c"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("x_1 #tag @me", ["x", "_", "1", "#", "tag", "@", "me"]),
        ("👍 ok", ["👍", "ok"]),
        ("   ", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in split_words(text)] == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'Angela\'s 5.5 km-run, ("now")...',
            ["Angela", "'s", "5.5", "km-run", ",", "(", '"', "now", '"', ")", "..."],
        ),
        ("see http://a.b/c?d=1, @me #tag!", ["see", "http://a.b/c?d=1", ",", "@me", "#tag", "!"]),
        ("I don't, they'll", ["I", "do", "n't", ",", "they", "'ll"]),
        ("the U.S. :)", ["the", "U.S.", ":", ")"]),
        ("東京 is big.", ["東", "京", "is", "big", "."]),
        ("' . ''", ["'", ".", "'", "'"]),
    ],
)
def test_words_as_conll_has_them(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in split_words(text, "edges")] == words


def test_how_words_were_split_is_told_by_their_ends() -> None:
    assert splitting_of(["Angela", "'s", "car", "is", "red", ".", "Mr.", "X", ":)"]) == "edges"
    assert splitting_of(["Angela's", "car", "is", "red,", "and", "fast."]) == "blanks"
    text = "red, fast."
    assert [text[start:end] for start, end in split_words(text, "blanks")] == ["red,", "fast."]
