"""What every method promises, on models that tell of each token which class it is of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.contract.cases import CASES, NO_CLASSES, Case
from tests.contract.test_contract import FIRST, ONLY, gap_marks

from deltatune.testing import computing, tiny
from deltatune.testing.promises import PROMISES, Promise

SHOWN = ("lora", "prefix", "prompt", "full", "head", "majority")
"""Methods of which the default run shows the promises that a head on tokens decides."""
DECIDED = ("identity_at_start", "joint_equals_solo", "save_load_save", "labelled_logits_are_exact")
"""Promises that such a head decides, which go on all architectures; the others on BERT."""
EXACT = Promise(computing.labelled_logits_are_exact)
OURS = [*(p for p in PROMISES if "bert" in p.architectures and p.name not in ONLY), EXACT]


def as_tagger(case: Case, architecture: str) -> Case:
    """The case with the gaps of the base under the head, which tells classes apart."""
    base = architecture.removesuffix("-tags")
    gaps = {
        (check, architecture): reason
        for (check, where), reason in case.gaps.items()
        if reason != NO_CLASSES and (base in where if isinstance(where, frozenset) else where in (base, "*"))
    }
    return replace(case, gaps=gaps)


def _all() -> Iterator[Any]:
    cases = [case for case in CASES if FIRST[case.method] == case.label]
    for promise, case, architecture in itertools.product(OURS, cases, tiny.TAGGERS):
        ours = as_tagger(case, architecture)
        if not promise.applies(case) or (promise.name not in DECIDED and architecture != "bert-tags"):
            continue
        shown = (
            case.label in SHOWN and promise.name in DECIDED and architecture in ("bert-tags", "llama-tags")
        )
        marks = gap_marks(ours, promise.name, architecture) + ([] if shown else [pytest.mark.slow])
        name = f"{promise.name}-{case.label}-{architecture}"
        yield pytest.param(promise, ours, architecture, marks=marks, id=name)


@pytest.mark.parametrize(("promise", "case", "architecture"), list(_all()))
def test_contract_of_taggers(promise: Promise, case: Case, architecture: str) -> None:
    promise.keep(case, architecture)
