"""The matrix: which method keeps the contract on which architecture, as the contract suite found it.

`matrix.json` is written by `make matrix` from the outcome of the tests, never by hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("matrix.json")


@dataclass(frozen=True)
class Cell:
    """One method on one architecture, over all of the method's variants in the suite.

    Args:
        passed: Checks that passed.
        gaps: Reason -> checks that are known not to hold, for that reason.
        failed: Checks that failed without being declared.
    """

    passed: int
    gaps: dict[str, tuple[str, ...]]
    failed: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """The outcome of a run of the contract suite.

    Args:
        architectures: Kind of model -> model types.
        cells: Method -> model type -> outcome.
        cases: The file's own entries, one for each variant of a method.
    """

    architectures: dict[str, tuple[str, ...]]
    cells: dict[str, dict[str, Cell]]
    cases: dict[str, Any]

    def reasons(self) -> dict[str, str]:
        """Reason of a gap -> the letter that stands for it in tables."""
        found = [r for row in self.cells.values() for cell in row.values() for r in cell.gaps]
        return {reason: _letter(index) for index, reason in enumerate(dict.fromkeys(found))}

    def text(self, method: str, architecture: str) -> str:
        """A cell in a few characters: checks passed, letters of its gaps, `!` if any failed.

        `-` stands for a refused architecture, `?` for one that was not run.
        """
        if method not in self.cells:
            return "?"
        cell, letters = self.cells[method][architecture], self.reasons()
        marks = "".join(letters[reason] for reason in cell.gaps)
        passed = str(cell.passed or ("-" if marks else "?"))
        return f"{passed}{f' {marks}' if marks else ''}{'!' if cell.failed else ''}"


def load(file: Path = FILE) -> Matrix:
    """Read the matrix that ships with the package."""
    table = json.loads(file.read_text(encoding="utf-8"))
    kinds = {kind: tuple(names) for kind, names in table["architectures"].items()}
    cases: dict[str, Any] = table["cases"]
    methods = dict.fromkeys(case["method"] for case in cases.values())
    cells = {
        method: {
            name: _cell([case for case in cases.values() if case["method"] == method], name)
            for names in kinds.values()
            for name in names
        }
        for method in methods
    }
    return Matrix(kinds, cells, cases)


def _cell(cases: list[dict[str, Any]], architecture: str) -> Cell:
    gaps: dict[str, set[str]] = {}
    for case in cases:
        for gap in case["gaps"]:
            if architecture in gap["architectures"]:
                gaps.setdefault(gap["reason"], set()).update(gap["checks"])
    return Cell(
        passed=sum(case["passed"].get(architecture, 0) for case in cases),
        gaps={reason: tuple(sorted(checks)) for reason, checks in gaps.items()},
        failed=tuple(sorted({f for case in cases for f in case.get("failed", {}).get(architecture, [])})),
    )


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else f"({index})"
