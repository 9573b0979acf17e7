"""The contract that every method keeps on every architecture; see `cases.py` for the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tests import tiny
from tests.contract import checks
from tests.contract.cases import CASES, Case

from deltatune.errors import TargetError


def gap_marks(case: Case, check: str, architecture: str) -> list[Any]:
    """A declared gap must fail, and is reported once it no longer does."""
    reason = case.gap(check, architecture)
    if reason is None:
        return []
    raises = TargetError if case.refused(architecture) else None
    return [pytest.mark.xfail(strict=True, reason=reason, raises=raises)]


FIRST = {case.method: case.label for case in reversed(CASES)}
"""The case of a method that is tried with all checks on all architectures by default."""


def marks_of(case: Case, check: str, architecture: str, *, costly: bool) -> list[Any]:
    """Declared gaps; and slow is what is costly on an architecture that has a like among the core ones."""
    slow = costly and architecture not in tiny.CORE
    return gap_marks(case, check, architecture) + ([pytest.mark.slow] if slow else [])


def over(
    check: str,
    architectures: Iterable[str] = tiny.ARCHITECTURES,
    only: Callable[[Case], Any] = lambda case: True,
    *,
    costly: bool = False,
) -> Any:
    """Parametrise over the table; a costly check is slow but on the core architectures."""
    params = []
    for case in filter(only, CASES):
        for architecture in architectures:
            hard = costly or (FIRST[case.method] != case.label and check not in QUICK)
            marks = marks_of(case, check, architecture, costly=hard)
            params.append(pytest.param(case, architecture, marks=marks, id=f"{case.label}-{architecture}"))
    return pytest.mark.parametrize(("case", "architecture"), params)


QUICK = frozenset(
    (
        "identity_at_start",
        "acts",
        "gradients_only_in_the_adapter",
        "every_tap_fires",
        "detach_leaves_nothing",
        "switching_is_exact",
        "folding",
        "parameter_count",
    )
)
"""Checks that variants of a method, too, go through on all architectures by default."""
SIMPLE = (
    checks.identity_at_start,
    checks.acts,
    checks.base_unchanged_by_training,
    checks.gradients_only_in_the_adapter,
    checks.every_tap_fires,
    checks.detach_leaves_nothing,
    checks.switching_is_exact,
    checks.stacking,
    checks.folding,
    checks.joint_equals_solo,
    checks.unrouted_rows_are_plain,
    checks.checkpointing_equals_plain,
    checks.parameter_count,
    checks.bf16_base,
)


def _simple() -> Any:
    params = []
    for check in SIMPLE:
        for case in CASES:
            for architecture in tiny.ARCHITECTURES:
                hard = FIRST[case.method] != case.label and check.__name__ not in QUICK
                marks = marks_of(case, check.__name__, architecture, costly=hard)
                name = f"{check.__name__}-{case.label}-{architecture}"
                params.append(pytest.param(check, case, architecture, marks=marks, id=name))
    return pytest.mark.parametrize(("check", "case", "architecture"), params)


@_simple()
def test_contract(check: Callable[[Case, str], None], case: Case, architecture: str) -> None:
    check(case, architecture)


@over("save_load_save")
def test_save_load_save(case: Case, architecture: str, tmp_path: Path) -> None:
    checks.save_load_save(case, architecture, tmp_path)


@over("joint_of_two_shapes", only=lambda case: case.other, costly=True)
def test_joint_equals_solo_for_two_shapes(case: Case, architecture: str) -> None:
    checks.joint_equals_solo(case, architecture, config=case.other)


@over("joint_with_checkpointing", only=lambda case: case.routable, costly=True)
def test_joint_equals_solo_with_checkpointing(case: Case, architecture: str) -> None:
    checks.joint_equals_solo(case, architecture, checkpointing=True)


@over("base_dropout", only=lambda case: case.label in ("lora", "prefix", "full"))
def test_base_dropout_is_off_unless_wanted(case: Case, architecture: str) -> None:
    checks.base_dropout_is_off_unless_wanted(case, architecture)


@over("labelled_logits", tiny.GENERATING)
def test_labelled_logits_are_exact(case: Case, architecture: str) -> None:
    checks.labelled_logits_are_exact(case, architecture)


@over("generation", tiny.GENERATING, costly=True)
def test_generation(case: Case, architecture: str) -> None:
    checks.generation(case, architecture)


@over("generation", tiny.CORE_GENERATING, only=lambda case: case.label in ("lora", "prefix", "prompt"))
def test_generation_with_eager_attention(case: Case, architecture: str) -> None:
    checks.generation(case, architecture, "eager")


@over("eager_equals_sdpa", only=lambda case: case.label in ("lora", "prefix", "prompt"))
def test_eager_attention_gives_the_same(case: Case, architecture: str) -> None:
    checks.eager_equals_sdpa(case, architecture)
