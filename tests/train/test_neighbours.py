"""Nearest neighbours and copies: scikit-learn's answers on the same vectors, and texts without any model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from transformers import AutoModel, AutoTokenizer

from deltatune.checkpoint.saved import read_adapter
from deltatune.core.model import AdaptedModel
from deltatune.data.load import load_data
from deltatune.errors import RecipeError, TargetError
from deltatune.methods import METHODS
from deltatune.methods.copy_input import CopyConfig
from deltatune.methods.knn import TARGETS, VECTORS, Neighbours
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.recipe.baselines import TRAIN_NOTHING, trains
from deltatune.report.load import Method
from deltatune.results import LeaderboardRow, MeanCost, RunResult
from deltatune.runs import Failed, evaluate_run, predict
from deltatune.testing import tiny
from deltatune.training import Context, run
from deltatune.watch.plan import plan_of

Make = Callable[..., Recipe]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]


def done(recipe: Recipe, out: Path) -> RunResult:
    result = run(recipe, recipe.methods[0], 0, out)
    assert isinstance(result, RunResult)
    return result


class Warned(Silent):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def vectors_of(base: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    """Means of a model's last states by Transformers alone, a text at a time, of length 1."""
    tokenizer, model, found = AutoTokenizer.from_pretrained(base), AutoModel.from_pretrained(base), []
    for text in texts:
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        found.append((mean / mean.norm()).numpy())
    return np.stack(found)


def test_which_methods_train_nothing_is_what_they_say() -> None:
    untrained = {name for name in METHODS.names() if not METHODS.get(name).trains}
    assert set(TRAIN_NOTHING) == untrained
    assert {name for name in METHODS.names() if not trains(name)} == untrained


def test_a_method_of_others_says_itself_that_it_trains_nothing() -> None:
    class Guess(CopyConfig):
        name: ClassVar[str] = "guess"

    assert trains("guess")  # a recipe from elsewhere, and nobody to ask
    METHODS.add("guess", Guess)
    try:
        assert not trains("guess")
        [entry] = plan_of(b"methods: [{guess: {}}]\ntune: {lr: 3}").entries
        assert (entry.trains, entry.tries) == (False, 1)
        assert not Method(LeaderboardRow(name="guess", method="guess")).trained
    finally:
        METHODS.remove("guess")
    cost = MeanCost(trained_parameters=0)  # nobody to ask, and runs that are over
    assert not Method(LeaderboardRow(name="guess", method="guess", cost=cost)).trained


def test_classes_are_those_of_scikit_learn(make_classifier: Make, bert_folder: Path, tmp_path: Path) -> None:
    recipe = make_classifier(methods=[{"knn": {"k": 3}}])
    result = done(recipe, tmp_path / "run")
    assert all(line.passed for line in result.certificate)
    assert result.cost.trained_parameters == 0
    assert result.cost.train_seconds > 0  # of the pass over the training rows
    data, labels = load_data(recipe.data, recipe.task), result.data.labels
    assert labels is not None
    train, test = (
        vectors_of(bert_folder, [str(row.input) for row in part]) for part in (data.train, data.test)
    )
    own = {
        name.rpartition("neighbours.")[2]: t
        for name, t in read_adapter(tmp_path / "run/adapter").tensors.items()
    }
    assert own["vectors"].numpy() == pytest.approx(train, abs=1e-5)
    oracle = KNeighborsClassifier(n_neighbors=3, metric="cosine", algorithm="brute")
    targets = [row.target for row in data.train]
    oracle.fit(train, targets)
    shares = np.array([(targets.count(label) + 1) / (len(targets) + len(labels)) for label in labels])
    expected = (3 * oracle.predict_proba(test) + shares) / 4  # one more vote, for the shares of the classes
    found = np.array([[row["probabilities"][label] for label in labels] for row in lines(tmp_path / "run")])
    assert found == pytest.approx(expected, abs=1e-5)
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test, rel=1e-5)
    rows = lines(tmp_path / "run")
    again = [
        p.prediction
        for p in predict(tmp_path / "run", [row["input"] for row in rows])
        if not isinstance(p, Failed)
    ]
    assert again == [row["prediction"] for row in rows]


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(n, marks=[] if n in ("bert", "dinov2") else [pytest.mark.slow]) for n in tiny.CLASSIFIERS],
)
def test_any_head_is_replaced(architecture: str) -> None:
    """With one neighbour each training row has its own class; a base without the adapter is as it was."""
    model, batch = AdaptedModel(tiny.model(architecture), tiny.heads(architecture)), tiny.batch(architecture)
    plain = model.class_logits(batch)
    adapter = model.attach("a", METHODS.get("knn")(k=1))
    assert isinstance(adapter, Neighbours)
    rows = list(range(len(batch["labels"])))
    adapter.see_rows(rows, lambda: [(rows, batch)])  # type: ignore[arg-type]
    with torch.inference_mode():
        assert model.class_logits(batch).argmax(dim=1).tolist() == batch["labels"].tolist()
        model.use()
        torch.testing.assert_close(model.class_logits(batch), plain)
        with model.routing({"a": slice(1, 3)}, len(rows)):
            mixed = model.class_logits(batch)
    assert mixed[1:3].argmax(dim=1).tolist() == batch["labels"][1:3].tolist()
    torch.testing.assert_close(mixed[[0, 3]], plain[[0, 3]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_numbers_and_labels_are_those_of_scikit_learn(kind: Any) -> None:
    random = np.random.default_rng(0)
    train, test = (random.normal(size=(count, 6)).astype("float32") for count in (40, 9))
    train, test = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, test))
    targets = random.normal(size=(40, 2)) if kind == "numbers" else random.integers(0, 2, size=(40, 3))
    model = AdaptedModel(tiny.model("bert"), tiny.heads("bert"))
    adapter = Neighbours(model.view, 5, targets.shape[1], kind)
    adapter.load_stored({VECTORS: torch.tensor(train), TARGETS: torch.tensor(targets).float()})
    found = adapter.logits_of(torch.tensor(test), torch.zeros(9, targets.shape[1])).numpy()
    mean = KNeighborsRegressor(5, metric="cosine", algorithm="brute").fit(train, targets).predict(test)
    if kind == "labels":
        found, mean = 1 / (1 + np.exp(-found)), (5 * mean + (targets.sum(axis=0) + 1) / 42) / 6
    assert found == pytest.approx(mean, abs=1e-5)


