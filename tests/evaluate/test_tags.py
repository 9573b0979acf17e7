"""Entities and words with the right tag: scores are seqeval's, and follow from sums over rows."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from deltatune.evaluation import metric_keys, tag_metrics
from deltatune.evaluation.metrics import METRICS, corpus_metric
from deltatune.recipe.sections import EvaluationSpec

KINDS = ("PER", "LOC", "a-b")
IOB2 = ["O", *(f"{place}-{kind}" for kind in KINDS for place in "BI")]
IOBES = ["O", *(f"{place}-{kind}" for kind in KINDS for place in "BIES")]


def corpora(tags: list[str], count: int = 40) -> Iterator[tuple[list[str], list[str]]]:
    """Predicted and true tags of a few rows; half of the words are right, and most are O in some corpora."""
    draw = random.Random(1)
    for number in range(count):
        weights = [number % 4 + 1, *[1] * (len(tags) - 1)]
        predictions, references = [], []
        for _ in range(draw.randint(1, 6)):
            true = draw.choices(tags, weights, k=draw.randint(1, 8))
            guess = [tag if draw.random() < 0.5 else draw.choice(tags) for tag in true]
            predictions.append(" ".join(guess))
            references.append(" ".join(true))
        yield predictions, references


@pytest.mark.parametrize("tags", [IOB2, IOBES, ["O", "I-PER", "I-LOC"]], ids=["IOB2", "IOBES", "IO"])
def test_scores_are_those_of_seqeval(tags: list[str]) -> None:
    theirs = pytest.importorskip("seqeval.metrics")
    for predictions, references in corpora(tags):
        lists = [[text.split() for text in texts] for texts in (references, predictions)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shares of nothing, which are 0 on both sides
            wanted = {
                "entity_f1": theirs.f1_score(*lists),
                "entity_precision": theirs.precision_score(*lists),
                "entity_recall": theirs.recall_score(*lists),
                "entity_macro_f1": theirs.f1_score(*lists, average="macro") if _some(*lists) else 0.0,
                "token_accuracy": theirs.accuracy_score(*lists),
            }
        assert tag_metrics(predictions, references, labels=tags).values == pytest.approx(wanted)


def _some(*sides: list[list[str]]) -> bool:
    return any(tag != "O" for side in sides for tags in side for tag in tags)


@pytest.mark.parametrize(
    "key", [key for name in ("entity", "token_accuracy") for key in METRICS.get(name).keys]
)
def test_a_score_follows_from_sums_over_rows(key: str) -> None:
    metric = corpus_metric(key)
    assert metric is not None
    draw = np.random.default_rng(0)
    for predictions, references in corpora(IOB2, 10):
        rows = metric.statistics(predictions, references, IOB2)
        chosen = draw.integers(0, len(rows), size=(5, len(rows)))
        scores = metric.score(rows[chosen].sum(axis=1))
        for of_rows, score in zip(chosen, scores, strict=True):
            drawn = [[texts[row] for row in of_rows] for texts in (predictions, references)]
            assert score == pytest.approx(tag_metrics(*drawn, labels=IOB2).values[key])


def test_words_without_o_are_each_for_themselves() -> None:
    scores = tag_metrics(["NN NN VB"], ["NN VB VB"], labels=["NN", "VB"]).values
    assert scores["entity_f1"] == scores["token_accuracy"] == pytest.approx(2 / 3)
    lost = tag_metrics(["NN O"], ["NN NN"], labels=["NN", "VB"]).values
    assert (lost["entity_recall"], lost["entity_precision"]) == (0.5, 1.0)


def test_metrics_of_the_task() -> None:
    keys = metric_keys(EvaluationSpec(), "token-classification")
    entity = ["entity_f1", "entity_precision", "entity_recall", "entity_macro_f1"]
    assert keys == [*entity, "token_accuracy", "loss"]
