"""Classes that are numbers or booleans: their names and order, from files to the merged model's head."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from deltatune.data.load import load_data
from deltatune.recipe import Recipe
from deltatune.recipe.schema import DataSpec
from deltatune.results import RunResult
from deltatune.runs import merge, predict
from deltatune.training import run

Make = Callable[..., Recipe]
TASK = "text-classification"
SPLIT = {"validation": 0.2, "test": 0.2}
COLUMNS = {"input": "text", "target": "title"}


def write(path: Path, labels: Sequence[Any]) -> Path:
    """As JSON has them, or as text in CSV."""
    rows = [{"text": f"row {i} of them", "title": labels[i % len(labels)]} for i in range(40)]
    if path.suffix == ".csv":
        path.write_text("text,title\n" + "".join(f"{row['text']},{row['title']}\n" for row in rows), "utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def spec(path: Path) -> DataSpec:
    return DataSpec.model_validate({"source": str(path), "split": SPLIT, "columns": COLUMNS})


@pytest.mark.parametrize(
    ("suffix", "labels", "order"),
    [
        ("jsonl", [True, False], ["False", "True"]),
        ("csv", ["true", "false"], ["false", "true"]),
        ("jsonl", [10, 9, 100], ["9", "10", "100"]),
        ("csv", ["10", "9", "100"], ["9", "10", "100"]),
        ("jsonl", [1, 1.0, True, "1"], ["1", "1.0", "True"]),
        ("csv", ["1", "1.0", "2"], ["1", "1.0", "2"]),
        ("jsonl", ["no", "yes", "on", "null"], ["no", "null", "on", "yes"]),
        ("jsonl", [-1, 0, 1], ["-1", "0", "1"]),
    ],
    ids=str,
)  # fmt: skip
def test_names_and_their_order(tmp_path: Path, suffix: str, labels: list[Any], order: list[str]) -> None:
    dataset = load_data(spec(write(tmp_path / f"rows.{suffix}", labels)), TASK)
    assert dataset.labels == order
    alike = " ".join(dataset.warnings)
    assert ("'1' and '1.0'" in alike) == ({"1", "1.0"} <= set(order))
    assert ("'True' differ in writing" in alike) == ({"1", "True"} <= set(order))


@pytest.mark.parametrize(
    ("labels", "order"), [([True, False], ["False", "True"]), ([10, 9, 2], ["2", "9", "10"])], ids=str
)
def test_from_the_file_to_the_merged_head(
    make_classifier: Make, tmp_path: Path, labels: list[Any], order: list[str]
) -> None:
    source = write(tmp_path / "rows.jsonl", labels)
    recipe = make_classifier(
        data={"source": str(source), "split": SPLIT, "columns": COLUMNS}, methods=["lora"],
        evaluation={"batch_size": 8, "metrics": ["mcc", "roc_auc", "loss"], "primary": "mcc"},
    )  # fmt: skip
    folder = tmp_path / "run"
    result = run(recipe, recipe.methods[0], 0, folder)
    assert isinstance(result, RunResult)
    assert result.data.labels == order
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert all(list(line["probabilities"]) == order and line["reference"] in order for line in lines)
    (answer,) = predict(folder, ["row 3 of them"])
    assert answer.prediction in order
    merged = tmp_path / "merged"
    merge(folder, merged)
    model = AutoModelForSequenceClassification.from_pretrained(merged).eval()
    assert model.config.id2label == dict(enumerate(order))
    assert model.config.label2id == {name: place for place, name in enumerate(order)}
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(merged)("row 3 of them", return_tensors="pt")
    with torch.no_grad():
        told = model(**ids).logits.softmax(-1)[0].tolist()
    assert answer.probabilities == pytest.approx(dict(zip(order, told, strict=True)), abs=1e-5)
