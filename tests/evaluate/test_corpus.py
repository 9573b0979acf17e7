"""Corpus metrics from sums: equal to sacreBLEU and scikit-learn on any corpus, so on any resampled one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from sklearn.metrics import f1_score

from deltatune.evaluation.metrics import METRICS, corpus_metric

TEXTS = st.text(st.sampled_from("ab .ü"), max_size=24)
CORPUS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)
LABELS = st.lists(st.tuples(st.sampled_from("abcx"), st.sampled_from("abc")), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(CORPUS, st.sampled_from(["bleu", "chrf"]), st.randoms())
def test_texts_score_as_sacrebleu_does(corpus, name, random):
    metric = corpus_metric(name)
    predictions, references = map(list, zip(*corpus, strict=True))
    rows = metric.statistics(predictions, references, ())
    drawn = [random.randrange(len(corpus)) for _ in corpus]
    found = metric.score(np.stack([rows.sum(axis=0), rows[drawn].sum(axis=0)]))
    oracle = {"bleu": BLEU, "chrf": CHRF}[name]()
    expected = [
        oracle.corpus_score(predictions, [references]).score,
        oracle.corpus_score([predictions[i] for i in drawn], [[references[i] for i in drawn]]).score,
    ]
    assert found == pytest.approx(expected, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(LABELS)
def test_classes_score_as_scikit_learn_does(pairs):
    guesses, truths = map(list, zip(*pairs, strict=True))
    metric = corpus_metric("macro_f1")
    for classes in ((), ("a", "b", "c", "x")):
        found = metric.score(metric.statistics(guesses, truths, classes).sum(axis=0))
        labels = sorted({*truths, *classes})
        expected = f1_score(truths, guesses, labels=labels, average="macro", zero_division=np.nan)
        assert found == pytest.approx(expected)


def test_they_are_keys_of_their_metrics():
    for name in METRICS.names():
        assert set(METRICS.get(name).corpus) <= set(METRICS.get(name).keys)
    assert corpus_metric("bleu") is not None
    assert corpus_metric("accuracy") is None
