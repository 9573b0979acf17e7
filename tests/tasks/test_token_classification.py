"""Tagging: labels at first tokens, entities in the text, and words that a model cannot read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    pipeline,
)

import deltatune as dt
from deltatune.core.loss import summed_loss, weight_of
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoder
from deltatune.data.load import load_data
from deltatune.errors import DeltatuneError
from deltatune.evaluation import loss_on, metric_keys, tag_metrics
from deltatune.models.load import load_base
from deltatune.recipe import Recipe
from deltatune.recipe.base_sections import ModelSpec
from deltatune.recipe.given import Given
from deltatune.recipe.train_section import TrainSpec
from deltatune.results import Prediction, read_predictions
from deltatune.runs import evaluate_run
from deltatune.runs import predict as predict_with
from deltatune.tasks import TASKS
from deltatune.tasks.task import IGNORED
from deltatune.testing import task_checks
from deltatune.testing.folders import save_tiny
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from deltatune.training.given.class_names import weights_of
from tests.wordpiece import wordpiece

NAMES = {"PER": ("Anna Bell", "Carl"), "LOC": ("New York", "Rome", "Bonn")}
LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def tagged(count: int = 60) -> list[dict[str, Any]]:
    """Sentences about a person and a place, each with its tags."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        tokens, tags = [], []
        words = [
            draw.choice(NAMES["PER"]),
            "visited",
            draw.choice(NAMES["LOC"]),
            "in",
            str(1900 + number),
            ".",
        ]
        for word, kind in zip(words, ("PER", "O", "LOC", "O", "O", "O"), strict=True):
            parts = word.split()
            tokens += parts
            tags += [f"{'I' if place else 'B'}-{kind}" if kind != "O" else "O" for place in range(len(parts))]
        rows.append({"tokens": tokens, "ner_tags": tags})
    return rows


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


def recipe_of(model: Path, rows: Any = None, **changes: Any) -> Recipe:
    sections: dict[str, Any] = {
        "task": "token-classification",
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
        for check in task_checks(TASKS.get("token-classification"), tagged(40))
    ],
)
def test_it_keeps_what_tasks_promise(check: Callable[[], None]) -> None:
    check()


