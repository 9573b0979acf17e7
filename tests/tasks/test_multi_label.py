"""Rows with any number of labels, from the rows to labels with a threshold that validation rows chose."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import deltatune as dt
from deltatune.core.loss import loss_of
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoder
from deltatune.data.load import load_data
from deltatune.evaluation import loss_on
from deltatune.models.load import load_base
from deltatune.recipe import Recipe
from deltatune.results import Prediction, read_predictions
from deltatune.runs import evaluate_run
from deltatune.tasks import TASKS
from deltatune.tasks.label_sets import labels_of
from deltatune.testing import task_checks

TASK = "multi-label-classification"
WORDS = {"bad": "angry", "good": "glad", "song": "music", "book": "print", "ship": "sea"}


def tagged(count: int = 60, as_column: Callable[[list[str]], Any] = list) -> list[dict[str, Any]]:
    """Texts of which each known word has a label, and some have none."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        words = [word for word in WORDS if draw.random() < 0.35]
        text = " ".join([*words, *(["and so on"] if number % 3 else [])]) or "nothing"
        rows.append({"input": f"{number} {text}", "target": as_column([WORDS[word] for word in words])})
    return rows


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


def recipe_of(model: Path, rows: Any = None, **changes: Any) -> Recipe:
    sections: dict[str, Any] = {
        "task": TASK,
        "model": str(model),
        "data": tagged() if rows is None else rows,
        "methods": ["lora"],
        "train": {"max_steps": 8, "batch_size": 8, "precision": "fp32", "evaluate_every": 4},
    }
    return dt.make_recipe(**(sections | changes))


SLOW = {"methods_are_compared": [pytest.mark.slow]}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=str(check), marks=SLOW.get(check.name, []))
        for check in task_checks(TASKS.get(TASK), tagged(60))
    ],
)
def test_it_keeps_what_tasks_promise(check: Callable[[], None]) -> None:
    check()


def test_the_loss_is_that_of_transformers(bert_folder: Path) -> None:
    recipe = recipe_of(bert_folder)
    data = load_data(recipe.data, recipe.task)
    assert data.labels == sorted(WORDS.values())
    base = load_base(recipe.model, recipe.task, data.labels)
    assert base.model.config.problem_type == "multi_label_classification"
    assert list(base.model.config.id2label.values()) == data.labels
    encoder = Encoder(recipe.task, base.processor, recipe.data, base.labels, base.facts)
    encoded = encoder.encode(data.train)
    batch = encoder.collate(encoded.features)
    wanted = [[float(label in labels_of(row.target)) for label in data.labels] for row in data.train]
    torch.testing.assert_close(batch["labels"], torch.tensor(wanted))
    assert any(not any(row) for row in wanted), "some have none"
    with torch.no_grad():
        theirs = base.model(**batch).loss.item()
    model = AdaptedModel(base.model, base.new_modules, processor=base.processor).eval()
    found = loss_on(model, encoded, encoder, batch_size=7)
    assert found["loss"] == pytest.approx(theirs, rel=1e-5)
    assert found["tokens"] == len(data.train)
    with torch.no_grad():
        summed = loss_of(recipe.task, *TASKS.get(recipe.task).logits(model, batch)).item()
    assert summed / len(data.train) == pytest.approx(theirs, rel=1e-5)


def flags(texts: list[str], labels: list[str]) -> np.ndarray:
    return np.array([[label in labels_of(text) for label in labels] for text in texts])


def test_from_rows_to_labels_by_a_threshold_of_validation_rows(bert_folder: Path, tmp_path: Path) -> None:
    methods, train = [{"full": {}}], {"epochs": 12, "lr": 5e-3, "head_lr": 1e-2, "batch_size": 32}
    recipe = recipe_of(bert_folder, tagged(160), methods=methods, train=train)
    result = dt.train(recipe, tmp_path / "run", quiet=True)
    metrics, threshold, labels = result.metrics.test, result.threshold, result.data.labels
    assert labels is not None
    assert threshold is not None
    assert metrics["micro_f1"] > 0.5, metrics
    lines = read_predictions(tmp_path / "run/predictions.jsonl", remedy="")
    for line in lines:
        assert line.probabilities is not None
        assert list(line.probabilities) == labels
        assert labels_of(line.prediction) == [k for k, p in line.probabilities.items() if p >= threshold]
        assert line.scores == {"exact_match": float(line.prediction == line.reference)}
        wanted = labels_of(line.reference)
        each = [-np.log(p if label in wanted else 1 - p) for label, p in line.probabilities.items()]
        assert line.nll == pytest.approx(np.mean(each), rel=1e-3, abs=1e-5)
    given, true = (flags([getattr(p, name) for p in lines], labels) for name in ("prediction", "reference"))
    assert metrics["micro_f1"] == pytest.approx(f1_score(true, given, average="micro"))
    assert metrics["macro_f1"] == pytest.approx(f1_score(true, given, average="macro", zero_division=np.nan))
    assert metrics["exact_match"] == pytest.approx((given == true).all(axis=1).mean())

    kept = tmp_path / "validation.jsonl"
    on_validation = evaluate_run(tmp_path / "run", split="validation", predictions=kept)
    chosen_by = read_predictions(kept, remedy="")
    chances = np.array([list((p.probabilities or {}).values()) for p in chosen_by])
    truth = flags([p.reference for p in chosen_by], labels)
    tried = [f1_score(truth, chances >= limit, average="micro") for limit in np.unique(chances)]
    assert on_validation["micro_f1"] == pytest.approx(max(tried)), "no other threshold is better"
    assert evaluate_run(tmp_path / "run") == pytest.approx(metrics, rel=1e-5)

    [answer] = dt.predict(tmp_path / "run", [lines[0].input])
    assert isinstance(answer, Prediction)
    assert answer.prediction == lines[0].prediction
    assert answer.probabilities == pytest.approx(lines[0].probabilities, rel=1e-4)
    dt.merge(tmp_path / "run", tmp_path / "merged")
    config = json.loads((tmp_path / "merged/config.json").read_text("utf-8"))
    assert config["problem_type"] == "multi_label_classification"
    assert config["label_threshold"] == threshold
    assert list(config["id2label"].values()) == labels
