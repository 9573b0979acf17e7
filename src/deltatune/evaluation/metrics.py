"""Metrics of generated text, of predicted classes and of predicted numbers.

A new metric is one function with a decorator:

    @text_metric("characters", keys={"characters": None})
    def characters(generations, references):
        return Scores.per_example({"characters": [float(len(g.text)) for g in generations]})

`keys` names the numbers it yields and says for each whether higher is better (None: neither way).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from deltatune.evaluation.corpus import Floats, correlation, determination, moments, rank_moments
from deltatune.evaluation.generation import Generation
from deltatune.registry import Registry
from deltatune.tasks.classes import METRICS as CLASS_METRICS
from deltatune.tasks.tokens import TEXT_METRICS
from deltatune.tasks.values import METRICS as VALUE_METRICS

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Scores:
    """What a metric found.

    Attributes:
        values: One number a key, over all rows.
        examples: Per key one number a row, for metrics that are means over rows.
        signatures: By metric name, what must be known to compare the numbers with others'.
    """

    values: dict[str, float]
    examples: dict[str, list[float]] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def per_example(
        cls, examples: dict[str, list[float]], signatures: dict[str, str] | None = None
    ) -> Scores:
        """Scores whose values are the means over the rows."""
        values = {key: sum(scores) / len(scores) for key, scores in examples.items()}
        return cls(values, examples, signatures or {})


TextFunction = Callable[[Sequence[Generation], Sequence[str]], Scores]
ClassFunction = Callable[[Sequence[str], Sequence[str], Sequence[str]], Scores]
"""(predictions, labels, all classes of the data) to scores."""
ValueFunction = Callable[[Sequence[float], Sequence[float]], Scores]
"""(predictions, true numbers) to scores."""


@dataclass(frozen=True)
class Metric:
    """A registered metric: its function, and for each key whether higher is better."""

    keys: Mapping[str, bool | None]
    text: TextFunction | None = None
    classes: ClassFunction | None = None
    values: ValueFunction | None = None


METRICS: Registry[Metric] = Registry("metric")
"""Metrics by the name that a recipe's `evaluation.metrics` bears."""


def text_metric(name: str, keys: Mapping[str, bool | None]) -> Callable[[TextFunction], TextFunction]:
    """Register a metric of generated texts against references."""

    def register(function: TextFunction) -> TextFunction:
        METRICS.add(name, Metric(keys, text=function))
        return function

    return register


def class_metric(name: str, keys: Mapping[str, bool | None]) -> Callable[[ClassFunction], ClassFunction]:
    """Register a metric of predicted against true labels; generated texts are compared as labels."""

    def register(function: ClassFunction) -> ClassFunction:
        METRICS.add(name, Metric(keys, classes=function, text=_on_text(function)))
        return function

    return register


def value_metric(name: str, keys: Mapping[str, bool | None]) -> Callable[[ValueFunction], ValueFunction]:
    """Register a metric of predicted against true numbers, in the data's units."""

    def register(function: ValueFunction) -> ValueFunction:
        METRICS.add(name, Metric(keys, values=function))
        return function

    return register


def _on_text(function: ClassFunction) -> TextFunction:
    def score(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
        labels = [_squeeze(text) for text in references]
        return function([_squeeze(g.text) for g in generations], labels, sorted(set(labels)))

    return score


def _squeeze(text: str) -> str:
    return " ".join(text.split())


@text_metric("rouge", keys={f"{kind}_{part}": True for kind in ROUGE_TYPES for part in "fpr"})
def rouge(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    """ROUGE-1, -2 and -L (Lin 2004), F, precision and recall in 0..1, mean over rows; by rouge-score.

    With Porter stemming, as in the summarisation literature. rouge-score drops every letter outside a-z, and
    so scores 0 for most of the world's scripts: when a reference has letters or digits but none that it
    keeps, all texts are split into Unicode words instead, and the signature says so. The choice rests on
    the references alone and is therefore the same for all models that are compared.
    """
    from rouge_score import rouge_scorer

    foreign = any(re.search(r"\w", text) and not re.search(r"[a-z0-9]", text.lower()) for text in references)
    tokenizer = _UnicodeWords() if foreign else None
    scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES), use_stemmer=True, tokenizer=tokenizer)
    examples: dict[str, list[float]] = {key: [] for key in METRICS.get("rouge").keys}
    for generation, reference in zip(generations, references, strict=True):
        for kind, score in scorer.score(reference, generation.text).items():
            examples[f"{kind}_f"].append(float(score.fmeasure))
            examples[f"{kind}_p"].append(float(score.precision))
            examples[f"{kind}_r"].append(float(score.recall))
    words = "unicode" if foreign else "default"
    signature = f"stemmer:porter|tok:{words}|agg:mean|version:{version('rouge-score')}"
    return Scores.per_example(examples, {"rouge": signature})


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


