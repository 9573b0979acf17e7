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
from tests.extending import example

from deltatune.methods import METHODS

SOURCE = example("scaling.py")
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
