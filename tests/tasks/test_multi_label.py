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
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import deltatune as dt
from deltatune.core.loss import loss_of
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoder
from deltatune.data.load import load_data
from deltatune.errors import DeltatuneError
from deltatune.evaluation import loss_on
from deltatune.models.load import load_base
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.recipe.given import Given
from deltatune.recipe.sections import ColumnsSpec, SplitSpec
from deltatune.results import Prediction, RunResult, read_predictions
from deltatune.runs import evaluate_run
from deltatune.tasks import TASKS
from deltatune.tasks.label_sets import labels_of
from deltatune.testing import task_checks
from deltatune.testing.folders import save_tiny
from deltatune.training import run as run_entry
from tests.contract.cases import CASES, Case
from tests.train.test_run import StopAfter

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


def test_from_rows_to_labels_by_a_threshold_of_validation_rows(
    bert_folder: Path, tmp_path: Path, run: Callable
) -> None:
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

    # The merged model is a base with labels of its own, and the adapter lies alone.
    others = [label.upper() for label in reversed(labels)]
    base = load_base(recipe_of(tmp_path / "merged").model, TASK, others)
    assert (base.new_modules, base.labels) == ([], [label.upper() for label in labels])
    (tmp_path / "run/adapter").rename(tmp_path / "adapter")
    asked = ("predict", tmp_path / "adapter", "--base", bert_folder, lines[0].input)
    with pytest.warns(UserWarning, match="does not tell from which probability on labels are given"):
        alone = run(*asked, "--task", TASK, "--labels", ",".join(labels))
    assert alone.code == 0, alone.err
    told = json.loads(alone.out)
    assert told["probabilities"] == pytest.approx(lines[0].probabilities, rel=1e-4)
    assert labels_of(told["prediction"]) == [k for k, p in told["probabilities"].items() if p >= 0.5]


class Warned(Silent):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_check_says_how_labels_were_read(bert_folder: Path) -> None:
    shown = dt.check(recipe_of(bert_folder, tagged(40, " | ".join)), quiet=True).as_dict()
    sets = shown["label_sets"]
    assert "a text with a bar between labels in" in sets["written"]
    assert sum(sets["without"].values()) == sum(not row["target"] for row in tagged(40))
    assert sum(shown["classes"]["train"].values()) == round(sets["mean"] * shown["rows"]["train"])
    assert (shown["majority"], shown["shifts"]) == (None, [])
    learned = [row["tokens"][-1] for row in shown["samples"]]
    assert all(
        token["supervised"] and set(labels_of(token["text"])) <= set(WORDS.values()) for token in learned
    )


def test_two_texts_have_labels_as_one_has(bert_folder: Path) -> None:
    rows = [{"first": row["input"], "second": "a good ship", "target": row["target"]} for row in tagged(40)]
    recipe = recipe_of(bert_folder, rows)
    columns = ColumnsSpec(input="first", pair="second")
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"columns": columns})})
    data = load_data(recipe.data, TASK)
    base = load_base(recipe.model, TASK, data.labels)
    encoder = Encoder(TASK, base.processor, recipe.data, base.labels, base.facts)
    batch = encoder.collate(encoder.encode(data.train[:4]).features)
    assert batch["labels"].shape == (4, len(WORDS))
    assert batch["token_type_ids"].any(dim=1).all(), "the second text is told apart"


def test_without_validation_rows_the_threshold_is_one_half(bert_folder: Path, tmp_path: Path) -> None:
    rows = tagged(40, ";".join)
    recipe = recipe_of(bert_folder, rows, methods=["majority"])
    recipe = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"split": SplitSpec(validation=0, test=0.2)})}
    )
    said = Warned()
    result = run_entry(recipe, recipe.methods[0], 0, tmp_path / "run", observer=said)
    assert isinstance(result, RunResult)
    assert result.threshold == 0.5
    wanted = "no validation rows to choose a threshold by: a label counts from a probability of 0.5"
    assert any(wanted in text for text in said.warnings)
    data = load_data(recipe.data, TASK)
    for line in read_predictions(tmp_path / "run/predictions.jsonl", remedy=""):
        for label, chance in (line.probabilities or {}).items():
            with_it = sum(label in labels_of(row.target) for row in data.train)
            assert chance == pytest.approx((with_it + 1) / (len(data.train) + 2), rel=1e-5)