@text_metric("bleu", keys={"bleu": True})
def bleu(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    """Corpus BLEU in 0..100 (Papineni et al. 2002) by sacreBLEU (Post 2018), one reference a text."""
    from sacrebleu.metrics import BLEU

    return _sacrebleu("bleu", BLEU(), generations, references)


@text_metric("chrf", keys={"chrf": True})
def chrf(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    """Corpus chrF2 in 0..100 (Popovic 2015) by sacreBLEU: n-grams of characters, for any script."""
    from sacrebleu.metrics import CHRF

    return _sacrebleu("chrf", CHRF(), generations, references)


def _sacrebleu(key: str, metric: Any, generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    # sacreBLEU wants a list of reference *sets*, each as long as the corpus: one set here.
    score = metric.corpus_score([g.text for g in generations], [list(references)])
    return Scores({key: float(score.score)}, signatures={key: str(metric.get_signature())})


@text_metric("exact_match", keys={"exact_match": True})
def exact_match(generations: Sequence[Generation], references: Sequence[str]) -> Scores:
    """Share of texts equal to their reference, runs of whitespace counting as one space."""
    pairs = zip(generations, references, strict=True)
    return Scores.per_example(
        {"exact_match": [float(_squeeze(g.text) == _squeeze(text)) for g, text in pairs]}
    )


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


@class_metric("accuracy", keys={"accuracy": True})
def accuracy(predictions: Sequence[str], labels: Sequence[str], _: Sequence[str]) -> Scores:
    """Share of rows with the right label. A generated text must be the label, but for whitespace."""
    pairs = zip(predictions, labels, strict=True)
    return Scores.per_example({"accuracy": [float(guess == label) for guess, label in pairs]})


@class_metric("macro_f1", keys={"macro_f1": True})
def macro_f1(predictions: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> Scores:
    """Unweighted mean of F1 over all classes of the data, those without a row among the labels included.

    Predicting such a class is an F1 of 0 for it. A class that is neither among the labels nor predicted has
    no F1 and is left out, or the best possible predictions could not reach 1. A prediction that is no class
    (a generated text may be anything; of texts the classes are those of the labels) is a miss of the true
    one.
    Equals scikit-learn's `f1_score(labels, predictions, labels=classes, average="macro", zero_division=nan)`.
    """
    right = Counter(label for guess, label in zip(predictions, labels, strict=True) if guess == label)
    guessed, true = Counter(predictions), Counter(labels)
    there = [label for label in classes if guessed[label] or true[label]]
    scores = [2 * right[label] / (guessed[label] + true[label]) for label in there]
    return Scores({"macro_f1": sum(scores) / len(scores)})


@value_metric("mse", keys={"mse": False})
def mse(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Mean squared error, in the square of the data's unit."""
    pairs = zip(predictions, references, strict=True)
    return Scores.per_example({"mse": [(guess - truth) ** 2 for guess, truth in pairs]})


@value_metric("mae", keys={"mae": False})
def mae(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Mean absolute error, in the data's unit."""
    pairs = zip(predictions, references, strict=True)
    return Scores.per_example({"mae": [abs(guess - truth) for guess, truth in pairs]})


@value_metric("r2", keys={"r2": True})
def r2(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Share of the variance that is explained: 0 is as good as the rows' own mean, and 1 the best.

    Where all true numbers are the same it is 1 if each is met, and 0 else, as scikit-learn has it.
    """
    return Scores({"r2": float(determination(_sums(moments, predictions, references)))})


@value_metric("pearson", keys={"pearson": True})
def pearson(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Pearson's correlation; 0 if one side is the same number in all rows."""
    return Scores({"pearson": float(correlation(_sums(moments, predictions, references)))})


@value_metric("spearman", keys={"spearman": True})
def spearman(predictions: Sequence[float], references: Sequence[float]) -> Scores:
    """Spearman's correlation of ranks; 0 if one side is the same number in all rows."""
    return Scores({"spearman": float(correlation(_sums(rank_moments, predictions, references)))})


def _sums(
    rows: Callable[[Floats, Floats], Floats], predictions: Sequence[float], references: Sequence[float]
) -> Floats:
    sums: Floats = rows(np.array(predictions, dtype=float), np.array(references, dtype=float)).sum(axis=0)
    return sums


# Losses come from teacher-forced logits, never from texts, so they have no function here: see loss.py.
METRICS.add("loss", Metric({"loss": False}))
METRICS.add("perplexity", Metric({"perplexity": False}))


def text_metrics(
    generations: Sequence[Generation], references: Sequence[str], names: Sequence[str] | None = None
) -> Scores:
    """Score generated texts.

    Args:
        generations: Made by `generate`, one a row.
        references: One a row.
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
    return _score("text", names or TEXT_METRICS, generations, references)


def classification_metrics(
    predictions: Sequence[str],
    labels: Sequence[str],
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Scores:
    """Score predicted labels (names, one a row) against the true ones.

    Args:
        predictions: One a row.
        labels: The true ones.
        names: Names of metrics; by default all of classes.
        classes: All classes of the data; by default those among `labels`.

    Raises:
        ValueError: Unequal numbers of predictions and labels, or none.
    """
    return _score("classes", names or CLASS_METRICS, predictions, labels, classes or sorted(set(labels)))


def value_metrics(
    predictions: Sequence[float], references: Sequence[float], names: Sequence[str] | None = None
) -> Scores:
    """Score predicted numbers (one a row) against the true ones.

    Args:
        predictions: One a row.
        references: The true ones.
        names: Names of metrics; by default all of numbers.

    Raises:
        ValueError: Unequal numbers of both, or none.
    """
    return _score("values", names or VALUE_METRICS, predictions, references)


def _score(
    kind: str, names: Sequence[str], outputs: Sequence[Any], truths: Sequence[Any], *more: Sequence[str]
) -> Scores:
    """Run each named metric's function of `kind` and put the results together."""
    if len(outputs) != len(truths) or not truths:
        raise ValueError(f"{len(outputs)} predictions for {len(truths)} references; one each is needed.")
    together = Scores({})
    for name in names:
        found: Scores = getattr(METRICS.get(name), kind)(outputs, truths, *more)
        together.values.update(found.values)
        together.examples.update(found.examples)
        together.signatures.update(found.signatures)
    return together
