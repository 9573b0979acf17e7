"""`train.offload: disk`: the same numbers as without, in less memory; what it cannot stand beside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoConfig, AutoModelForImageClassification

from deltatune.comparison.runner import compare
from deltatune.core.offload import at_rest
from deltatune.errors import RecipeError
from deltatune.recipe import Recipe, parse_recipe
from deltatune.runs import evaluate_run, load_run, merge
from deltatune.testing.folders import save_tiny
from deltatune.training import run
from tests.train.test_memory import Listening

Make = Callable[..., Recipe]
TENSORS = "adapter/adapter_model.safetensors"
DISK = "train.offload=disk"


def losses(folder: Path) -> list[Any]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if "loss" in key or key == "grad_norm"}
        for line in lines
    ]


def require_equal(make: Callable[..., Recipe], tmp_path: Path, *overrides: str) -> None:
    """A run is bit for bit what it is without offload."""
    results = {}
    for name, more in (("plain", ()), ("disk", (DISK,))):
        recipe = make(*overrides, *more)
        results[name] = run(recipe, recipe.methods[0], 0, tmp_path / name)
    assert results["disk"].metrics.test == results["plain"].metrics.test
    assert results["disk"].model.fingerprint == results["plain"].model.fingerprint
    assert losses(tmp_path / "disk") == losses(tmp_path / "plain") != []
    assert (tmp_path / "disk" / TENSORS).read_bytes() == (tmp_path / "plain" / TENSORS).read_bytes()


SHORT = ("train.epochs=1", "train.precision=fp32", "evaluation.max_new_tokens=3")


def test_a_run_is_the_same(make_recipe: Make, tmp_path: Path) -> None:
    require_equal(make_recipe, tmp_path, *SHORT)


@pytest.mark.slow
@pytest.mark.predicts
def test_its_memory_is_predicted(make_recipe: Make, tmp_path: Path) -> None:
    require_equal(make_recipe, tmp_path, *SHORT)
    plain, disk = (json.loads((tmp_path / f"{name}/result.json").read_text()) for name in ("plain", "disk"))
    predicted, measured = (disk["memory"][what] for what in ("predicted", "measured"))
    assert predicted["weights"] == measured["weights"]
    assert predicted["total"] == pytest.approx(measured["total"], rel=1e-3)
    rests = at_rest(load_run(tmp_path / "plain").model.base)
    assert 0 < rests == plain["memory"]["measured"]["weights"] - measured["weights"]
    wanted = pytest.approx(plain["metrics"]["test"], rel=1e-4, abs=1e-4)
    assert evaluate_run(tmp_path / "disk") == wanted


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("train.gradient_checkpointing=true",), ("train.precision=bf16",)])
@pytest.mark.parametrize("method", ["dora", "pissa", "prefix", "prompt", "bitfit", "ln_tuning"])
def test_methods_that_read_the_base(
    make_recipe: Make, llama_folder: Path, tmp_path: Path, method: str, overrides: tuple[str, ...]
) -> None:
    def make(*changes: str) -> Recipe:
        return make_recipe(*changes, task="causal-lm", model=str(llama_folder), methods=[method])

    require_equal(make, tmp_path, *overrides, *([] if overrides else ["train.precision=fp32"]))


@pytest.mark.slow
def test_a_classifier_of_texts(make_classifier: Make, tmp_path: Path) -> None:
    require_equal(make_classifier, tmp_path)


@pytest.mark.slow
def test_images(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for label, shade in (("dark", 60), ("light", 180)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(12):
            pixels = draw.integers(shade - 50, shade + 50, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    folder = save_tiny("vit", tmp_path / "vit")
    deeper = AutoConfig.from_pretrained(folder, num_hidden_layers=3)
    AutoModelForImageClassification.from_config(deeper).save_pretrained(folder)

    def make(*overrides: str) -> Recipe:
        return parse_recipe({
            "task": "image-classification", "model": str(folder),
            "data": {"source": str(tmp_path / "data"), "split": {"validation": 0.2, "test": 0.2}},
            "methods": ["lora"], "train": {"max_steps": 4, "batch_size": 4},
        }, overrides)  # fmt: skip

    require_equal(make, tmp_path)


@pytest.mark.slow
def test_the_kept_trunk_is_not_brought(make_recipe: Make, llama_folder: Path, tmp_path: Path) -> None:
    last = {"lora": {"targets": ["model.layers.1.self_attn.q_proj"]}}

    def make(*changes: str) -> Recipe:
        return make_recipe(*changes, task="causal-lm", model=str(llama_folder), methods=[last])

    require_equal(make, tmp_path, "train.precision=fp32")


@pytest.mark.slow
def test_a_run_goes_on_without_it_and_is_merged(
    make_recipe: Make, llama_folder: Path, tmp_path: Path
) -> None:
    about: dict[str, Any] = {"task": "causal-lm", "model": str(llama_folder)}
    changes = ("train.max_steps=6", "train.evaluate_every=3", "train.precision=fp32")
    recipe = make_recipe(*changes, DISK, **about)
    paused = run(recipe, recipe.methods[0], 0, tmp_path / "run", pause=lambda progress, total: True)
    assert paused.status == "paused"
    plain = make_recipe(*changes, **about)
    went_on = run(plain, plain.methods[0], 0, tmp_path / "run", resume=True)
    alone = run(recipe, recipe.methods[0], 0, tmp_path / "alone")
    assert went_on.metrics.test == alone.metrics.test
    loaded = load_run(tmp_path / "alone")
    assert merge(tmp_path / "alone", tmp_path / "merged").max_abs_logit_difference < 1e-4
    copied = loaded.model.merged()
    assert next(copied.parameters()).data_ptr() != next(loaded.model.base.parameters()).data_ptr()


@pytest.mark.slow
def test_runs_that_make_their_steps_together(make_recipe: Make, llama_folder: Path, tmp_path: Path) -> None:
    methods = [{"lora": {"dropout": 0.1}}, "prefix"]
    about: dict[str, Any] = {
        "task": "causal-lm",
        "model": str(llama_folder),
        "methods": methods,
        "together": 2,
    }
    found = []
    for name, more in (("plain", ()), ("disk", (DISK,))):
        board = compare(make_recipe(*SHORT, *more, **about), tmp_path / name)
        assert [row.status for row in board.rows] == ["done", "done"], board.rows
        found.append([(row.name, row.metrics) for row in board.rows])
    assert found[0] == found[1]


def test_cpu_is_no_other_place_where_no_gpu_is(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.offload=cpu", "train.max_steps=1", "evaluation.max_new_tokens=2")
    heard = Listening()
    assert run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=heard).status == "done"
    assert any("train.offload: cpu has no effect here" in text for text in heard.warnings)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"methods": ["full"]}, "trains a copy of every weight"),
        ({"quantization": "nf4"}, "cannot stand beside quantization"),
    ],
)
def test_what_it_cannot_stand_beside_is_refused(
    make_recipe: Make, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RecipeError, match=reason):
        make_recipe(DISK, **changes)
    make_recipe(DISK, methods=[{"full": {}, "train": {"offload": None}}, "lora"])
