"""Tests of what a GPU asks of the code, on a pretended one; with `--device cuda` (mps, xpu) on a real one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import peft  # noqa: F401  (before a GPU seems to be there: what it imports looks for one)
import pytest
import torch

from deltatune.recipe import Recipe
from deltatune.testing import tiny
from tests.gpu_shaped import pretended
from tests.tiny_recipe import (
    bert_folder,
    llama_folder,
    make_classifier,
    make_recipe,
    rows,
    t5_folder,
    unpredicted,
)

__all__ = [
    "bert_folder",
    "llama_folder",
    "make_classifier",
    "make_recipe",
    "rows",
    "t5_folder",
    "unpredicted",
]

Make = Callable[..., Recipe]


class Real:
    """A real GPU, of which nobody counts the waits."""

    def __init__(self, kind: str) -> None:
        self.device = torch.device(kind)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is on it."""
        return tensor.device.type == self.device.type


@pytest.fixture(scope="session")
def real(request: pytest.FixtureRequest) -> str | None:
    """The kind of a real GPU that the tests shall run on."""
    kind: str | None = request.config.getoption("--device")
    return kind


@pytest.fixture
def gpu(real: str | None, t5_folder: Any, llama_folder: Any, bert_folder: Any) -> Iterator[Any]:
    """A GPU, with which `device: auto` finds one; the folders are made before it is there."""
    if real is not None:
        yield Real(real)
        return
    with pretended.gpu() as made:
        yield made


@pytest.fixture
def pretend(real: str | None) -> Callable[..., Any]:
    """Make a pretended GPU with properties of its own."""
    if real is not None:
        pytest.skip("it asks for a GPU with other properties than the real one has")
    return pretended.gpu


@pytest.fixture
def counting(gpu: Any) -> pretended.Gpu:
    """A GPU whose waits are counted."""
    if not isinstance(gpu, pretended.Gpu):
        pytest.skip("nobody counts the waits of a real GPU here: benchmarks/gpu.py does")
    return gpu


@pytest.fixture
def tiny_on_gpu(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models and batches, as the kit makes them, are on the GPU."""
    for name in ("model", "batch", "prompts"):
        monkeypatch.setattr(tiny, name, functools.partial(_placed, getattr(tiny, name), gpu.device))


def _placed(make: Callable[..., Any], device: torch.device, *args: Any, **options: Any) -> Any:
    made = make(*args, **options)
    return {k: v.to(device) for k, v in made.items()} if isinstance(made, dict) else made.to(device)
