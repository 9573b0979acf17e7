"""The contract of every method, on bases in four bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.contract import checks
from tests.contract.cases import CASES, Case

ARCHITECTURES = ("t5", "llama", "gpt2", "bert", "vit")
CHECKS = (
    checks.identity_at_start,
    checks.acts,
    checks.base_unchanged_by_training,
    checks.gradients_only_in_the_adapter,
    checks.every_tap_fires,
    checks.detach_leaves_nothing,
    checks.switching_is_exact,
    checks.checkpointing_equals_plain,
    checks.parameter_count,
)
TRAINED_WHOLE = ("full",)


def table(architectures: tuple[str, ...]) -> list[object]:
    return [
        pytest.param(case, architecture, id=f"{case.label}-{architecture}")
        for case in CASES
        for architecture in architectures
        if case.method not in TRAINED_WHOLE
    ]


@pytest.mark.usefixtures("nf4_bases")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("case", "architecture"), table(ARCHITECTURES))
def test_contract(check: Callable[[Case, str], None], case: Case, architecture: str) -> None:
    if case.gap(check.__name__, architecture):
        pytest.skip("a gap of the plain contract as well")
    check(case, architecture)


@pytest.mark.usefixtures("nf4_bases")
@pytest.mark.parametrize(("case", "architecture"), table(("t5", "llama")))
def test_generation(case: Case, architecture: str) -> None:
    if case.gap("generation", architecture):
        pytest.skip("a gap of the plain contract as well")
    checks.generation(case, architecture)


@pytest.mark.usefixtures("nf4_bases")
@pytest.mark.parametrize(("case", "architecture"), table(("t5", "bert")))
def test_save_load_save(case: Case, architecture: str, tmp_path: Path) -> None:
    if case.gap("save_load_save", architecture):
        pytest.skip("a gap of the plain contract as well")
    checks.save_load_save(case, architecture, tmp_path)


def test_the_bases_are_quantized(nf4_bases: None) -> None:
    from deltatune import quant

    for architecture in ARCHITECTURES:
        assert quant.describe(tiny.model(architecture)) == "nf4 double"
