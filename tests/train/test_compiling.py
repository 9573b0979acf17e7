"""Layers that are compiled give what plain ones give; where they cannot be, the run says why and goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import LlamaConfig, LlamaForCausalLM

from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.data.batches import levels
from deltatune.files import read_json
from deltatune.methods import METHODS
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.results import PausedRun, RunResult
from deltatune.tasks.task import IGNORED
from deltatune.testing import tiny
from deltatune.training.loop import filling
from deltatune.training.race.race import can_race
from deltatune.training.single import compiling
from deltatune.training.single.run import run
from tests.tiny_recipe import make_recipe, rows, t5_folder, unpredicted

__all__ = ["make_recipe", "rows", "t5_folder", "unpredicted"]
TASKS = {
    "t5": "text-to-text",
    "llama": "causal-lm",
    "bert": "text-classification",
    "vit": "image-classification",
}
METHODS_TRIED: dict[str, dict[str, Any]] = {
    "lora": {"targets": ("all-linear",), "dropout": 0.2},
    "prefix": {"n_tokens": 3},
    "adapter": {},
    "ia3": {},
    "dora": {},
    "prompt": {"n_tokens": 3},
}


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Ran:
    """A backend that counts how often its graphs run."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        def run(*values: Any) -> Any:
            self.times += 1
            return graph.forward(*values)

        return run


def gradients(model: AdaptedModel, batch: dict[str, torch.Tensor], task: str) -> torch.Tensor:
    adapter = model.adapter("a")
    tick = adapter.clock.tick
    summed_loss(model, batch, task).backward()
    made = torch.cat([p.grad.flatten() for _, p in adapter.trainable() if p.grad is not None])
    adapter.forget_pass(tick)
    return made


def compiled_equals_plain(architecture: str, method: str) -> None:
    """Same gradients with other dropout in each pass, no graph break, no graph for each layer."""
    task = TASKS[architecture]
    model = AdaptedModel(tiny.model(architecture), tiny.MODELS[architecture].heads, eager_up_to=0)
    adapter = model.attach("a", METHODS.get(method)(**METHODS_TRIED[method]))
    tiny.perturb(adapter, seed=1)
    model.train()
    batch = tiny.batch(architecture)
    wanted = gradients(model, batch, task)
    adapter.clock.tick = 5
    wanted_later = gradients(model, batch, task)
    compiled = model.fast.compiled
    ran = Ran()
    assert compiled.start(ran) > 0
    adapter.clock.tick = 0
    with compiled.trying():
        torch.testing.assert_close(gradients(model, batch, task), wanted, rtol=1e-3, atol=1e-4)
    made, each = counters["stats"]["unique_graphs"], ran.times
    assert each > 0
    adapter.clock.tick = 5
    torch.testing.assert_close(gradients(model, batch, task), wanted_later, rtol=1e-3, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == made
    assert ran.times == 2 * each
    assert not counters["graph_break"]
    compiled.stop()
    assert not [name for name, module in model.base.named_modules() if "forward" in module.__dict__]


def test_a_layer_is_one_graph_with_what_hangs_on_it() -> None:
    compiled_equals_plain("vit", "lora")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS_TRIED)
@pytest.mark.parametrize("architecture", TASKS)
def test_compiled_layers_give_the_gradients_of_plain_ones(architecture: str, method: str) -> None:
    compiled_equals_plain(architecture, method)


