"""Runs to share, trained once for all tests here; and a Hub to send them to."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deltatune.comparison.runner import compare
from deltatune.recipe import parse_recipe
from deltatune.testing.folders import save_tiny
from tests.sharing import hub as fake
from tests.tiny_recipe import WORDS

DATA = "rows of anna.jsonl"


@pytest.fixture(scope="package")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two methods with a tiny T5 that is a folder of this machine."""
    place = tmp_path_factory.mktemp("home") / "anna" / "secret project"
    base = save_tiny("t5", place / "tiny-t5")
    lines = [
        {"text": f"{i} of the {WORDS[i % 8]} " + "and so on " * (i % 5), "title": WORDS[i % 8]}
        for i in range(48)
    ]
    (place / DATA).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    content = {
        "task": "text-to-text",
        "model": str(base),
        "data": {
            "source": str(place / DATA),
            "columns": {"input": "text", "target": "title"},
            "split": {"validation": 0.2, "test": 0.2},
            "max_target_tokens": 16,
        },
        "methods": ["untuned", "lora"],
        "train": {"epochs": 1, "batch_size": 8, "lr": 0.01, "precision": "fp32"},
        "evaluation": {"max_new_tokens": 8, "batch_size": 8},
    }
    patch = pytest.MonkeyPatch()
    patch.setattr(
        importlib.import_module("deltatune.training.single.begin"), "predicted_run", lambda *_: None
    )
    try:
        compare(parse_recipe(content), place / "out")
    finally:
        patch.undo()
    return place / "out"


@pytest.fixture(scope="package")
def run(compared: Path) -> Path:
    """Its run of LoRA."""
    return compared / "runs" / "lora-s0"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake.FakeHub]:
    """A Hub on this machine, with Anna's login."""
    from huggingface_hub import constants

    with fake.running() as state:
        monkeypatch.setattr(constants, "ENDPOINT", state.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_anna")
        monkeypatch.setattr("time.sleep", lambda _: None)  # between the tries of the client
        yield state
