"""Runs that are trained at once are the runs that each would be alone, to rounding."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoded, EncodeReport
from deltatune.errors import DeltatuneError, TrainingError
from deltatune.methods.lora import LoraConfig
from deltatune.methods.prefix import PrefixConfig
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.recipe.train_section import TrainSpec
from deltatune.results import RunResult
from deltatune.testing import tiny
from deltatune.training import Context, run
from deltatune.training.given.digests import Inputs
from deltatune.training.loop.checkpoints import Checkpoints
from deltatune.training.loop.optimizer import Rates
from deltatune.training.loop.steps import Gradients
from deltatune.training.loop.trainer import Trainer
from deltatune.training.proof.certificate import Proof
from deltatune.training.race.joint import joint_gradients, together_key
from deltatune.training.race.lanes import Starter
from deltatune.training.race.race import can_race, race

Make = Callable[..., Recipe]
METHODS: list[Any] = [
    {"lora": {"r": 4, "targets": ["all-linear"]}},
    {"lora": {"r": 2, "dropout": 0.2}, "name": "lora dropout", "train": {"lr": 0.02}},
    {"lora": {"r": 2, "dropout": 0.1}, "name": "lora small", "train": {"batch_size": 4, "max_steps": 9}},
    {"adalora": {"interval": 2}},
    {"prefix": {"n_tokens": 3}},
    {"prompt": {"n_tokens": 5}, "train": {"lr": 0.1}},
    {"diff_pruning": {"density": 0.1}},
]


@pytest.fixture
def make(make_recipe: Make) -> Make:
    """Recipes whose rounding is that of float32, whatever this machine computes in."""
    return lambda *overrides, **sections: make_recipe("train.precision=fp32", *overrides, **sections)


def starters(recipe: Recipe, out: Path, seeds: tuple[int, ...] = (0,)) -> list[Starter]:
    return [Starter(e, seed, out / f"{e.slug}-s{seed}") for e in recipe.methods for seed in seeds]


def alone(recipe: Recipe, out: Path, seeds: tuple[int, ...] = (0,)) -> list[RunResult]:
    context = Context.open(recipe, Silent())
    return [run(recipe, s.entry, s.seed, s.out, context=context) for s in starters(recipe, out, seeds)]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def steps_of(folder: Path) -> list[dict[str, float]]:
    """Every line of the log as numbers, without times."""
    found = []
    for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        line |= line.pop("validation", {})
        line |= {f"row {number}": loss for number, loss in enumerate(line.pop("rows", []))}
        line.pop("seconds", None)
        found.append(line)
    return found


def assert_same_run(one: Path, other: Path, tolerance: float = 1e-3) -> None:
    left, right = steps_of(one), steps_of(other)
    assert len(left) == len(right)
    for mine, wanted in zip(left, right, strict=True):
        assert mine == pytest.approx(wanted, rel=tolerance, abs=tolerance)
    tensors = [load_file(folder / "adapter/adapter_model.safetensors") for folder in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensor, tensors[1][name], rtol=1e-2, atol=5e-4)
    results = [read(folder / "result.json") for folder in (one, other)]
    for part in ("validation", "test"):
        assert results[0]["metrics"][part] == pytest.approx(results[1]["metrics"][part], rel=1e-3, abs=1e-3)
    assert results[0]["selected"] == results[1]["selected"]
    checks = [[(line["check"], line["passed"]) for line in result["certificate"]] for result in results]
    assert checks[0] == checks[1]


@pytest.mark.parametrize("seeds", [(0,), pytest.param((0, 1), marks=pytest.mark.slow)])
def test_a_run_among_others_is_the_run_alone(make: Make, tmp_path: Path, seeds: tuple[int, ...]) -> None:
    recipe = make(methods=METHODS)
    alone(recipe, tmp_path / "alone", seeds)
    together = race(Context.open(recipe, Silent()), starters(recipe, tmp_path / "race", seeds))
    for starter, result in zip(starters(recipe, tmp_path / "race", seeds), together, strict=True):
        assert isinstance(result, RunResult), result
        print(starter.out.name, result.cost.raced, result.cost.train_seconds)
        assert_same_run(starter.out, tmp_path / "alone" / starter.out.name)


def test_runs_of_a_causal_model_draw_the_masks_that_they_draw_alone(
    make: Make, llama_folder: Path, tmp_path: Path
) -> None:
    """Also in the last layer, which works at as many positions as the row with the most labels has."""
    drops = [
        {"lora": {"r": r, "dropout": 0.2, "targets": ["all-linear"]}, "name": f"r{r}", "train": {"lr": lr}}
        for r, lr in ((2, 0.01), (3, 0.02))
    ]
    seeds = (0, 1)
    recipe = make("train.epochs=1", task="causal-lm", model=str(llama_folder), methods=drops)
    alone(recipe, tmp_path / "alone", seeds)
    together = race(Context.open(recipe, Silent()), starters(recipe, tmp_path / "race", seeds))
    for starter, result in zip(starters(recipe, tmp_path / "race", seeds), together, strict=True):
        assert isinstance(result, RunResult), result
        assert result.cost.raced >= 2
        assert_same_run(starter.out, tmp_path / "alone" / starter.out.name)


def test_early_stopping_and_a_failure_of_some_leave_the_others_alone(make: Make, tmp_path: Path) -> None:
    recipe = make(
        "train.evaluate_every=2",
        "evaluation.select_by=rougeL_f",
        methods=[
            {"lora": {"r": 2}, "name": "steady", "train": {"epochs": 3}},
            {"lora": {"r": 2}, "name": "stops", "train": {"early_stopping": 1, "epochs": 3}},
            {"lora": {"r": 2}, "name": "breaks", "train": {"lr": 1e38, "evaluate_every": 5}},
            {"lora": {"r": 2}, "name": "still", "train": {"lr": 1e-30}},
            {"lora": {"targets": ["qurey"]}, "name": "typo"},
            "prefix",
        ],
    )
    steady, stops, breaks, still, typo, prefix = race(
        Context.open(recipe, Silent()), starters(recipe, tmp_path / "race")
    )
    assert isinstance(breaks, TrainingError)
    assert "the loss or its gradient is" in str(breaks)
    assert isinstance(still, TrainingError)
    assert "logits moved" in str(still)  # a line of its certificate
    assert read(tmp_path / "race/still-s0/result.json")["status"] == "failed"
    assert isinstance(typo, DeltatuneError)
    assert "Did you mean 'query'" in str(typo)
    assert isinstance(steady, RunResult)
    assert isinstance(stops, RunResult)
    assert isinstance(prefix, RunResult)
    assert stops.selected.stopped_early
    assert stops.cost.steps < steady.cost.steps
    for entry in recipe.methods:
        if entry.name in ("steady", "stops", "prefix"):
            run(recipe, entry, 0, tmp_path / "alone" / f"{entry.slug}-s0")
            assert_same_run(tmp_path / f"race/{entry.slug}-s0", tmp_path / f"alone/{entry.slug}-s0")


class StopAfter(Silent):
    """Presses Ctrl-C after a number of steps of all runs together."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        if "Training" in task and numbers:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_race_goes_on_bit_for_bit(make: Make, tmp_path: Path) -> None:
    """Stopped in the midst of a round, all runs have the step behind them; one killed later may be behind."""
    recipe = make(methods=[*METHODS[:2], METHODS[4]])
    race(Context.open(recipe, Silent()), starters(recipe, tmp_path / "whole"))
    parts = starters(recipe, tmp_path / "parts")
    for stop in (5, 7):
        with pytest.raises(KeyboardInterrupt):
            race(Context.open(recipe, StopAfter(stop)), parts)
        states = [read(starter.out / "resume/state.json") for starter in parts]
        assert len(states) == 3
    race(Context.open(recipe, Silent()), parts)
    for starter in parts:
        delta = "adapter/adapter_model.safetensors"
        whole = tmp_path / "whole" / starter.out.name
        assert (starter.out / delta).read_bytes() == (whole / delta).read_bytes()
        assert steps_of(starter.out) == steps_of(whole)


