"""The contract of every method on every architecture: the kit's promises over the table of `cases.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from tests.contract.cases import CASES, Case

from deltatune.errors import TargetError
from deltatune.testing import tiny
from deltatune.testing.promises import PROMISES, Promise


def gap_marks(case: Case, check: str, architecture: str) -> list[Any]:
    """A declared gap must fail, and is reported once it no longer does."""
    reason = case.gap(check, architecture)
    if reason is None:
        return []
    raises = TargetError if case.refused(architecture) else None
    return [pytest.mark.xfail(strict=True, reason=reason, raises=raises)]


FIRST = {case.method: case.label for case in reversed(CASES)}
"""The case of a method that goes on all architectures by default; its variants on one of each kind."""
VARIED = ("t5", "llama", "vit")
"""An encoder-decoder, a decoder and a model of images."""
COSTLY = frozenset(
    (
        "bf16_base",
        "checkpointing_equals_plain",
        "generation",
        "joint_equals_solo",
        "joint_equals_solo_for_two_shapes",
        "joint_equals_solo_with_checkpointing",
        "labelled_logits_are_exact",
        "save_load_save",
    )
)
"""Checks that take long."""
OF_ADAPTERS = frozenset(
    (
        "acts",
        "base_unchanged_by_training",
        "detach_leaves_nothing",
        "gradients_only_in_the_adapter",
        "stacking",
        "switching_is_exact",
        "unrouted_rows_are_plain",
    )
)
"""Checks of how adapters come and go, which an architecture decides no more than the core ones do."""
BESIDE = ("few_shot", "knn", "copy")
"""Methods that hang nothing on a base: in these checks they are `untuned`."""
REFUSAL = "identity_at_start"
"""The check that shows by default that a method refuses an architecture; others fail at the same place."""
ATTENDING = ("lora", "prefix", "prompt")
ONLY = {
    "base_dropout_is_off_unless_wanted": ("lora", "prefix", "full"),
    "generation_with_eager_attention": ATTENDING,
    "eager_attention_gives_the_same": ATTENDING,
}
"""Cases that stand for all others in a check that says little about a method."""


def marks_of(case: Case, check: str, architecture: str) -> list[Any]:
    """Declared gaps; slow is what shows little new on an architecture that has a like among the core ones."""
    varied = FIRST[case.method] != case.label or case.method in BESIDE
    spared = check in COSTLY | OF_ADAPTERS
    refused_before = case.refused(architecture) and check != REFUSAL
    slow = (
        refused_before
        or (spared and architecture not in tiny.CORE)
        or (varied and architecture not in VARIED)
    )
    return gap_marks(case, check, architecture) + ([pytest.mark.slow] if slow else [])


def over(check: str, architectures: Iterable[str]) -> Any:
    """Parametrise a test that is like the check over the table."""
    params = [
        pytest.param(case, name, marks=marks_of(case, check, name), id=f"{case.label}-{name}")
        for case in CASES
        for name in architectures
    ]
    return pytest.mark.parametrize(("case", "architecture"), params)


def _all() -> Any:
    params = []
    for promise in PROMISES:
        for case in CASES:
            if not promise.applies(case) or case.label not in ONLY.get(promise.name, (case.label,)):
                continue
            for name in promise.architectures:
                marks = marks_of(case, promise.name, name)
                made = pytest.param(
                    promise, case, name, marks=marks, id=f"{promise.name}-{case.label}-{name}"
                )
                params.append(made)
    return pytest.mark.parametrize(("promise", "case", "architecture"), params)


@_all()
def test_contract(promise: Promise, case: Case, architecture: str) -> None:
    promise.keep(case, architecture)
