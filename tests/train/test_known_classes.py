"""A base that is a classifier of the data's classes keeps its head and its order, up to merging."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from deltatune.data.memory import keep_rows
from deltatune.models import load
from deltatune.recipe import Recipe
from deltatune.runs import evaluate_run, merge, predict
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from deltatune.training import run
from tests.tiny_recipe import WORDS

Make = Callable[..., Recipe]


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A BERT of the data's classes, in capitals and in the order of the alphabet reversed."""
    folder, tokenizer = tmp_path / "bert", tiny_tokenizer("bert")
    names = dict(enumerate(word.upper() for word in sorted(WORDS, reverse=True)))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=32, id2label=names, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def classifying(make_recipe: Make, folder: Path, method: Any) -> Recipe:
    return make_recipe(
        "train.max_steps=2", "train.precision=fp32", task="text-classification", model=str(folder),
        methods=[method], evaluation={"batch_size": 8},
    )  # fmt: skip


@pytest.mark.parametrize("method", ["untuned", "lora"])
def test_a_known_head_and_its_order_are_kept(
    make_recipe: Make, tmp_path: Path, classifier: Path, method: str
) -> None:
    recipe = classifying(make_recipe, classifier, method)
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.model.head == "the base's"
    assert result.data.labels == sorted(WORDS, reverse=True)
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test)
    [answer] = predict(tmp_path / "run", ["0 of the medals "])
    if method == "untuned":  # what Transformers makes of the base itself
        model = BertForSequenceClassification.from_pretrained(classifier).eval()
        ids = tiny_tokenizer("bert")("0 of the medals ", return_tensors="pt")
        with torch.no_grad():
            best = int(model(**ids).logits.argmax())
        assert answer.prediction == model.config.id2label[best].lower()
    else:
        merge(tmp_path / "run", tmp_path / "merged")
        merged = load_file(tmp_path / "merged/model.safetensors")
        stored = load_file(classifier / "model.safetensors")
        assert torch.equal(merged["classifier.weight"], stored["classifier.weight"])
        config = json.loads((tmp_path / "merged/config.json").read_text(encoding="utf-8"))
        assert list(config["id2label"].values()) == sorted(WORDS, reverse=True)


def test_a_run_of_before_has_the_head_that_it_was_trained_with(
    make_recipe: Make, tmp_path: Path, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 0.1 gave such a base a new head, in the order of the data, and did not say whose head it is."""
    recipe = classifying(make_recipe, classifier, "lora")
    with monkeypatch.context() as patch:
        patch.setattr(load, "in_base_order", lambda config, labels: None)
        result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.model.head == "new"
    old = result.as_dict()
    del old["model"]["head"]
    assert result.data.labels == sorted(WORDS)
    (tmp_path / "run/result.json").write_text(json.dumps(old), encoding="utf-8")
    (tmp_path / "run/manifest.json").unlink()  # which 0.1 did not write
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test)


def test_the_majority_is_counted_in_the_order_of_the_bases_outputs(
    make_recipe: Make, tmp_path: Path, classifier: Path
) -> None:
    words = sorted(WORDS)
    rows = [{"input": f"{number} {word}", "target": word} for number in range(8) for word in words]
    rows += [{"input": f"{number} more", "target": words[0]} for number in range(40)]
    data = {"source": str(keep_rows(rows)), "format": "jsonl", "split": {"validation": 0.1, "test": 0.2}}
    recipe = make_recipe(task="text-classification", model=str(classifier), methods=["majority"], data=data)
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.data.labels == words[::-1]
    [answer] = predict(tmp_path / "run", ["any"])
    assert answer.prediction == words[0]