def test_runs_at_different_steps_race_on(make: Make, tmp_path: Path) -> None:
    """As a kill leaves them, with their latest checkpoints."""
    recipe = make("train.checkpoint_every=3", methods=[METHODS[0], METHODS[4]])
    ahead, behind = starters(recipe, tmp_path / "race")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, ahead.entry, 0, ahead.out, observer=StopAfter(5))
    results = race(Context.open(recipe, Silent()), [ahead, behind])
    assert [result.cost.raced for result in results if isinstance(result, RunResult)] == [2, 2]
    alone(recipe, tmp_path / "alone")
    for starter in (ahead, behind):
        assert_same_run(starter.out, tmp_path / "alone" / starter.out.name)


def test_what_cannot_race_is_left_to_be_trained_alone(make: Make, tmp_path: Path) -> None:
    recipe = make(
        "train.max_steps=2",
        methods=["lora", "full", {"hard_prompt": {}}, {"lora": {"r": 2}, "name": "lora r2"}, "untuned"],
    )
    assert [can_race(entry) for entry in recipe.methods] == [True] * 4 + [False]
    base_dropout = make("train.base_dropout=true")
    micro = make("train.micro_batch_size=2")
    assert not can_race(base_dropout.methods[0])
    assert not can_race(micro.methods[0])
    results = race(Context.open(recipe, Silent()), starters(recipe, tmp_path)[:4])
    assert [type(result) for result in results] == [RunResult, type(None), type(None), RunResult]