@pytest.mark.slow
def test_methods_are_compared_by_each_of_its_metrics(bert_folder: Path, tmp_path: Path) -> None:
    for primary in ("micro_f1", "average_precision"):
        recipe = recipe_of(
            bert_folder, tagged(100), methods=["untuned", "full"], evaluation={"primary": primary}
        )
        board = dt.compare(recipe, tmp_path / primary, quiet=True)
        rows = {row.name: row for row in board.rows}
        assert set(rows) == {"untuned", "full", "majority", "head"}
        for row in board.rows:
            assert row.metrics is not None
            if row.rank is not None:
                assert row.interval is not None
                low, high = row.interval
                assert 0 <= low <= row.metrics[primary] <= high <= 1
        assert len(board.pairs) == 3
        page = (tmp_path / primary / "report.html").read_text("utf-8")
        assert "Label by label" in page
        assert "labels that do not hold" in page


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit(bert_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(bert_folder, evaluation={"select_by": "micro_f1"})
    entry = recipe.methods[0]
    whole = run_entry(recipe, entry, 3, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_entry(recipe, entry, 3, tmp_path / "parts", observer=StopAfter(5))
    rest = run_entry(recipe, entry, 3, tmp_path / "parts", resume=True)
    assert isinstance(whole, RunResult)
    assert isinstance(rest, RunResult)
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert (rest.metrics, rest.threshold) == (whole.metrics, whole.threshold)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"evaluation": {"metrics": ["accuracy"]}}, "for other tasks"),
        ({"evaluation": {"positive": "a"}}, "evaluation.positive: .* leave it out"),
        ({"train": {"class_weights": "balanced"}}, "train.class_weights"),
        (
            {"task": "text-classification", "data": {"source": "a.csv", "split": {}, "separator": ";"}},
            "separator",
        ),
        (
            {
                "task": "text-classification",
                "data": {"source": "a.csv", "split": {}, "columns": {"target": ["a", "b"]}},
            },
            "names 2 columns, and text-classification has one target; several are for multi-label",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(bert_folder: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DeltatuneError, match=told):
        recipe_of(bert_folder, **changes)


@pytest.mark.slow
def test_an_adapter_of_peft_is_for_what_its_base_was_trained_for(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    folder, labels = save_tiny("bert", tmp_path / "bert"), ["x", "y", "z"]
    base = AutoModelForSequenceClassification.from_pretrained(
        folder,
        problem_type="multi_label_classification",
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    base.save_pretrained(folder)
    adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.warns(UserWarning, match=r"on labels are given \(multi-label-classification\)"):
        [answer] = dt.predict(tmp_path / "adapter", ["a good book"], given=Given(base=str(folder)))
    inputs = AutoTokenizer.from_pretrained(folder)("a good book", return_tensors="pt")
    with torch.no_grad():
        chances = adapted.eval()(**inputs).logits.sigmoid()[0].tolist()
    assert isinstance(answer, Prediction)
    assert answer.probabilities == pytest.approx(dict(zip(labels, chances, strict=True)), abs=1e-5)


BY_METHOD = {case.method: case for case in reversed(CASES)}
"""A case of each method."""


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.slow] if name == "peft" else [])
        for name, case in BY_METHOD.items()
    ],
)
def test_every_method_learns_sets_of_labels(case: Case, bert_folder: Path) -> None:
    if case.refused("bert"):
        pytest.skip("this method refuses the architecture")
    recipe = recipe_of(bert_folder)
    data = load_data(recipe.data, TASK)
    base = load_base(recipe.model, TASK, data.labels)
    encoder = Encoder(TASK, base.processor, recipe.data, base.labels, base.facts)
    batch = encoder.collate(encoder.encode(data.train[:5]).features)
    model = AdaptedModel(base.model, base.new_modules, processor=base.processor)
    adapter = model.attach("a", case.settings(), seed=0).train()
    adapter.see_classes([3] * len(data.labels or []), 10)
    adapter.start(10)
    model.train()

    def loss() -> torch.Tensor:
        return loss_of(TASK, *TASKS.get(TASK).logits(model, batch))

    trained = dict(adapter.trainable())
    before = loss()
    assert torch.isfinite(before)
    if case.method == "majority":
        torch.testing.assert_close(model.class_logits(batch).sigmoid(), torch.full((5, len(WORDS)), 4 / 12))
    if not trained or case.method == "hard_prompt":  # nothing is trained, or by a search
        return
    before.backward()
    parts = [
        name for name, parameter in trained.items() if parameter.grad is not None and parameter.grad.any()
    ]
    assert any("classifier" not in name for name in parts) or case.method == "head", (
        "more than the head learns"
    )
    optimizer = torch.optim.SGD(trained.values(), lr=1e-2)
    optimizer.step()
    with torch.no_grad():
        assert loss() < before


@pytest.mark.slow
def test_whole_runs_of_methods_of_every_kind(bert_folder: Path, tmp_path: Path) -> None:
    names = ("lora", "adalora", "adapter", "prefix", "prompt", "hard_prompt", "diff_pruning", "full")
    methods = [{name: dict(BY_METHOD[name].config), "name": name} for name in names]
    train = {"max_steps": 2, "batch_size": 8, "lr": 0.01}
    recipe = recipe_of(bert_folder, methods=methods, train=train, together=4)
    board = dt.compare(recipe, tmp_path / "out", quiet=True)
    assert [(row.name, row.error) for row in board.rows if row.status != "done"] == []
