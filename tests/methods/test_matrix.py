"""The matrix and the page made from it are those of the methods and the suite as they are."""

from __future__ import annotations

import pytest
from tests import methods_page
from tests.contract.cases import CASES, Case

from deltatune.methods import METHODS
from deltatune.methods.matrix import load
from deltatune.testing import tiny

RENEW = "run `make matrix`"


def test_every_method_and_architecture_is_in_it() -> None:
    matrix = load()
    assert set(METHODS.names()) == set(matrix.cells), RENEW
    assert [case.label for case in CASES] == list(matrix.cases), RENEW
    assert sorted(tiny.ARCHITECTURES) == sorted(n for names in matrix.architectures.values() for n in names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_its_gaps_are_the_declared_ones_and_nothing_failed(case: Case) -> None:
    found = load().cases[case.label]
    assert "failed" not in found
    gaps = {(check, a): gap["reason"] for gap in found["gaps"] for check in gap["checks"]
            for a in gap["architectures"]}  # fmt: skip
    refused = {a for a in tiny.ARCHITECTURES if case.refused(a)}
    assert {a for _, a in gaps} >= refused, RENEW
    assert set(gaps.values()) <= set(case.gaps.values()), RENEW
    for architecture in tiny.ARCHITECTURES:
        assert (found["passed"].get(architecture, 0) == 0) == (architecture in refused), RENEW


def test_the_page_is_generated_and_not_edited() -> None:
    assert methods_page.PAGE.read_text(encoding="utf-8") == methods_page.render(load()), RENEW


def test_methods_explain_themselves_in_ten_lines() -> None:
    for name in METHODS.names():
        config = METHODS.get(name)
        for part in ("title", "formula", "when", "cost", "defaults", "paper"):
            text = getattr(config, part)
            assert 4 < len(text) < 420, (name, part)
            assert "\n" not in text, (name, part)