def test_a_pass_that_does_not_fit_is_made_in_halves(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = [{"lora": {"r": r, "dropout": 0.2}, "name": f"r{r}"} for r in (2, 3, 4)]
    recipe = make("train.max_steps=4", methods=drops)
    alone(recipe, tmp_path / "alone")
    sizes = []

    def scarce(asked: Sequence[Any]) -> list[Gradients]:
        sizes.append(len(asked))
        found = joint_gradients(asked)  # what it leaves is undone
        if len(asked) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return found

    monkeypatch.setattr("deltatune.training.race.race.joint_gradients", scarce)
    results = race(Context.open(recipe, Silent()), starters(recipe, tmp_path / "race"))
    assert sizes[:2] == [3, 2]
    assert set(sizes[1:]) == {2}
    assert [result.cost.raced for result in results if isinstance(result, RunResult)] == [2, 2, 1]
    for starter in starters(recipe, tmp_path / "race"):
        assert_same_run(starter.out, tmp_path / "alone" / starter.out.name)


def test_the_costs_say_that_they_are_shares(make: Make, tmp_path: Path) -> None:
    recipe = make(methods=METHODS[:1] + METHODS[4:6])
    started = time.perf_counter()
    results = race(Context.open(recipe, Silent()), starters(recipe, tmp_path))
    wall = time.perf_counter() - started
    costs = [result.cost for result in results if isinstance(result, RunResult)]
    assert [cost.raced for cost in costs] == [3, 3, 3]
    assert [cost.peak_memory_bytes for cost in costs] == [None] * 3
    assert all(cost.race_peak_memory_bytes > 0 for cost in costs)
    assert sum(cost.train_seconds for cost in costs) < wall
    lines = [result.timeline for result in results if isinstance(result, RunResult)]
    # What nobody's run was at while others were is no run's: the base, loaded for all.
    assert 0.5 * wall < sum(phase.seconds for line in lines for phase in line) < wall
    assert all({"training", "certificate", "test rows"} < {phase.name for phase in line} for line in lines)
    by_itself = alone(make(methods=METHODS[:1]), tmp_path / "alone")
    assert isinstance(results[0], RunResult)
    assert results[0].memory == by_itself[0].memory  # of a step that the run made alone
    assert by_itself[0].cost.raced == 1
    assert by_itself[0].cost.peak_memory_bytes > 0


class Padding:
    """Collates rows of ids, as the encoder does."""

    def __init__(self, task: str) -> None:
        self.task = task

    def collate(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(feature["input_ids"]) for feature in features]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        batch = {"input_ids": padded, "attention_mask": (padded != 0).long()}
        if self.task == "text-classification":
            return {**batch, "labels": torch.tensor([feature["label"] for feature in features])}
        labels = padded.masked_fill(padded == 0, -100)
        labels[:, :2] = -100
        return {**batch, "labels": labels}


def trainer_of(model: AdaptedModel, name: str, task: str, seed: int, out: Path) -> Trainer:
    generator = torch.Generator().manual_seed(seed)
    lengths = [5 + seed, 4, 7 - seed]
    ids = [torch.randint(3, tiny.VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
    features = [{"input_ids": row, "prompt_length": 2, "label": at % 3} for at, row in enumerate(ids)]
    train = Encoded(features, lengths, EncodeReport(3, 0, 0, 0))
    return Trainer(
        model, name, Padding(task), train, TrainSpec(batch_size=3), 8,
        Rates(1e-3, None), seed, out, Silent(), Proof(out / "certificate.json", {}),
        Inputs("", {}, None, "", ""), Checkpoints(out, 0, lambda _: None),
    )  # type: ignore[arg-type]  # fmt: skip


def test_masks_are_those_drawn_alone_where_lengths_and_most_labels_are_the_same() -> None:
    """The last layer works at as many positions of each row as the row with the most labels has."""
    model = AdaptedModel(tiny.model("llama"))
    features = [{"input_ids": [5] * 9, "prompt_length": prompt} for prompt in (6, 7, 6, 5)]

    def key(rows: list[int], dropout: float) -> Any:
        adapter = model.attach(f"at{len(model.adapters)}", LoraConfig(r=2, dropout=dropout))
        train, encoder = SimpleNamespace(features=features), SimpleNamespace(task="causal-lm")
        return together_key(SimpleNamespace(adapter=adapter, train=train, encoder=encoder), rows)  # type: ignore[arg-type]

    assert key([0, 1], 0.1) == key([1, 2], 0.1)
    assert key([0, 1], 0.1) != key([0, 3], 0.1)
    assert key([0, 1], 0.0) == key([0, 3], 0.0)


@pytest.mark.parametrize(("name", "task"), [("llama", "causal-lm"), ("bert", "text-classification")])
def test_one_pass_gives_each_run_its_gradients(name: str, task: str, tmp_path: Path) -> None:
    """On other architectures: with heads, with deltas of different ranks, and rows of different lengths."""
    model = AdaptedModel(tiny.model(name), tiny.heads(name))
    trainers = []
    for seed, config in enumerate([LoraConfig(r=2), LoraConfig(r=3, alpha=5), PrefixConfig(n_tokens=2)]):
        tiny.perturb(model.attach(f"run{seed}", config, seed=seed), seed=seed)
        trainers.append(trainer_of(model, f"run{seed}", task, seed, tmp_path))
    asked = [(trainer, [0, 1, 2][: 2 + at % 2]) for at, trainer in enumerate(trainers)]
    found = joint_gradients(asked)
    for (trainer, rows), joint in zip(asked, found, strict=True):
        grads = {key: p.grad.clone() for key, p in trainer.adapter.trainable() if p.grad is not None}
        trainer.adapter.forget_pass(0)
        with model.using(trainer.name):
            solo = trainer.gradients(rows)
        assert float(sum(joint.losses)) == pytest.approx(float(sum(solo.losses)), rel=1e-5)
        assert joint.weight == solo.weight
        assert grads
        for key, parameter in trainer.adapter.trainable():
            if parameter.grad is not None:
                torch.testing.assert_close(grads[key], parameter.grad, rtol=1e-4, atol=1e-6)
