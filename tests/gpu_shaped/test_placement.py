"""Whole runs where a GPU is: nothing is left on the host that an operation on the device needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deltatune.comparison.runner import compare
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.recipe import Recipe, parse_recipe
from deltatune.runs import evaluate_run, load_run, merge, predict
from deltatune.runs.chat import Talk
from deltatune.testing import tiny
from deltatune.testing.case import Case
from deltatune.testing.folders import save_tiny
from deltatune.testing.promises import PROMISES
from deltatune.training import run
from tests.contract.cases import CASES

Make = Callable[..., Recipe]
SHORT = ("train.max_steps=3", "evaluation.max_new_tokens=3", "train.epochs=1")


def test_a_run_and_all_that_is_done_with_it(gpu: Any, make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(*SHORT, "train.precision=fp32")
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.status == "done"
    assert result.cost.memory_kind == gpu.device.type
    loaded = load_run(tmp_path / "run")
    assert {p.device.type for p in loaded.model.parameters()} == {gpu.device.type}
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test, rel=1e-4, abs=1e-4)
    lines = (tmp_path / "run/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    wanted = [json.loads(line) for line in lines]
    got = list(predict(tmp_path / "run", [line["input"] for line in wanted]))
    assert [p.prediction for p in got] == [line["prediction"] for line in wanted]
    assert merge(tmp_path / "run", tmp_path / "merged").max_abs_logit_difference < 1e-4


def test_a_run_is_where_the_recipe_or_the_flag_says(gpu: Any, make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(*SHORT, device="cpu")
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.cost.memory_kind == "rss"
    assert load_run(tmp_path / "run", device="cpu").model.device.type == "cpu"
    assert load_run(tmp_path / "run", device=gpu.device.type).model.device.type == gpu.device.type


def test_an_interrupted_run_goes_on(gpu: Any, llama_folder: Path, make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(
        "train.max_steps=6", "train.evaluate_every=3", task="causal-lm", model=str(llama_folder)
    )
    paused = run(recipe, recipe.methods[0], 0, tmp_path / "run", pause=lambda progress, total: True)
    assert paused.status == "paused"
    went_on = run(recipe, recipe.methods[0], 0, tmp_path / "run", resume=True)
    alone = run(recipe, recipe.methods[0], 0, tmp_path / "alone")
    assert went_on.metrics.test == pytest.approx(alone.metrics.test, rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_a_comparison_is_halved(gpu: Any, make_recipe: Make, tmp_path: Path) -> None:
    methods = ["lora", {"name": "more", "lora": {"r": 4}}, "prefix"]
    recipe = make_recipe(
        "train.max_steps=4", "evaluation.max_new_tokens=3", methods=methods, together=3,
        halving={"factor": 2, "among": "all"}, train={"epochs": 2, "batch_size": 16, "evaluate_every": 1},
    )  # fmt: skip
    board = compare(recipe, tmp_path / "board")
    assert [row.error for row in board.rows if row.status == "failed"] == []


@pytest.mark.slow
def test_runs_make_their_steps_together(
    gpu: Any, llama_folder: Path, make_recipe: Make, tmp_path: Path
) -> None:
    methods = [{"lora": {"dropout": 0.1}}, "prefix"]
    recipe = make_recipe(*SHORT, methods=methods, together=2, task="causal-lm", model=str(llama_folder))
    board = compare(recipe, tmp_path / "board")
    assert [(row.status, row.error) for row in board.rows] == [("done", None)] * 2


def test_kept_layers_and_smaller_micro_batches(
    gpu: Any, llama_folder: Path, make_recipe: Make, tmp_path: Path
) -> None:
    last = {"lora": {"targets": ["model.layers.1.self_attn.q_proj"]}}
    recipe = make_recipe(
        "train.auto_micro_batch=true", "train.micro_batch_size=3", "evaluation.max_new_tokens=3",
        task="causal-lm", model=str(llama_folder), methods=[last],
    )  # fmt: skip
    assert run(recipe, recipe.methods[0], 0, tmp_path / "run").status == "done"


def test_a_classifier_of_texts(gpu: Any, make_classifier: Make, tmp_path: Path) -> None:
    recipe = make_classifier()
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test, rel=1e-4, abs=1e-4)


@pytest.fixture
def scans(tmp_path: Path) -> Recipe:
    """Images of two classes, and a tiny ViT."""
    draw = np.random.default_rng(0)
    for label, shade in (("dark", 60), ("light", 180)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(12):
            pixels = draw.integers(shade - 50, shade + 50, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    return parse_recipe({
        "task": "image-classification", "model": str(save_tiny("vit", tmp_path / "vit")),
        "data": {"source": str(tmp_path / "data"), "split": {"validation": 0.2, "test": 0.2}},
        "methods": ["lora"], "train": {"max_steps": 4, "batch_size": 4},
    })  # fmt: skip


def test_images(gpu: Any, scans: Recipe, tmp_path: Path) -> None:
    result = run(scans, scans.methods[0], 0, tmp_path / "run")
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test, rel=1e-4, abs=1e-4)


def test_a_conversation(gpu: Any, llama_folder: Path, tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"{n} goals"}, {"role": "assistant", "content": "yes"}]}
        for n in range(12)
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)), encoding="utf-8")
    recipe = parse_recipe({
        "task": "conversation", "model": str(llama_folder),
        "data": {"source": str(tmp_path / "chats.jsonl"), "split": {"test": 0.2}, "chat_template": "plain"},
        "methods": ["prompt"], "train": {"max_steps": 2, "batch_size": 4},
        "evaluation": {"max_new_tokens": 3},
    })  # fmt: skip
    assert run(recipe, recipe.methods[0], 0, tmp_path / "run").status == "done"
    assert isinstance(Talk([tmp_path / "run"]).say("3 goals", 3, lambda text: None).text, str)


def test_a_loop_of_ones_own(gpu: Any, tiny_on_gpu: None, tmp_path: Path) -> None:
    model = AdaptedModel(tiny.model("llama"))
    for name, method in (("a", "lora"), ("b", "prefix"), ("c", "prompt")):
        model.attach(name, METHODS.get(method)())
    prompts = tiny.prompts("llama")
    model.generate(adapters=["a", "b", None, "c"], **prompts, max_new_tokens=4, do_sample=False)
    model.use("a")
    model.save(tmp_path / "a")
    model.load(tmp_path / "a", "again")
    model.use("a")
    assert {p.device.type for p in model.merged().parameters()} == {gpu.device.type}


KEPT = ("base_unchanged_by_training", "save_load_save", "joint_equals_solo", "generation", "merge_is_exact")
"""Promises that go through most of what a method does."""
KINDS = ("t5", "llama", "bert", "vit")


def _cases() -> list[Any]:
    found = []
    for promise in (promise for promise in PROMISES if promise.name in KEPT):
        for case in CASES:
            for name in KINDS:
                if (
                    not promise.applies(case)
                    or name not in promise.architectures
                    or case.gap(promise.name, name)
                ):
                    continue
                quick = promise.name == KEPT[0] and name == "llama" and case.label == case.method
                marks = () if quick else (pytest.mark.slow,)
                found.append(
                    pytest.param(promise, case, name, id=f"{promise.name}-{case.label}-{name}", marks=marks)
                )
    return found


@pytest.mark.parametrize(("promise", "case", "architecture"), _cases())
def test_the_contract(promise: Any, case: Case, architecture: str, tiny_on_gpu: None) -> None:
    torch.manual_seed(0)
    promise.keep(case, architecture)
