"""docs/methods.md, out of what the methods say about themselves and of the contract suite's result.

python -m tests.methods_page      (part of `make matrix`)
"""

from __future__ import annotations

from pathlib import Path

from deltatune.methods import METHODS
from deltatune.methods.matrix import Matrix, load

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"

INTRODUCTION = """\
# Methods

<!-- Written by `make matrix`; do not edit. -->

`deltatune methods NAME` explains a method and every setting of it; `deltatune methods --matrix` prints the
tables of this page.

## On which models

Tests hold every method to one contract, on tiny models of every architecture:

- At step 0 it is the base, where it promises to be.
- It trains nothing but itself. It leaves the base's bytes alone, and nothing behind.
- It saves and loads to the byte, switches, stacks, folds, and shares a batch.
- It survives gradient checkpointing and a bf16 base.
- It generates with a cache as without.
- It has the number of parameters that its formula says.

A cell counts the checks that passed, over all variants of the method in the suite. A letter is a gap,
explained below. `-` means that the method refuses the architecture, with an error that says so.
"""


def render(matrix: Matrix) -> str:
    """The page."""
    parts = [INTRODUCTION]
    for kind, names in matrix.architectures.items():
        rows = [f"| {method} | " + " | ".join(matrix.text(method, name) for name in names) + " |"
                for method in METHODS.names()]  # fmt: skip
        parts.append(
            f"\n| {kind} | {' | '.join(names)} |\n|---{'|---:' * len(names)}|\n" + "\n".join(rows) + "\n"
        )
    if matrix.reasons():
        parts.append("\nGaps:\n\n")
        parts += [f"- **{letter}** {reason}: {_where(matrix, reason)}\n"
                  for reason, letter in matrix.reasons().items()]  # fmt: skip
    parts.append("\n## What each is\n")
    parts += [_section(name) for name in METHODS.names()]
    return "".join(parts)


def _where(matrix: Matrix, reason: str) -> str:
    """Methods and checks of a gap: `prefix (all checks)`."""
    found: dict[str, set[str]] = {}
    for method, row in matrix.cells.items():
        for cell in row.values():
            if reason in cell.gaps:
                checks = cell.gaps[reason] if cell.passed else ("all checks",)
                found.setdefault(method, set()).update(checks)
    return "; ".join(f"{method} ({', '.join(sorted(checks))})" for method, checks in found.items()) + "."


def _section(name: str) -> str:
    config = METHODS.get(name)
    times = f", up to {config.short_runs:g} times it in short runs" if config.short_runs > 1 else ""
    rate = f"Learning rate {config.default_lr:g}{times}. " if config.trains else ""
    lines = (
        f"\n### {name}\n\n{config.title}\n",
        f"- Formula: `{config.formula}`",
        f"- When: {config.when}",
        f"- Cost: {config.cost}",
        f"- Defaults: {rate}{config.defaults}",
        f"- Paper: {config.paper}\n",
    )
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render(load()), encoding="utf-8")
