"""Metrics of generated texts.

A new metric is one function with a decorator:

    @text_metric("characters", keys={"characters": None})
    def characters(generations, references):
        return Scores.per_example({"characters": [float(len(g.text)) for g in generations]})

`keys` names the numbers it yields and says for each whether higher is better (None: neither way).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from deltatune.evaluation.corpus import CorpusMetric, Floats
from deltatune.evaluation.generation import Generation
from deltatune.evaluation.metrics.registry import METRICS, Metric, Scores, score, together
from deltatune.tasks.tokens import TEXT_METRICS

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")
TextFunction = Callable[[Sequence[Generation], Sequence[str]], Scores]
_NGRAMS = 4
_BETA2 = 4.0  # chrF2 weighs recall twice as much as precision


References = Sequence[str | Sequence[str]]
"""Of each row the text that is right for it, or all texts that are."""


def text_metric(
    name: str,
    keys: Mapping[str, bool | None],
    corpus: Mapping[str, CorpusMetric] | None = None,
    several: Callable[[Sequence[Generation], References], Scores] | None = None,
) -> Callable[[TextFunction], TextFunction]:
    """Register a metric of generated texts against references.

    Args:
        name: What a recipe calls it.
        keys: As of `Metric`.
        corpus: As of `Metric`.
        several: The function for rows with several references. Default: the best that any of them gives.
    """

    def register(function: TextFunction) -> TextFunction:
        METRICS.add(name, Metric(keys, {"text": function}, corpus or {}, several=several))
        return function

    return register


def squeeze(text: str) -> str:
    """A text with runs of whitespace as one space."""
    return " ".join(text.split())


def bleu_statistics(predictions: Sequence[str], references: References, _: Sequence[str] = ()) -> Floats:
    """SacreBLEU's numbers of each row: length, reference's length, 4 counts of matches, 4 of n-grams."""
    from sacrebleu.metrics import BLEU

    return _segments(BLEU(), predictions, references)


def chrf_statistics(predictions: Sequence[str], references: References, _: Sequence[str] = ()) -> Floats:
    """SacreBLEU's numbers of each row: n-grams, the reference's n-grams and matches, for n of 1 to 6."""
    from sacrebleu.metrics import CHRF

    return _segments(CHRF(), predictions, references)


def _segments(metric: Any, predictions: Sequence[str], references: References) -> Floats:
    # Without a public way to these numbers; the tests compare what becomes of them with corpus_score.
    rows = metric._extract_corpus_statistics(list(predictions), _streams(references))
    return np.asarray(rows, dtype=np.float64)


def _lists(references: References) -> list[Sequence[str]]:
    return [[texts] if isinstance(texts, str) else texts for texts in references]


def _streams(references: References) -> list[list[str | None]]:
    """What sacreBLEU wants: lists of references, each as long as the corpus; None where a row has no more."""
    lists = _lists(references)
    return [
        [texts[number] if number < len(texts) else None for texts in lists]
        for number in range(max(map(len, lists)))
    ]


def bleu_score(sums: Floats) -> Floats:
    """BLEU in 0..100, smoothed as sacreBLEU does: the k-th order without a match counts 2^-k of one."""
    length, reference = sums[..., 0], sums[..., 1]
    matches, ngrams = sums[..., 2 : 2 + _NGRAMS], sums[..., 2 + _NGRAMS :]
    halvings = np.cumsum(matches == 0, axis=-1)
    counted = np.where(matches > 0, matches, 0.5**halvings)
    usable = (ngrams > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.exp(np.log(counted / ngrams).mean(axis=-1))
        brevity = np.where(length < reference, np.exp(1 - reference / length), 1.0)
        return np.where(usable, 100 * brevity * precision, 0.0)


def chrf_score(sums: Floats) -> Floats:
    """chrF2 in 0..100: F of the mean precision and recall over the orders that occur on both sides."""
    made, wanted, matches = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    used = (made > 0) & (wanted > 0)
    orders = np.maximum(used.sum(axis=-1), 1)
    precision = np.where(used, matches / np.maximum(made, 1e-300), 0).sum(axis=-1) / orders
    recall = np.where(used, matches / np.maximum(wanted, 1e-300), 0).sum(axis=-1) / orders
    below = _BETA2 * precision + recall
    return np.where(below > 0, 100 * (1 + _BETA2) * precision * recall / np.where(below > 0, below, 1), 0.0)


def _rouge(generations: Sequence[Generation], references: References) -> Scores:
    """ROUGE of texts with any number of references: of each kind that of the reference with the highest F."""
    from rouge_score import rouge_scorer

    lists = _lists(references)
    texts = [text for of_row in lists for text in of_row]
    foreign = any(re.search(r"\w", text) and not re.search(r"[a-z0-9]", text.lower()) for text in texts)
    tokenizer = _UnicodeWords() if foreign else None
    scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES), use_stemmer=True, tokenizer=tokenizer)
    examples: dict[str, list[float]] = {key: [] for key in METRICS.get("rouge").keys}
    for generation, of_row in zip(generations, lists, strict=True):
        for kind, of_kind in scorer.score_multi(of_row, generation.text).items():
            examples[f"{kind}_f"].append(float(of_kind.fmeasure))
            examples[f"{kind}_p"].append(float(of_kind.precision))
            examples[f"{kind}_r"].append(float(of_kind.recall))
    words = "unicode" if foreign else "default"
    several = "refs:best|" if len(texts) > len(lists) else ""
    signature = f"{several}stemmer:porter|tok:{words}|agg:mean|version:{version('rouge-score')}"
    return Scores.per_example(examples, {"rouge": signature})


@text_metric("rouge", keys={f"{kind}_{part}": True for kind in ROUGE_TYPES for part in "fpr"}, several=_rouge)
def rouge(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    """ROUGE-1, -2 and -L (Lin 2004), F, precision and recall in 0..1, mean over rows; by rouge-score.

    With Porter stemming, as in the summarisation literature. rouge-score drops every letter outside a-z, and
    so scores 0 for most of the world's scripts: when a reference has letters or digits but none that it
    keeps, all texts are split into Unicode words instead, and the signature says so. The choice rests on
    the references alone and is therefore the same for all models that are compared. Of several references
    that with the highest F counts, for each kind, as rouge-score has it.
    """
    return _rouge(generations, references)


class _UnicodeWords:
    """A tokenizer for rouge-score: words of any script, English ones stemmed."""

    # Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without spaces between words.
    _word = re.compile(
        "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
        "|(?:(?![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])[^\\W_])+"
    )

    def tokenize(self, text: str) -> list[str]:
        stem = _porter()
        return [
            stem(word) if len(word) > 3 and word.isascii() else word
            for word in self._word.findall(text.lower())
        ]


@lru_cache(maxsize=1)
def _porter() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]

    stem: Callable[[str], str] = PorterStemmer().stem
    return stem


def _bleu(generations: Sequence[Generation], references: References) -> Scores:
    from sacrebleu.metrics import BLEU

    return _sacrebleu("bleu", BLEU(), generations, references)


@text_metric(
    "bleu",
    keys={"bleu": True},
    corpus={"bleu": CorpusMetric(bleu_statistics, bleu_score, 100.0, several=True)},
    several=_bleu,
)
def bleu(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    """Corpus BLEU in 0..100 (Papineni et al. 2002) by sacreBLEU (Post 2018), of one reference or several."""
    return _bleu(generations, references)


def _chrf(generations: Sequence[Generation], references: References) -> Scores:
    from sacrebleu.metrics import CHRF

    return _sacrebleu("chrf", CHRF(), generations, references)


@text_metric(
    "chrf",
    keys={"chrf": True},
    corpus={"chrf": CorpusMetric(chrf_statistics, chrf_score, 100.0, several=True)},
    several=_chrf,
)
def chrf(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    """Corpus chrF2 in 0..100 (Popovic 2015) by sacreBLEU: n-grams of characters, for any script."""
    return _chrf(generations, references)


def _sacrebleu(key: str, metric: Any, generations: Sequence[Generation], references: References) -> Scores:
    scored = metric.corpus_score([g.text for g in generations], _streams(references))
    return Scores({key: float(scored.score)}, signatures={key: str(metric.get_signature())})


@text_metric("exact_match", keys={"exact_match": True})
def exact_match(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    """Share of texts equal to their reference, or to any of them; whitespace counts as one space."""
    pairs = zip(generations, references, strict=True)
    return Scores.per_example({"exact_match": [float(squeeze(g.text) == squeeze(text)) for g, text in pairs]})


@text_metric("stop_rate", keys={"stop_rate": True})
def stop_rate(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    """Share of texts that the model ended itself, rather than being cut off at `max_new_tokens`."""
    return Scores.per_example({"stop_rate": [float(g.stopped) for g in generations]})


@text_metric("repetition_rate", keys={"repetition_rate": False})
def repetition_rate(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    """Mean over texts of the share of word n-grams that occurred before in the same text.

    seq-rep-n of Welleck et al. (2020): 1 - distinct n-grams / n-grams, 0 for a text with no n-gram. n is 4,
    as there; 2 for texts under 8 words, where 4-grams would miss "Bulgaria Bulgaria Bulgaria". Needs no
    reference.
    """
    return Scores.per_example({"repetition_rate": [repetition(g.text) for g in generations]})


def repetition(text: str) -> float:
    """Share of the word n-grams of `text` that repeat an earlier one; see `repetition_rate`."""
    words = text.lower().split()
    n = 4 if len(words) >= 8 else 2
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@text_metric("mean_length", keys={"mean_length": None})
def mean_length(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    """Mean number of generated tokens, the end of text not counted."""
    return Scores({"mean_length": sum(g.tokens for g in generations) / len(generations)})


def text_metrics(
    generations: Sequence[Generation],
    references: References,
    names: Sequence[str] | None = None,
) -> Scores:
    """Score generated texts.

    Args:
        generations: Made by `generate`, one a row.
        references: One a row, or of each row all that are right.
        names: Names of metrics; by default every one meant for free text.

    Raises:
        TypeError: A text is not a `Generation`.
        ValueError: Unequal numbers of texts and references, or none.
    """
    for generation in generations:
        if not isinstance(generation, Generation):
            raise TypeError(
                f"Text metrics score Generation objects made by generate(), not {type(generation).__name__}. "
                "Text taken from teacher-forced logits has seen the reference, so its score means nothing."
            )
    lists = _lists(references)
    firsts = [texts[0] for texts in lists]
    if len(lists) != len(generations) or all(len(texts) == 1 for texts in lists):
        return score("text", names or TEXT_METRICS, generations, firsts)
    return together(_of_several(METRICS.get(name), generations, lists) for name in names or TEXT_METRICS)


def _of_several(
    metric: Metric, generations: Sequence[Generation], references: Sequence[Sequence[str]]
) -> Scores:
    """A metric of rows with several references, by its own function or as the best of each row's."""
    if metric.several is not None:
        return metric.several(generations, references)
    turns = [
        metric.functions["text"](
            generations, [texts[number] if number < len(texts) else texts[0] for texts in references]
        )
        for number in range(max(map(len, references)))
    ]
    examples = {}
    for key in turns[0].examples:
        best = min if metric.keys[key] is False else max
        examples[key] = [
            best(numbers) for numbers in zip(*(turn.examples[key] for turn in turns), strict=True)
        ]
    means = Scores.per_example(examples).values
    return Scores(turns[0].values | means, examples, turns[0].signatures)
