"""Scores of classifiers are scikit-learn's, of all rows and of any that a resample draws."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from deltatune.evaluation import METRICS, classification_metrics, higher_is_better
from deltatune.evaluation.metrics import chance_metric, corpus_metric
from deltatune.evaluation.metrics.chances import BINS, BySums, ClassChances, odds
from deltatune.evaluation.metrics.curves import CURVES, _each_way
from deltatune.report import display
from deltatune.tasks.classes import MORE_METRICS, positive_last

CLASSES = ("a", "b", "c", "d")
COUNTED = ("mcc", "balanced_accuracy", "sensitivity", "specificity", "macro_f1")
GUESSES = st.lists(st.tuples(st.sampled_from("abcdx"), st.sampled_from("abcd")), min_size=1, max_size=40)


def scored(name: str, guesses: list[str], truths: list[str], classes: tuple[str, ...]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "mcc":
            known = [guess if guess in classes else "none of them" for guess in guesses]
            return float(oracle.matthews_corrcoef(truths, known))
        if name == "balanced_accuracy":
            return float(oracle.balanced_accuracy_score(truths, guesses))
        if name == "macro_f1":
            return float(
                oracle.f1_score(truths, guesses, labels=classes, average="macro", zero_division=np.nan)
            )
        table = oracle.multilabel_confusion_matrix(truths, guesses, labels=classes)
        kept = table[1:] if len(classes) == 2 else table
        down = kept[:, 1] if name == "sensitivity" else kept[:, 0]
        hits = kept[:, 1, 1] if name == "sensitivity" else kept[:, 0, 0]
        there = down.sum(axis=1) > 0
        return float((hits[there] / down.sum(axis=1)[there]).mean()) if there.any() else 0.0


@settings(max_examples=25, deadline=None)
@given(GUESSES, st.sampled_from([2, 4]), st.randoms(use_true_random=False))
def test_counts_score_as_scikit_learn_does(pairs, count, random):
    classes = CLASSES[:count]
    kept = [(g, t) for g, t in pairs if t in classes] or [("x", "a")]
    drawn = [random.choice(kept) for _ in kept]
    for name in COUNTED:
        metric = corpus_metric(name)
        for rows in (kept, drawn):
            guesses, truths = map(list, zip(*rows, strict=True))
            expected = scored(name, guesses, truths, classes)
            sums = metric.statistics(guesses, truths, classes).sum(axis=0)
            assert metric.score(sums) == pytest.approx(expected, abs=1e-12), name
            assert metric.low <= metric.score(sums) <= metric.high
            value = classification_metrics(guesses, truths, [name], classes).values[name]
            assert value == pytest.approx(expected, abs=1e-12)


def curves(name: str, scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    """Of scikit-learn, of each class that can have one."""
    function = {"roc_auc": oracle.roc_auc_score, "average_precision": oracle.average_precision_score}[name]
    found = []
    for of_class, flags in zip(scores.T, positive.T, strict=True):
        inside, outside = weights[flags].sum(), weights[~flags].sum()
        if inside and (outside or name == "average_precision"):
            found.append(function(flags, of_class, sample_weight=weights))
    return float(np.mean(found)) if found else {"roc_auc": 0.5, "average_precision": 0.0}[name]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**31), st.sampled_from([2, 5, 1000]))
def test_areas_of_weighted_rows_are_scikit_learns(rows, classes, seed, levels):
    """With ties, classes that no row has, and resamples that leave a class out."""
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels, (rows, classes)).astype(float)
    positive = random.random((rows, classes)) < random.random()
    weights = random.multinomial(rows, np.full(rows, 1 / rows), size=4).T
    for name, curve in CURVES.items():
        found = curve.macro(scores, positive, weights)
        expected = [curves(name, scores, positive, weights[:, draw]) for draw in range(4)]
        assert found == pytest.approx(expected, abs=1e-12)
        one = curves(name, scores, positive, np.ones(rows))
        assert curve.value(scores, positive) == pytest.approx(one, abs=1e-12)
    # The short way to exchange rows is the long one.
    other = random.integers(0, levels, (rows, classes)).astype(float)
    moved = random.integers(0, 2, (rows, 6)).astype(float)
    short = CURVES["roc_auc"].exchange(scores, other, positive, moved)
    assert short == pytest.approx(_each_way(CURVES["roc_auc"], scores, other, positive, moved), abs=1e-12)


def chances(classes: int, rows: int = 200, seed: int = 0, spread: float = 2.0):
    """Probabilities as they are written, labels and answers."""
    random = np.random.default_rng(seed)
    names = [f"c{place}" for place in range(classes)]
    labels = random.integers(0, classes, rows)
    logits = random.normal(0, spread, (rows, classes)) + spread * np.eye(classes)[labels]
    table = np.exp(logits - logits.max(axis=1, keepdims=True))
    table /= table.sum(axis=1, keepdims=True)
    written = [{name: float(f"{p:.6g}") for name, p in zip(names, row, strict=True)} for row in table]
    answers = [names[place] for place in table.argmax(axis=1)]
    return names, [names[label] for label in labels], answers, written, table, logits


@pytest.mark.parametrize("classes", [2, 5])
def test_probabilities_score_as_scikit_learn_does(classes):
    names, labels, answers, written, table, _ = chances(classes)
    found = classification_metrics(answers, labels, MORE_METRICS, names, written)
    truths = np.array([[label == name for name in names] for label in labels])
    if classes == 2:
        area = oracle.roc_auc_score(truths[:, 1], table[:, 1])
        precision = oracle.average_precision_score(truths[:, 1], table[:, 1])
        brier = oracle.brier_score_loss(truths[:, 1], table[:, 1])
        assert found.signatures["sensitivity"] == "positive:c1"
    else:
        area = oracle.roc_auc_score(truths, table, multi_class="ovr", average="macro")
        precision = oracle.average_precision_score(truths, table, average="macro")
        brier = oracle.brier_score_loss(labels, table, labels=names)
        assert found.signatures["sensitivity"] == "mean:classes"
    assert found.values["roc_auc"] == pytest.approx(area, abs=1e-9)
    assert found.values["average_precision"] == pytest.approx(precision, abs=1e-9)
    assert found.values["brier"] == pytest.approx(brier, abs=1e-6)
    assert found.values["ece"] == pytest.approx(guo(table, truths), abs=1e-6)


def guo(table: np.ndarray, truths: np.ndarray) -> float:
    """The loop of the code that goes with the paper (gpleiss/temperature_scaling, ECELoss)."""
    confidences, right = table.max(axis=1), truths[np.arange(len(table)), table.argmax(axis=1)]
    ends = np.linspace(0, 1, BINS + 1)
    total = 0.0
    for lower, upper in pairwise(ends):
        within = (confidences > lower) & (confidences <= upper)
        if within.any():
            total += abs(confidences[within].mean() - right[within].mean()) * within.mean()
    return total


@pytest.mark.parametrize("classes", [2, 3])
def test_sure_rows_are_told_apart_though_six_digits_are_all_ones(classes):
    names, labels, _, written, _, logits = chances(classes, spread=14.0)
    assert sum(max(row.values()) == 1 for row in written) > 40
    scores = odds(ClassChances.of(written, labels, labels, names).table)
    exact = [logits[:, k] - np.logaddexp.reduce(np.delete(logits, k, axis=1), axis=1) for k in range(classes)]
    truths = np.array([[label == name for name in names] for label in labels])
    for k in range(classes):
        wanted = oracle.roc_auc_score(truths[:, k], exact[k])
        assert CURVES["roc_auc"].value(scores[:, [k]], truths[:, [k]]) == pytest.approx(wanted, abs=1e-4)
        plain = oracle.roc_auc_score(truths[:, k], [row[names[k]] for row in written])
        assert abs(plain - wanted) < 0.2


def test_of_more_than_a_hundred_classes_what_is_left_counts_as_well():
    names = [f"c{place}" for place in range(150)]
    kept = dict.fromkeys(names[:100], 0.002) | {"c0": 0.5}
    table = ClassChances.of([kept], ["c0"], ["c120"], names).table
    assert odds(table)[0, 0] == pytest.approx(1.0, rel=1e-6)
    assert odds(table)[0, 120] == 0
    metric = chance_metric("brier")
    assert metric.value(ClassChances.of([kept], ["c0"], ["c120"], names)) == pytest.approx(1.25 + 99 * 4e-6)


def test_one_class_alone_gives_numbers():
    """As an unlucky test set, or a resample, has it; none of them is NaN."""
    written = [{"a": 0.3, "b": 0.7}, {"a": 0.6, "b": 0.4}]
    for label in "ab":
        found = classification_metrics(["b", "a"], [label] * 2, MORE_METRICS, ("a", "b"), written).values
        assert all(np.isfinite(value) for value in found.values())
        assert found["roc_auc"] == 0.5
        assert found["mcc"] == 0
    assert found["average_precision"] == 1
    for classes in (2, 3):  # a model that always says the same
        names, labels, _, written, *_ = chances(classes)
        same = classification_metrics(
            ["c0"] * len(labels), labels, MORE_METRICS, names, [written[0]] * len(labels)
        )
        assert same.values["roc_auc"] == 0.5
        assert same.values["mcc"] == 0
        assert same.values["balanced_accuracy"] == pytest.approx(1 / classes)


def test_which_class_is_positive():
    assert positive_last(["pneumonia", "normal"], None) == ["normal", "pneumonia"]
    assert positive_last(["pneumonia", "normal"], "normal") == ["pneumonia", "normal"]
    assert positive_last(["10", "9"], None) == ["9", "10"]
    assert positive_last(["c", "a", "b"], None) == ["a", "b", "c"]
    guesses, labels = ["n", "n", "n", "p"], ["n", "n", "p", "p"]
    there = classification_metrics(guesses, labels, ["sensitivity", "specificity"], ("n", "p")).values
    assert there == {"sensitivity": 0.5, "specificity": 1.0}
    back = classification_metrics(guesses, labels, ["sensitivity", "specificity"], ("p", "n")).values
    assert back == {"sensitivity": 1.0, "specificity": 0.5}


def test_names_that_differ_in_blanks_are_different_classes():
    """They were one in intervals, where runs of blanks in texts count as one."""
    metric = corpus_metric("macro_f1")
    rows = metric.statistics(["a b", "a b"], ["a b", "a  b"], ("a b", "a  b"))
    assert metric.score(rows.sum(axis=0)) == pytest.approx(1 / 3)
    texts = metric.statistics(["a b", "a b"], ["a b", "a  b"], ())
    assert metric.score(texts.sum(axis=0)) == 1


def test_each_has_a_direction_and_a_name_for_people():
    assert {key for key in MORE_METRICS if not higher_is_better(key)} == {"ece", "brier"}
    assert all(display.style(key).label != key for key in MORE_METRICS)
    directions = {k: d for name in METRICS.names() for k, d in METRICS.get(name).keys.items()}
    assert {key for key, up in directions.items() if up is False} | {"mean_length"} == display.LOWER_FIRST
    biased = {key for key in MORE_METRICS if isinstance(m := chance_metric(key), BySums) and m.biased}
    assert biased == {"ece"}
