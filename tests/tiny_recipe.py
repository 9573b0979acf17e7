"""A recipe over a tiny T5 in a local folder, whose runs take about a second."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.recipe import Recipe, parse_recipe
from deltatune.testing.folders import save_tiny

WORDS = ("medals", "goals", "songs", "ships", "stars", "rivers", "books", "trains")


@pytest.fixture(autouse=True)
def unpredicted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are trained without their prediction of memory, which takes longer than they do on a tiny base.

    What is marked with `predicts` has it, as where memory is scarce.
    """
    module = importlib.import_module("deltatune.training.single.begin")
    if request.node.get_closest_marker("predicts") is None:
        monkeypatch.setattr(module, "predicted_run", lambda *_: None)
    else:
        monkeypatch.setattr(module, "ample_memory", lambda *_: False)


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Transformers folder with a random tiny T5 and its tokenizer."""
    return save_tiny("t5", tmp_path_factory.mktemp("tiny-t5"))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny Llama with a chat template."""
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny BERT without a head for classes."""
    return save_tiny("bert", tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """48 rows whose target is a word of the input."""
    path = tmp_path / "rows.jsonl"
    lines = [
        {"id": str(i), "text": f"{i} of the {WORDS[i % 8]} " + "and so on " * (i % 5), "title": WORDS[i % 8]}
        for i in range(48)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def make_recipe(t5_folder: Path, rows: Path) -> Callable[..., Recipe]:
    """Build the recipe with changes such as `"train.epochs=2"`."""

    def make(*overrides: str, **sections: Any) -> Recipe:
        content: dict[str, Any] = {
            "task": "text-to-text",
            "model": str(t5_folder),
            "data": {
                "source": str(rows),
                "columns": {"input": "text", "target": "title", "id": "id"},
                "split": {"validation": 0.2, "test": 0.2},
                "max_target_tokens": 16,
            },
            "methods": ["lora"],
            "train": {"epochs": 2, "batch_size": 8, "lr": 0.01},
            "evaluation": {"max_new_tokens": 8, "batch_size": 8},
        } | sections
        return parse_recipe(content, overrides)

    return make


@pytest.fixture
def make_classifier(make_recipe: Callable[..., Recipe], bert_folder: Path) -> Callable[..., Recipe]:
    """Build a recipe of text classification: eight classes, which a word of the input tells apart."""

    def make(*overrides: str, **sections: Any) -> Recipe:
        content: dict[str, Any] = {
            "task": "text-classification",
            "model": str(bert_folder),
            "train": {"max_steps": 2, "batch_size": 8, "precision": "fp32"},
            "evaluation": {"batch_size": 8},
        } | sections
        return make_recipe(*overrides, **content)

    return make