def test_the_loss_is_that_of_transformers_on_labels_at_first_tokens(bert_folder: Path) -> None:
    recipe = recipe_of(bert_folder)
    data = load_data(recipe.data, recipe.task)
    assert data.labels == LABELS
    base = load_base(recipe.model, recipe.task, data.labels)
    assert base.new_modules == ["classifier"]
    encoder = Encoder(recipe.task, base.processor, recipe.data, base.labels, base.facts)
    encoded = encoder.encode(data.train)
    batch = encoder.collate(encoded.features)
    words = [row.words for row in data.train if row.words is not None]
    assert encoded.report.supervised_tokens == sum(len(each.tags) for each in words)
    for feature, labels, row in zip(encoded.features, batch["labels"].tolist(), data.train, strict=True):
        assert row.words is not None
        told = [labels[first] for first in feature["firsts"]]
        assert [LABELS[label] for label in told] == list(row.words.tags)
        assert sum(label != IGNORED for label in labels) == len(told)
    with torch.no_grad():
        theirs = base.model(**batch).loss.item()
    model = AdaptedModel(base.model, base.new_modules, processor=base.processor).eval()
    found = loss_on(model, encoded, encoder, batch_size=7)
    assert found == {"loss": pytest.approx(theirs, rel=1e-5), "tokens": encoded.report.supervised_tokens}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run that has learned its few names."""
    folder = tmp_path_factory.mktemp("tags")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELTATUNE_CACHE", str(folder / "cache"))
        model = folder / "base"
        tokenizer = wordpiece([" ".join(row["tokens"]) for row in tagged(40)], 120)
        tokenizer.save_pretrained(model)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(model)
        train = {"epochs": 8, "lr": 5e-3, "batch_size": 16, "precision": "fp32"}
        recipe = recipe_of(model, tagged(120), methods=[{"full": {}}], train=train)
        return folder / "run", dt.train(recipe, folder / "run", quiet=True)


def test_from_rows_to_entities_in_a_text(trained: tuple[Path, Any]) -> None:
    run, result = trained
    metrics = result.metrics.test
    entity = {"entity_f1", "entity_precision", "entity_recall", "entity_macro_f1"}
    assert set(metrics) == {*entity, "token_accuracy", "loss"}
    assert metrics["entity_f1"] > 0.8, metrics
    assert result.data.labels == LABELS
    assert evaluate_run(run) == pytest.approx(metrics, rel=1e-5)

    lines = read_predictions(run / "predictions.jsonl", remedy="")
    again = tag_metrics([line.prediction for line in lines], [line.reference for line in lines], None, LABELS)
    assert again.values == pytest.approx({key: metrics[key] for key in again.values})
    for line in lines:
        assert line.words is not None
        assert [line.input[start:end] for start, end in line.words] == line.input.split()
        assert line.tokens == len(line.words) == len(line.reference.split()) == len(line.prediction.split())
        assert line.scores == {}

    text = "in 1950, Anna Bell visited Rome."
    [answer] = dt.predict(run, [text])
    assert isinstance(answer, Prediction)
    assert answer.spans is not None
    assert {(span.text, span.label) for span in answer.spans} >= {("Rome", "LOC")}
    for span in answer.spans:
        assert text[span.start : span.end] == span.text
        assert 0 < span.score <= 1
    row = {"tokens": ["Carl", "visited", "New", "York"]}
    of_tokens, in_json = dt.predict(run, [row, json.dumps(row)])
    assert in_json.spans == of_tokens.spans
    assert isinstance(of_tokens, Prediction)
    assert len(of_tokens.prediction.split()) == 4


@pytest.mark.filterwarnings("ignore")
def test_a_merged_model_gives_the_same_in_a_pipeline(trained: tuple[Path, Any], tmp_path: Path) -> None:
    run, _ = trained
    merged = dt.merge(run, tmp_path / "merged")
    config = json.loads((Path(merged.folder) / "config.json").read_text())
    assert [config["id2label"][str(index)] for index in range(5)] == LABELS
    theirs = pipeline(
        "token-classification",
        model=AutoModelForTokenClassification.from_pretrained(merged.folder),
        tokenizer=AutoTokenizer.from_pretrained(merged.folder),
        aggregation_strategy="first",
    )
    texts = ["Anna Bell visited Rome in 1950 .", "Carl saw New York and Bonn .", "nothing in here"]
    for text, answer in zip(texts, dt.predict(run, texts), strict=True):
        assert isinstance(answer, Prediction)
        found = [(each["entity_group"], each["start"], each["end"]) for each in theirs(text)]
        assert [(span.label, span.start, span.end) for span in answer.spans or []] == found
        for span, each in zip(answer.spans or [], theirs(text), strict=True):
            assert span.score == pytest.approx(float(each["score"]), abs=1e-4)


def test_lost_words_count_as_outside(bert_folder: Path, tmp_path: Path) -> None:
    """An honest score counts the entities that the model could not read."""
    rows = [{"tokens": ["Carl", *["x"] * 40, "Rome"], "ner_tags": ["B-PER", *["O"] * 40, "B-LOC"]}] * 30
    rows = [{**row, "tokens": [*row["tokens"][:-1], "Rome"]} for row in rows]
    data = {"source": rows, "split": {"validation": 0.1, "test": 0.2}, "max_input_tokens": 20}
    recipe = recipe_of(bert_folder, data, train={"max_steps": 2, "precision": "fp32"})
    checked = dt.check(recipe, quiet=True)
    said = " ".join(checked.warnings)
    assert "training words lie beyond data.max_input_tokens: their tags are lost." in said
    assert "test words lie beyond data.max_input_tokens: their tags are lost, and count as pred" in said
    assert checked.tags is not None
    assert checked.tags.scheme == "IOB2"
    assert checked.tags.entities["test"] == {"PER": 6, "LOC": 6}
    lost = checked.tokens["test"].lost_words
    assert lost is not None
    assert lost % 6 == 0
    result = dt.train(recipe, tmp_path / "run", quiet=True)
    assert result.metrics.test["entity_recall"] <= 0.5
    for line in read_predictions(tmp_path / "run/predictions.jsonl", remedy=""):
        assert len(line.prediction.split()) == 42
        assert line.prediction.endswith("O")
        assert line.tokens == 42 - lost // 6


def test_a_base_that_knows_the_tags_keeps_its_head_and_its_order(tmp_path: Path) -> None:
    base = save_tiny("bert", tmp_path / "base")
    model = AutoModelForTokenClassification.from_pretrained(
        base, id2label=dict(enumerate(reversed(LABELS))), num_labels=5
    )
    model.save_pretrained(tmp_path / "tagger")
    tiny_tokenizer("bert").save_pretrained(tmp_path / "tagger")
    loaded = load_base(ModelSpec(name=str(tmp_path / "tagger")), "token-classification", LABELS)
    assert loaded.new_modules == []
    assert loaded.labels == list(reversed(LABELS))
    recipe = recipe_of(tmp_path / "tagger", methods=["untuned", "lora"])
    board = dt.compare(recipe, tmp_path / "out", quiet=True)
    assert {row.name for row in board.rows} >= {"untuned", "lora", "majority"}
    majority = next(row for row in board.rows if row.name == "majority")
    assert majority.metrics is not None
    assert majority.metrics["entity_f1"] == 0  # all O
    assert majority.metrics["token_accuracy"] > 0.5
    assert all(row.interval is not None for row in board.rows if row.status == "done")
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert "entities that are right" in page
    assert "<small>LOC</small></del>" in page  # missed by the majority


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_a_race_gives_the_same_as_each_alone(bert_folder: Path, tmp_path: Path, method: str) -> None:
    changes: dict[str, Any] = {"methods": [method, "lora"], "baselines": False}
    alone, raced = (
        dt.compare(recipe_of(bert_folder, **changes, together=count), tmp_path / str(count), quiet=True)
        for count in (1, 2)
    )
    for one, other in zip(alone.rows, raced.rows, strict=True):
        assert one.name == other.name
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"source": "rows.txt", "split": {}}}, "set data.format to conll"),
        (
            {"data": {"source": "rows.jsonl", "split": {}, "template": "x {input}"}},
            "reads the words as they are",
        ),
        (
            {"task": "text-classification", "data": {"source": "a.conll", "split": {}}},
            "need the task token-",
        ),
        ({"data": {"source": "rows.jsonl", "split": {}}, "evaluation": {"primary": "accuracy"}}, "entity"),
    ],
)
def test_a_recipe_that_makes_no_sense(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DeltatuneError, match=words):
        recipe_of(Path("bundled:minilm"), None, **changes)


def test_words_can_count_by_their_tag(bert_folder: Path) -> None:
    recipe = recipe_of(bert_folder)
    data = load_data(recipe.data, recipe.task)
    base = load_base(recipe.model, recipe.task, data.labels)
    encoder = Encoder(recipe.task, base.processor, recipe.data, base.labels, base.facts)
    batch = encoder.collate(encoder.encode(data.train[:6]).features)
    spec = TrainSpec(class_weights="balanced")
    weights = weights_of(spec, data, base.labels)
    assert weights is not None
    assert weights[LABELS.index("B-LOC")] > weights[0]
    model = AdaptedModel(base.model, base.new_modules, processor=base.processor).eval()
    with torch.no_grad():
        logits = base.model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits
        theirs = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"], weights)
        ours = summed_loss(model, batch, recipe.task, weights=weights)
    assert ours.item() / weight_of(batch, recipe.task, weights) == pytest.approx(theirs.item(), rel=1e-5)


def test_a_text_is_split_as_the_training_rows_were(trained: tuple[Path, Any], tmp_path: Path) -> None:
    run, result = trained
    assert result.data.splitting == "edges"
    [answer] = dt.predict(run, ["(Anna's 5.5)"])
    assert isinstance(answer, Prediction)
    assert answer.words == [(0, 1), (1, 5), (5, 7), (8, 11), (11, 12)]
    path = tmp_path / "asked.conll"
    path.write_text("Rome O\n.\tO\n\nBonn O\n".replace("\t", " "))
    answers = dt.predict(run, path)
    assert [each.input for each in answers] == ["Rome .", "Bonn"]


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_peft_tags_without_a_run(bert_folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = AutoModelForTokenClassification.from_pretrained(bert_folder, num_labels=5)
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="TOKEN_CLS")
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "theirs")
    given = Given(str(bert_folder), labels=tuple(LABELS))
    [answer] = predict_with(tmp_path / "theirs", ["Anna saw Rome."], given=given)
    assert isinstance(answer, Prediction)
    assert len(answer.prediction.split()) == 4
    assert set(answer.prediction.split()) <= set(LABELS)


@pytest.mark.parametrize("method", ["prompt", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_decoder_only_base_tags_too(tmp_path: Path, method: str) -> None:
    base = save_tiny("llama", tmp_path / "llama")
    recipe = recipe_of(base, tagged(40), methods=[method], train={"max_steps": 3, "precision": "fp32"})
    result = dt.train(recipe, tmp_path / "run", quiet=True)
    assert result.new_heads == ["score"]
    assert all(line.passed for line in result.certificate)
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test, rel=1e-4)


@pytest.mark.parametrize("key", TASKS.get("token-classification").metrics)
def test_each_number_may_decide(key: str) -> None:
    evaluation = {"primary": key, "select_by": key, "metrics": [key]}
    recipe = recipe_of(Path("bundled:minilm"), {"source": "a.conll", "split": {}}, evaluation=evaluation)
    assert metric_keys(recipe.evaluation, recipe.task) == [key]
