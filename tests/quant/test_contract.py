"""The contract of every method, on bases in four bits and, for one architecture, in eight."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deltatune import quant
from deltatune.core.model import AdaptedModel
from deltatune.errors import TargetError
from deltatune.testing import alone, computing, several, tiny
from deltatune.testing.building import add
from tests.contract.cases import CASES, Case
from tests.quant.conftest import quantized

ARCHITECTURES = ("t5", "llama", "gpt2", "bert", "vit")
FAST = ("llama",)
CHECKS = (
    alone.identity_at_start,
    alone.acts,
    alone.base_unchanged_by_training,
    alone.gradients_only_in_the_adapter,
    alone.every_tap_fires,
    alone.detach_leaves_nothing,
    several.switching_is_exact,
    computing.checkpointing_equals_plain,
)
ALSO_PLAIN = ("acts", "gradients_only_in_the_adapter", "every_tap_fires", "detach_leaves_nothing")
"""Checks that bits decide no more than a plain base does: slow."""
REFUSED = ("full", "peft")
FIRST = {case.method: case.label for case in reversed(CASES)}


def table(check: str, architectures: tuple[str, ...] = ARCHITECTURES) -> pytest.MarkDecorator:
    """Cases that have no gap on plain bases; variants, and all architectures but one, are slow."""
    params = []
    for case in CASES:
        for architecture in architectures:
            if case.method in REFUSED or case.gap(check, architecture):
                continue
            fast = architecture in FAST and FIRST[case.method] == case.label and check not in ALSO_PLAIN
            marks = [] if fast else [pytest.mark.slow]
            params.append(pytest.param(case, architecture, marks=marks, id=f"{case.label}-{architecture}"))
    return pytest.mark.parametrize(("case", "architecture"), params)


def over(
    check: Callable[[Case, str], None], bases: str, architectures: tuple[str, ...]
) -> Callable[..., None]:
    @pytest.mark.usefixtures(bases)
    @table(check.__name__, architectures)
    def test(case: Case, architecture: str) -> None:
        check(case, architecture)

    return test


for _check in CHECKS:
    globals()[f"test_{_check.__name__}"] = over(_check, "nf4_bases", ARCHITECTURES)
    globals()[f"test_{_check.__name__}_in_eight_bits"] = over(_check, "int8_bases", ("llama",))


@table("parameter_count")
def test_parameter_count(case: Case, architecture: str) -> None:
    model = AdaptedModel(quantized(architecture, "nf4"), tiny.heads(architecture))
    adapter = add(model, case, "a")
    assert sum(p.numel() for _, p in adapter.trainable()) == case.expected_count(architecture)


@pytest.mark.usefixtures("nf4_bases")
@table("generation", ("t5", "llama"))
def test_generation(case: Case, architecture: str) -> None:
    computing.generation(case, architecture)


@pytest.mark.usefixtures("nf4_bases")
@table("save_load_save", ("t5", "llama", "bert"))
def test_save_load_save(case: Case, architecture: str) -> None:
    alone.save_load_save(case, architecture)


@pytest.mark.parametrize("case", [case for case in CASES if case.method == "peft"], ids=lambda c: c.label)
def test_the_bridge_to_peft_is_refused(case: Case) -> None:
    with pytest.raises(TargetError, match="quantized"):
        add(AdaptedModel(quantized("llama", "nf4")), case, "a")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_bases_are_quantized(architecture: str) -> None:
    assert quant.describe(quantized(architecture, "nf4")) == "nf4 double"
