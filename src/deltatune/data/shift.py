"""Classes that are not spread alike over training, validation and test rows.

Whether a difference may be chance is asked of a permutation test: the rows of two parts are dealt out anew,
with the sizes of the parts, and Pearson's chi-square is compared. Unlike the usual table of chi-square it
holds for rare classes and small parts too. A difference that is real but small is let pass: it matters for
no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.001
"""P-value below which a difference is taken for real: random splits shall hardly ever be warned of."""
WORTH = 0.05
"""Share of the rows that had to change their class from which on a difference matters."""
_DRAWS = 10_000

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Shift:
    """Two parts whose classes differ by more than chance."""

    part: str
    other: str
    chi_square: float
    p: float
    """By permutation; no less than 1 in 10,001."""
    distance: float
    """Share of the part's rows that had to change their class for the shares to be equal."""

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)


def shifts(classes: Mapping[str, Mapping[str, int]]) -> list[Shift]:
    """Find parts whose classes differ.

    Args:
        classes: Rows of each class, by part (`train`, `validation`, `test`).
    """
    names = sorted({label for counts in classes.values() for label in counts})
    tables = {
        part: np.array([counts.get(name, 0) for name in names]) for part, counts in classes.items() if counts
    }
    found = []
    for part, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        if part in tables and other in tables:
            shift = _compare(part, tables[part], other, tables[other])
            if shift.distance >= WORTH and shift.p < LEVEL:
                found.append(shift)
    return found


def warning(classes: Mapping[str, Mapping[str, int]], found: list[Shift]) -> str:
    """One sentence with the shares of the class that differs most."""
    shares = {
        part: {label: count / sum(counts.values()) for label, count in counts.items()}
        for part, counts in classes.items()
        if counts
    }
    worst = max(found, key=lambda shift: shift.distance)
    labels = dict.fromkeys([*shares[worst.part], *shares[worst.other]])
    label = max(labels, key=lambda one: abs(shares[worst.part].get(one, 0) - shares[worst.other].get(one, 0)))
    each = [f"{own.get(label, 0):.0%} of the {_named(part)} rows" for part, own in shares.items()]
    tests = [
        f"{shift.part} against {_named(shift.other)}: chi-square {shift.chi_square:.1f}, p < {LEVEL:g}"
        for shift in found
    ]
    return (
        f"the classes are not spread alike: {label!r} is {', '.join(each[:-1])} and {each[-1]} "
        f"({'; '.join(tests)}); what is learned, selected by and judged by differs, so macro_f1 tells more "
        "than accuracy."
    )


def _named(part: str) -> str:
    return "training" if part == "train" else part


def _compare(part: str, mine: Counts, other: str, theirs: Counts) -> Shift:
    distance = float(np.abs(mine / mine.sum() - theirs / theirs.sum()).sum() / 2)
    there = (mine + theirs) > 0
    mine, theirs = mine[there], theirs[there]
    observed = float(_chi_square(mine[None], theirs[None])[0])
    p = 1.0
    if distance >= WORTH:  # otherwise nobody asks
        random = np.random.default_rng(0)
        drawn = random.multivariate_hypergeometric(mine + theirs, int(mine.sum()), _DRAWS, method="marginals")
        extreme = _chi_square(drawn, mine + theirs - drawn) >= observed * (1 - 1e-9)
        p = float((1 + extreme.sum()) / (1 + _DRAWS))
    return Shift(part, other, observed, p, distance)


def _chi_square(mine: Counts, theirs: Counts) -> NDArray[np.float64]:
    """Pearson's statistic of tables of two rows, [tables, classes] each."""
    total = mine + theirs
    share = mine.sum(axis=1, keepdims=True) / total.sum(axis=1, keepdims=True)
    expected = total * share
    found: NDArray[np.float64] = ((mine - expected) ** 2 / (expected * (1 - share))).sum(axis=1)
    return found
