"""A method made in one place, registered by one line, keeps the whole contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests import tiny
from tests.contract import checks
from tests.contract.cases import QUERY_VALUE, Case
from tests.contract.test_contract import SIMPLE
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.methods import METHODS
from deltatune.methods.lora import linear_shape


class ScaleDelta(Delta):
    """y * (1 + s)."""

    def __init__(self, d_out: int, transposed: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(d_out))
        self.transposed = transposed

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y * (1 + self.scale).to(y.dtype)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        factor = 1 + self.scale
        weight = weight * (factor if self.transposed else factor[:, None])
        return weight, None if bias is None else bias * factor


class ScaleConfig(MethodConfig):
    name: ClassVar[str] = "toy-scale"
    title: ClassVar[str] = "Scales outputs."
    formula: ClassVar[str] = "y (1 + s)"
    when: ClassVar[str] = "In tests."
    cost: ClassVar[str] = "d_out parameters for each matrix."
    defaults: ClassVar[str] = "None."
    paper: ClassVar[str] = "None."
    default_lr: ClassVar[float] = 1e-2

    targets: tuple[str, ...] = ("query", "value")

    def build(self, view: BaseView) -> Adapter:
        return Adapter(
            {
                path: ScaleDelta(linear_shape(path, module)[1], isinstance(module, Conv1D))
                for path, module in view.select(self.targets).items()
            }
        )


CASE = Case("toy", "toy-scale", {}, lambda a: sum(d_out for _, d_out in QUERY_VALUE[a]))


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    METHODS.add("toy-scale", ScaleConfig)
    yield
    METHODS.remove("toy-scale")


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("check", SIMPLE, ids=lambda check: check.__name__)
def test_contract(check: object, architecture: str) -> None:
    check(CASE, architecture)  # type: ignore[operator]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_files(architecture: str, tmp_path: Path) -> None:
    checks.save_load_save(CASE, architecture, tmp_path)
    checks.joint_equals_solo(CASE, architecture, checkpointing=True)


@pytest.mark.parametrize("architecture", tiny.GENERATING)
def test_language(architecture: str) -> None:
    checks.labelled_logits_are_exact(CASE, architecture)
    checks.generation(CASE, architecture)
