"""A run of 3,000 tiny steps: its memory is at the end what it was after 500; its disk is what plan says."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.training import run
from deltatune.training.before.forecast import forecast
from tests.train.test_disk import size

Make = Callable[..., Recipe]
SLACK_BYTES = 10_000_000
"""Of the process's memory: 4 kB a step would be as much."""


class Watching(Silent):
    """Notes resident bytes and living tensors every 500 steps, and the folder's bytes every 50."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps = 0
        self.disk: list[int] = []
        self.resident: list[int] = []
        self.tensors: list[int] = []

    def advance(self, task: str, steps: int, values: Mapping[str, float] | None = None) -> None:
        if task != "Training":
            return
        self.steps += steps
        if self.steps % 50 == 0:
            self.disk.append(size(self.folder))
        if self.steps % 500 == 0:
            gc.collect()
            status = Path("/proc/self/statm").read_text(encoding="ascii").split()
            self.resident.append(int(status[1]) * 4096)
            self.tensors.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_neither_memory_nor_disk_grows(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(
        "train.epochs=1000", "train.max_steps=3000", "train.batch_size=2", "train.checkpoint_every=250",
        "train.evaluate_every=250",
    )  # fmt: skip
    planned = forecast(recipe).planned[0].disk
    watching = Watching(tmp_path / "run")
    run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=watching)
    assert watching.steps == 3000
    print(watching.resident, watching.tensors, watching.disk, planned)
    log = (tmp_path / "run/metrics.jsonl").stat().st_size
    assert max(watching.disk) - watching.disk[5] <= log
    assert max(*watching.disk, size(tmp_path / "run")) <= planned.most
    assert watching.tensors[-1] <= watching.tensors[0] + 2
    assert watching.resident[-1] <= watching.resident[0] + SLACK_BYTES
    assert [path.name for path in (tmp_path / "run").iterdir() if "resume" in path.name] == []
