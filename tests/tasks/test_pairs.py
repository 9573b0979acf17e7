"""Pairs of texts from files to reports: token types reach the model, and both texts are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import deltatune as dt
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoder
from deltatune.data.load import load_data
from deltatune.memory.batch import longest_allowed, shape_of
from deltatune.models.load import load_base
from deltatune.results import Prediction, read_predictions
from deltatune.runs import Failed, evaluate_run
from deltatune.tasks import TASKS
from deltatune.testing import task_checks
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]

TASK = "text-classification"


def nli(count: int = 60) -> list[dict[str, Any]]:
    """Pairs whose label follows from both texts and from neither alone; three share a first text."""
    words = ("red", "blue")
    rows = []
    for n in range(count):
        first, second = words[n // 3 % 2], words[n % 2]
        label = "same" if first == second else "other"
        texts = {"premise": f"the {first} fox {n // 3}", "hypothesis": f"a {second} dog number {n % 3}"}
        rows.append({**texts, "label": label})
    return rows


def recipe_of(model: Path, **changes: Any) -> dt.Recipe:
    sections: dict[str, Any] = {
        "task": TASK,
        "model": str(model),
        "data": nli(),
        "methods": ["lora"],
        "baselines": False,
        "train": {"max_steps": 4, "batch_size": 8, "precision": "fp32"},
    }
    return dt.make_recipe(**(sections | changes))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


SLOW = (
    "methods_are_compared",
    "check_and_plan_know_it",
    "a_run_proves_itself",
    "evaluating_again_gives_the_same",
    "it_answers",
)


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=str(check), marks=[pytest.mark.slow] * (check.name in SLOW))
        for check in task_checks(TASKS.get(TASK), nli(40))
    ],
)
def test_pairs_keep_what_tasks_promise(check: Callable[[], None]) -> None:
    check()


def test_token_types_reach_the_model(bert_folder: Path) -> None:
    recipe = recipe_of(bert_folder)
    data = load_data(recipe.data, TASK)
    base = load_base(recipe.model, TASK, data.labels)
    encoder = Encoder(TASK, base.processor, recipe.data, data.labels, base.facts)
    encoded = encoder.encode(data.train[:6])
    batch = encoder.collate(encoded.features)
    texts = [row.input for row in data.train[:6]], [row.pair for row in data.train[:6]]
    theirs = base.processor(*texts, padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], theirs[name]), name
    base.model.get_parameter("bert.embeddings.token_type_embeddings.weight").mul_(50)
    model = AdaptedModel(base.model, base.new_modules).eval()
    with torch.no_grad():
        found, wanted = model.class_logits(batch), base.model(**theirs).logits
        without = base.model(input_ids=theirs["input_ids"], attention_mask=theirs["attention_mask"]).logits
    torch.testing.assert_close(found, wanted)
    assert (wanted - without).abs().max() > 1e-4, "the types make no difference here"
    # A plan counts them too, whether the rows are known or only their limits.
    shape = shape_of(encoded.features, TASK)
    assert {name: tuple(t.shape) for name, t in TASKS.get(TASK).blank(shape).items()} == {
        name: tuple(tensor.shape) for name, tensor in batch.items()
    }
    named = recipe_of(
        bert_folder, data={"source": "x.csv", "split": {}, "columns": {"input": "a", "pair": "b"}}
    )
    assert longest_allowed(named, named.methods[0], base.model.config).typed


def test_from_files_to_predictions_and_a_report(bert_folder: Path, tmp_path: Path, run: Run) -> None:
    out, rows = tmp_path / "out", nli()
    dt.compare(recipe_of(bert_folder), out, quiet=True)
    folder = out / "runs/lora-s0"
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert result["data"]["pair"] == ["premise", "hypothesis"]
    lines = read_predictions(folder / "predictions.jsonl", remedy="")
    known = {(row["premise"], row["hypothesis"]): row["label"] for row in rows}
    assert all(known[line.input, line.pair or ""] == line.reference for line in lines)
    assert len({line.group for line in lines}) == len({(line.input, line.pair) for line in lines})
    assert evaluate_run(folder) == pytest.approx(result["metrics"]["test"], rel=1e-5)
    page = (out / "report.html").read_text("utf-8")
    assert lines[0].input in page
    assert str(lines[0].pair) in page

    asked = {"premise": "the red fox", "hypothesis": "a \U0001f600 dog"}
    answers = dt.predict(
        folder, [asked, json.dumps(asked), "one text", {"premise": "alone"}, {**asked, "hypothesis": ""}]
    )
    first, second, *failed = answers
    assert isinstance(first, Prediction)
    assert isinstance(second, Prediction)
    assert (first.input, first.pair) == tuple(asked.values())
    assert first.probabilities == second.probabilities
    says = ["one text, and the run reads premise, hypothesis", "no column 'hypothesis'", "empty second text"]
    for answer, what in zip(failed, says, strict=True):
        assert isinstance(answer, Failed)
        assert what in answer.error
    table = tmp_path / "asked.csv"
    table.write_text("premise,hypothesis\nthe red fox,a dog\n", "utf-8")
    found = run("predict", folder, "--file", table)
    assert (found.code, json.loads(found.out)["pair"]) == (0, "a dog")


def test_check_shows_both_texts_and_what_is_cut_of_which(bert_folder: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in nli()), "utf-8")
    data = {"source": "rows.jsonl", "split": {}, "max_input_tokens": 16}
    recipe = {"task": TASK, "model": str(bert_folder), "data": data, "methods": ["lora"]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), "utf-8")
    shown = run("check", tmp_path / "recipe.yaml")
    assert shown.code == 0, shown.err
    assert "'premise' and 'hypothesis' of each row" in shown.out
    found = json.loads(run("check", tmp_path / "recipe.yaml", "--json").out)
    assert found["pair"] == ["premise", "hypothesis"]
    first, second = found["tokens"]["train"]["truncated_texts"]
    assert 0 < first < second == 48
    assert f"cut off: 48 inputs (100.0%; the first text of {first}, the second of 48)" in shown.out
    pieces = [token["text"] for token in found["samples"][0]["tokens"]]
    assert pieces.count("[SEP]") == 2