def test_texts_are_copied_from_neighbours_and_from_the_input(make_recipe: Make, tmp_path: Path) -> None:
    """A word of each input is its title, and eight rows have the same: five neighbours agree."""
    recipe = make_recipe('data.template="shorten: {input}"', methods=["knn"], train={"precision": "fp32"})
    result = done(recipe, tmp_path / "knn")
    rows = lines(tmp_path / "knn")
    assert sum(row["prediction"] == row["reference"] for row in rows) >= 8
    assert all(row["stopped"] for row in rows)
    assert "loss" not in result.metrics.test
    assert result.metrics.validation == {}
    observer = Warned()
    assert evaluate_run(tmp_path / "knn", observer=observer) == result.metrics.test
    assert not observer.said
    evaluate_run(tmp_path / "knn", split="train", observer=observer)
    assert "each is its own nearest row" in observer.said[0]
    recipe = make_recipe('data.template="shorten: {input}"', methods=["copy"], train={"precision": "fp32"})
    result = done(recipe, tmp_path / "copy")
    assert result.cost.file_bytes == 0
    for row in lines(tmp_path / "copy"):
        text = row["input"].removeprefix("shorten: ")
        assert text.startswith(row["prediction"])
        assert row["prediction"] == text.strip() or not row["stopped"]
    [said] = predict(tmp_path / "copy", ["a b c"])
    assert not isinstance(said, Failed)
    assert said.prediction == "a b c"


def test_a_loss_cannot_rank_what_has_none(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused at once, not when its turn comes; as is a method of others that does not say so."""
    for ranked in ("evaluation.primary=loss", "evaluation.metrics=[loss]"):
        recipe = make_recipe(ranked, methods=["lora", "copy", "knn"])
        with pytest.raises(RecipeError, match="copy has none"):
            Context.open(recipe, Silent())
    monkeypatch.setattr(CopyConfig, "answers_texts", False)
    recipe = make_recipe("evaluation.primary=loss", methods=["copy"])
    with pytest.raises(RecipeError, match="copy has none"):
        done(recipe, tmp_path / "run")
    model = AdaptedModel(tiny.model("bert"), tiny.heads("bert"))
    with pytest.raises(TargetError, match="writes no text"):
        model.attach("a", METHODS.get("copy")())


def test_the_majority_of_numbers_is_their_mean() -> None:
    """A head tells numbers in standard deviations from their mean."""
    base = tiny.model("bert")
    base.config.problem_type = "regression"
    model = AdaptedModel(base, tiny.heads("bert"))
    adapter = model.attach("a", METHODS.get("majority")())
    adapter.see_classes([0] * int(base.config.num_labels), 10)
    assert not model.class_logits(tiny.batch("bert")).any()
