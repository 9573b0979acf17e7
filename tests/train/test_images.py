"""A model of one channel from data to prediction, and what image runs say of themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from deltatune.observer import Silent
from deltatune.recipe import Recipe, parse_recipe
from deltatune.runs import Failed, predict
from deltatune.tasks.classes import MORE_METRICS
from deltatune.training import run
from deltatune.training.before.dry_run import plan
from deltatune.training.before.preview import preview


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.shown: set[str] = set()
        self.warned: list[str] = []

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        self.shown |= set(numbers or {})

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A base of one channel, and 16-bit scans of two classes beside a file that is no image."""
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8,
        patch_size=4, num_channels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "vit")
    draw = np.random.default_rng(0)
    for label, shade in (("dark", 10_000), ("light", 50_000)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(shade - 3000, shade + 3000, (8, 8)).astype(np.uint16)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    (tmp_path / "data/dark/notes.txt").write_text("of the scanner")
    return parse_recipe(
        {
            "task": "image-classification",
            "model": str(tmp_path / "vit"),
            "data": {"source": str(tmp_path / "data"), "split": {"validation": 0.2, "test": 0.4}},
            "methods": ["lora"],
            "train": {"epochs": 6, "lr": 0.01, "batch_size": 4, "class_weights": "balanced"},
            "evaluation": {"metrics": ["accuracy", *MORE_METRICS, "loss"], "positive": "dark"},
        }
    )


def test_a_model_of_one_channel_is_planned_trained_and_used(recipe: Recipe, tmp_path: Path) -> None:
    assert plan(recipe, recipe.methods[0], 0)["steps"] > 0
    heard = Heard()
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=heard)
    assert result.metrics.test["accuracy"] == 1
    best = {key: result.metrics.test[key] for key in MORE_METRICS if key not in ("ece", "brier")}
    assert best == dict.fromkeys(best, 1.0)
    assert result.signatures["average_precision"] == "positive:dark"
    assert 0 < result.metrics.test["brier"] < 0.25
    assert "images/s" in heard.shown
    assert "tokens/s" not in heard.shown
    assert any("1 file is not used" in text and "dark/notes.txt" in text for text in heard.warned)

    (tmp_path / "data/dark/broken.png").write_bytes(b"no image")
    answers = list(predict(tmp_path / "run", tmp_path / "data/dark"))
    assert len(answers) == 22
    failed = [answer.id for answer in answers if isinstance(answer, Failed)]
    assert "broken.png" in failed
    assert {answer.prediction for answer in answers if not isinstance(answer, Failed)} == {"dark"}


def test_a_check_says_what_images_are_read_with(recipe: Recipe) -> None:
    heard = Heard()
    found = preview(recipe, samples=1, observer=heard)
    assert any(text.startswith("Loading the image processor of ") for text in heard.stages)
    assert not any("tokenizer" in text for text in heard.stages)
    assert any("notes.txt" in text for text in found.warnings)
