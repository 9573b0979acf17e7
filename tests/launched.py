"""Runs that several processes make, as a launcher might start them, and what makes two runs the same."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deltatune.errors import DeltatuneError
from deltatune.methods import METHODS
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.runs import evaluate_run
from deltatune.training import run

SERVED = multiprocessing.get_context("forkserver")  # a process that never had threads is what may be forked
SERVED.set_forkserver_preload(
    [
        *("deltatune.training", "deltatune.evaluation", "deltatune.runs"),
        *("torch.distributed.fsdp", "torch.distributed.tensor"),
    ]
)


def several(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(rank, *arguments)` gives in each of `count` processes that a launcher might have started.

    Of one that fails, the error; of an error that is nobody's sentence, also where it arose.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = SERVED.SimpleQueue()
    children = [
        SERVED.Process(target=_child, args=(answers, (rank, count, port), work, arguments))
        for rank in range(count)
    ]
    for process in children:
        process.start()
    try:
        given = dict(answers.get() for _ in children)
    finally:
        for process in children:
            process.join(20)
            process.kill()
    return [given[rank] for rank in range(count)]


def _child(answers: Any, place: tuple[int, int, int], work: Callable[..., Any], arguments: Any) -> None:
    rank, count, port = place
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    importlib.import_module("deltatune.training.single.begin").predicted_run = lambda *_: None
    try:
        answers.put((rank, work(rank, *arguments)))
    except BaseException as error:
        where = "" if isinstance(error, DeltatuneError) else f"\n{traceback.format_exc()}"
        answers.put((rank, f"{type(error).__name__}: {error}{where}"))


def train(_: int, recipe: Recipe, out: Path, resume: bool = False) -> None:
    """Train the recipe's only method."""
    run(recipe, recipe.methods[0], recipe.seeds[0], out, resume=resume)


def train_interrupted(rank: int, recipe: Recipe, out: Path, at: int = 3, resume: bool = False) -> None:
    """The same, and the last process is asked to stop in the step `at` of those that it makes."""
    steps = 0

    class Asking(Silent):
        def advance(self, task: str, amount: int, numbers: Any = None) -> None:
            nonlocal steps
            steps += task == "Training"
            if steps == at and rank == int(os.environ["WORLD_SIZE"]) - 1:
                os.kill(os.getpid(), signal.SIGINT)

    importlib.import_module("deltatune.training.single.run").Silent = Asking
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(recipe, recipe.methods[0], recipe.seeds[0], out, observer=Asking(), resume=resume)


def evaluated(_: int, out: Path) -> dict[str, float]:
    return evaluate_run(out, device="cpu")


def trained(recipe: Recipe, out: Path, count: int = 1, resume: bool = False) -> None:
    if count == 1:
        train(0, recipe, out, resume)
        return
    answers = several(count, train, recipe, out, resume)
    assert answers == [None] * count, answers


def numbers(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


def require_equal(one: Path, other: Path, *, exactly: bool = False) -> None:
    """The same delta, losses and predictions."""
    ours, theirs = numbers(one), numbers(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        # By their norm: of gradients that are rounding alone AdamW makes steps of full size.
        apart = float((tensor.double() - theirs[name]).norm() / tensor.double().norm())
        assert apart == 0.0 if exactly else apart < 0.01, (name, apart)
    lines = [[json.loads(line) for line in (out / "metrics.jsonl").open()] for out in (one, other)]
    assert [line.keys() for line in lines[0]] == [line.keys() for line in lines[1]]
    for mine, its in zip(*lines, strict=True):
        assert mine["step"] == its["step"]
        assert mine.get("loss", 0.0) == pytest.approx(its.get("loss", 0.0), rel=1e-4)
    said = [
        [json.loads(line)["prediction"] for line in (out / "predictions.jsonl").open()]
        for out in (one, other)
    ]
    assert said[0] == said[1]


SETTINGS: dict[str, dict[str, Any]] = {
    "hard_prompt": {"candidates": 4},  # 16 by default, each of which is tried on all rows of a step
    "peft": {"peft_type": "LOHA", "target_modules": ["q", "v"]},
}
TRAINED = [name for name in METHODS.names() if METHODS.get(name).trains and name not in ("head", "loftq")]
"""All methods that train something in a base without classes, in its own bits."""
KINDS = ["lora", "adalora", "prefix", "adapter", "diff_pruning", "full"]
"""One of each kind: low rank, a schedule, learned keys and values, modules, masks, the base itself."""


def dropping(method: str) -> dict[str, Any]:
    """The method, with dropout where it has any: masks have to be equal too."""
    has = "dropout" in METHODS.get(method).model_fields
    return {method: SETTINGS.get(method, {}) | ({"dropout": 0.1} if has else {})}