class Told(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.warned: list[str] = []
        self.logged: list[str] = []
        self.begun: list[str] = []
        self.warn, self.log = self.warned.append, self.logged.append  # type: ignore[method-assign]

    def start(self, task: str, total: int, done: int = 0) -> None:
        self.begun.append(task)


def one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches are padded to one length, since each graph takes a second."""
    monkeypatch.setattr(filling, "MOST_BESIDE_TARGETS", 1)
    monkeypatch.setattr(filling, "MOST_OF_TARGETS", 1)


def trained(recipe: Recipe, out: Path, **options: Any) -> tuple[RunResult | PausedRun, Told]:
    told = Told()
    return run(recipe, recipe.methods[0], 0, out, observer=told, **options), told


def losses(out: Path) -> list[float]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_run_is_the_same_and_goes_on(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a compiler of C++ on CPUs")
    monkeypatch.setattr(compiling, "BACKEND", backend)
    one_shape(monkeypatch)
    plain, _ = trained(make_recipe(), tmp_path / "plain")
    wanted, told = trained(make_recipe("train.compile=true"), tmp_path / "compiled")
    assert isinstance(plain, RunResult)
    assert isinstance(wanted, RunResult)
    assert compiling.TASK in told.begun
    assert not [text for text in told.warned if "train.compile" in text]
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)
    lines = read_json(tmp_path / "compiled/certificate.json", remedy="")["lines"]
    assert compiling.LINE in [line["check"] for line in lines]
    recipe = make_recipe("train.compile=true")
    paused, _ = trained(recipe, tmp_path / "halves", pause=lambda progress, _: progress.step <= 4)
    assert isinstance(paused, PausedRun)
    trained(recipe, tmp_path / "halves", resume=True)
    assert losses(tmp_path / "halves") == pytest.approx(losses(tmp_path / "compiled"), rel=1e-4)


@pytest.mark.slow
def test_steps_go_through_the_graphs(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran()
    monkeypatch.setattr(compiling, "BACKEND", ran)
    one_shape(monkeypatch)
    result, told = trained(make_recipe("train.compile=true", "train.epochs=3"), tmp_path / "run")
    assert isinstance(result, RunResult)
    assert any("were compiled for 1 shape in" in text for text in told.logged)
    # Of four layers. Of each epoch's batches the last has fewer rows; one step is looked at by the account
    # of memory; and the trial is one more.
    batches = len(losses(tmp_path / "run")) // 3
    assert ran.times == 4 * (3 * (batches - 1) - 1 + 1)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param(["train.gradient_checkpointing=true"], "computes again", marks=pytest.mark.slow),
        ([], "NotImplementedError: no such thing"),
    ],
)
def test_what_cannot_be_compiled_is_trained_without(
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: list[str],
    why: str,
) -> None:
    def refuse(*_: Any) -> Any:
        raise NotImplementedError("no such thing")

    monkeypatch.setattr(compiling, "BACKEND", refuse)
    recipe = make_recipe("train.compile=true", "train.max_steps=2", *changes)
    result, told = trained(recipe, tmp_path / "run")
    assert isinstance(result, RunResult)
    [warning] = [text for text in told.warned if "train.compile" in text]
    assert why in warning


@pytest.mark.slow
def test_layers_that_are_alike_share_a_graph() -> None:
    config = LlamaConfig(
        vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4
    )
    model = AdaptedModel(LlamaForCausalLM(config))
    model.attach("a", METHODS.get("lora")(targets=("all-linear",)))
    model.train()
    assert model.fast.compiled.start("eager") == 4  # the last one works where there are labels
    with model.fast.compiled.trying():
        gradients(model, tiny.batch("llama"), "causal-lm")
    assert counters["stats"]["unique_graphs"] == 2  # what comes into the first needs no gradient


def test_each_batch_is_padded_to_one_of_few_lengths() -> None:
    lengths = [3, 3, 4, 9, 10, 10, 30]
    assert levels(lengths, 1) == [30]
    assert levels(lengths, 3) == [4, 10, 30]
    assert levels(lengths, 9) == [3, 4, 9, 10, 30]
    how = filling.Filling((4, 10), (6,), pad_id=7)
    batch = {"input_ids": torch.ones(2, 5), "attention_mask": torch.ones(2, 5), "labels": torch.ones(2, 3)}
    filled = how.filled(batch)
    assert filled["input_ids"][0].tolist() == [1] * 5 + [7] * 5
    assert filled["attention_mask"].sum() == 10
    assert filled["labels"][0].tolist() == [1] * 3 + [IGNORED] * 3
    classes = {"input_ids": torch.ones(2, 12), "labels": torch.ones(2)}
    assert filling.Filling((4, 10), (), pad_id=7).filled(classes)["input_ids"].shape == (2, 12)


def test_auto_leaves_a_cpu_alone_and_compiled_runs_do_not_race(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe("train.compile=auto")
    on_cpu: Any = SimpleNamespace(model=SimpleNamespace(device=torch.device("cpu")), total=10**6)
    assert compiling._unworthy(on_cpu) is not None
    assert can_race(recipe.methods[0])
    assert not can_race(make_recipe("train.compile=true").methods[0])
    assert make_recipe("train.compile=on").methods[0].train.compile is True
    assert make_recipe("train.compile=off").methods[0].train.compile is False
    assert "compile" not in make_recipe().methods[0].train.model_dump()
