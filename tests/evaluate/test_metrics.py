from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from sklearn.metrics import accuracy_score, f1_score

from deltatune.evaluation import METRICS, classification_metrics, text_metrics
from deltatune.evaluation.generation import _PROOF, Generation
from deltatune.evaluation.keys import metric_keys
from deltatune.evaluation.metrics.texts import repetition
from deltatune.recipe.sections import EvaluationSpec
from deltatune.tasks import TASKS
from tests.extending import module

REFERENCES = ["List of Bulgarian footballers", "1998 in film", "The running of the bulls", "Élan vital"]
TEXTS = ["List of Bulgarian football players", "1998  in film", "running bulls bulls bulls bulls", "elan"]


def made(texts, stopped=True):
    return [Generation(text, len(text.split()), stopped, _PROOF) for text in texts]


def test_rouge_equals_rouge_score():
    found = text_metrics(made(TEXTS), REFERENCES, ["rouge"])
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for key in METRICS.get("rouge").keys:
        kind, part = key.split("_")
        part = {"f": "fmeasure", "p": "precision", "r": "recall"}[part]
        each = [
            getattr(scorer.score(ref, text)[kind], part) for ref, text in zip(REFERENCES, TEXTS, strict=True)
        ]
        assert found.examples[key] == pytest.approx(each)
        assert found.values[key] == pytest.approx(sum(each) / len(each))
    assert "tok:default" in found.signatures["rouge"]


def test_rouge_scores_scripts_that_rouge_score_drops():
    references = ["Список болгарских футболистов", "保加利亚足球运动员列表"]
    found = text_metrics(made(["Список футболистов", "足球运动员"]), references, ["rouge"])
    assert found.examples["rouge1_p"] == [1.0, 1.0]
    assert found.examples["rouge1_r"] == pytest.approx([2 / 3, 5 / 11])
    assert "tok:unicode" in found.signatures["rouge"]
    plain = rouge_scorer.RougeScorer(["rouge1"], use_stemmer=True)
    assert plain.score(references[0], references[0])["rouge1"].fmeasure == 0


def test_unicode_words_equal_the_default_on_english():
    plain = text_metrics(made(TEXTS[:3]), REFERENCES[:3], ["rouge"]).examples["rougeL_f"]
    mixed = text_metrics(made([*TEXTS[:3], "я"]), [*REFERENCES[:3], "я"], ["rouge"]).examples["rougeL_f"]
    assert mixed == [*plain, 1.0]


def test_bleu_and_chrf_equal_sacrebleu_with_signature():
    found = text_metrics(made(TEXTS), REFERENCES, ["bleu", "chrf"])
    assert found.values["bleu"] == pytest.approx(sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score)
    assert found.values["chrf"] == pytest.approx(sacrebleu.corpus_chrf(TEXTS, [REFERENCES]).score)
    assert found.signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert text_metrics(made(REFERENCES[:3]), REFERENCES[:3], ["bleu"]).values["bleu"] == pytest.approx(100)


def test_teacher_forced_text_is_refused():
    with pytest.raises(TypeError, match="teacher-forced"):
        text_metrics(["List of players"], ["List of players"])  # type: ignore[list-item]


def test_exact_match_minds_letters_but_not_whitespace():
    found = text_metrics(made(["a  b\n", "A b"]), ["a b", "a b"], ["exact_match"])
    assert found.examples["exact_match"] == [1.0, 0.0]


def test_stop_rate_and_length():
    generations = [*made(["a b c"]), *made(["a"], stopped=False)]
    found = text_metrics(generations, ["x", "y"], ["stop_rate", "mean_length"])
    assert found.values == {"stop_rate": 0.5, "mean_length": 2.0}


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("", 0.0),
        ("Bulgaria", 0.0),
        ("Bulgaria Bulgaria Bulgaria", 0.5),
        ("1998 in film", 0.0),
        ("a b c d e f g h", 0.0),
        ("a b c d a b c d", 0.2),  # 5 four-grams, the last is the first again
        ("the cat of the cat", 0.25),
    ],
)
def test_repetition(text, rate):
    assert repetition(text) == pytest.approx(rate)


@given(st.lists(st.sampled_from("abc"), max_size=20))
def test_repetition_is_a_share_and_a_doubled_text_has_three_new_grams_at_most(words):
    text, count = " ".join(words), len(words)
    assert 0 <= repetition(text) < 1
    if count >= 8:
        distinct = (1 - repetition(text)) * (count - 3)
        # All others of its 2 n - 3 grams occurred before; only those across the middle can be new.
        assert repetition(f"{text} {text}") >= 1 - (distinct + 3) / (2 * count - 3) - 1e-9


LABELS = st.sampled_from(["good", "bad", "fair"])


@given(st.lists(st.tuples(LABELS | st.just("nonsense"), LABELS), min_size=1, max_size=20))
def test_class_metrics_equal_sklearn(pairs):
    guesses, labels = [guess for guess, _ in pairs], [label for _, label in pairs]
    found = classification_metrics(guesses, labels)
    assert found.values["accuracy"] == pytest.approx(accuracy_score(labels, guesses))
    expected = f1_score(labels, guesses, labels=sorted(set(labels)), average="macro", zero_division=0)
    assert found.values["macro_f1"] == pytest.approx(expected)
    as_text = text_metrics(made(f" {guess} " for guess in guesses), labels, ["accuracy", "macro_f1"])
    assert as_text.values == found.values


@given(st.lists(st.tuples(LABELS, LABELS.filter(lambda label: label != "fair")), min_size=1, max_size=20))
def test_macro_f1_is_over_all_classes_of_the_data(pairs):
    """A class that no test row has is a mistake where it is predicted; so far it was left out."""
    guesses, labels = [guess for guess, _ in pairs], [label for _, label in pairs]
    classes = ["bad", "fair", "good"]
    found = classification_metrics(guesses, labels, classes=classes).values["macro_f1"]
    expected = f1_score(labels, guesses, labels=classes, average="macro", zero_division=np.nan)
    assert found == pytest.approx(expected)
    if "fair" in guesses:
        assert found <= 2 / 3


def test_unequal_or_no_rows_are_refused():
    with pytest.raises(ValueError, match="1 predictions for 2"):
        text_metrics(made(["a"]), ["a", "b"])
    with pytest.raises(ValueError, match="0 predictions"):
        classification_metrics([], [])


def test_a_new_metric_is_one_function():
    try:
        TASKS.add("titles", module("titles").TASK)
        assert text_metrics(made(["ab", "abcd"]), ["", ""], ["characters"]).values == {"characters": 3.0}
        assert {"characters", "rougeL_f", "loss"} <= set(metric_keys(EvaluationSpec(), "titles"))
        assert "characters" not in metric_keys(EvaluationSpec(), "text-to-text")
    finally:
        METRICS.remove("characters")
        TASKS.remove("titles")
