"""A method in a temporary file, registered by one line with nothing else touched, keeps the contract."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import tiny
from tests.contract import checks
from tests.contract.cases import QUERY_VALUE, Case
from tests.contract.test_contract import SIMPLE

from deltatune.methods import METHODS

SOURCE = '''
"""Scaling: y (1 + s) at the chosen linear layers."""

from typing import ClassVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta
from deltatune.core.method import MethodConfig


class ScaleDelta(Delta):
    def __init__(self, module):
        super().__init__()
        self.transposed = isinstance(module, Conv1D)
        self.scale = nn.Parameter(torch.zeros(module.weight.shape[1 if self.transposed else 0]))

    def forward(self, x, y):
        return y * (1 + self.scale).to(y.dtype)

    def fold(self, weight, bias):
        factor = 1 + self.scale
        weight = weight * (factor if self.transposed else factor[:, None])
        return weight, None if bias is None else bias * factor


class ScaleConfig(MethodConfig):
    name: ClassVar[str] = "toy-scale"
    title: ClassVar[str] = "Scales outputs."
    formula: ClassVar[str] = "y (1 + s)"
    when: ClassVar[str] = "In tests."
    cost: ClassVar[str] = "d_out parameters for each matrix."
    defaults: ClassVar[str] = "Starts at the base."
    paper: ClassVar[str] = "None."
    default_lr: ClassVar[float] = 1e-2

    targets: tuple[str, ...] = ("query", "value")
    """Modules to scale."""

    def build(self, view):
        return Adapter({path: ScaleDelta(module) for path, module in view.select(self.targets).items()})
'''
CASE = Case("toy", "toy-scale", {}, lambda a: sum(d_out for _, d_out in QUERY_VALUE[a]))
MODULE = "method_of_a_user"


@pytest.fixture(scope="module", autouse=True)
def _registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("package")
    (folder / f"{MODULE}.py").write_text(SOURCE, encoding="utf-8")
    sys.path.insert(0, str(folder))
    METHODS.add("toy-scale", f"{MODULE}:ScaleConfig")
    yield
    METHODS.remove("toy-scale")
    sys.path.remove(str(folder))
    sys.modules.pop(MODULE, None)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_contract(architecture: str, tmp_path: Path) -> None:
    for check in SIMPLE:
        check(CASE, architecture)
    checks.save_load_save(CASE, architecture, tmp_path)
    checks.joint_equals_solo(CASE, architecture, checkpointing=True)


@pytest.mark.parametrize("architecture", tiny.CORE_GENERATING)
def test_language(architecture: str) -> None:
    checks.labelled_logits_are_exact(CASE, architecture)
    checks.generation(CASE, architecture)
