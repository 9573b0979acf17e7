"""Leaderboards made up for tests of what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deltatune.report.load import Comparison, of_board
from deltatune.report.verdict import verdict
from deltatune.report.words import plain
from deltatune.results import Leaderboard


def board(
    methods: dict[str, tuple[float | None, int | None]],
    ties: set[frozenset[str]] = frozenset(),
    *,
    metric: str = "rougeL_f",
    higher: bool = True,
    tested: bool = True,
    seeds: Sequence[int] = (0, 1),
) -> Comparison:
    """Build a comparison from {name: (value, rank)}; every pair not in `ties` differs."""
    rows: list[dict[str, Any]] = []
    for name, (value, rank) in methods.items():
        done = value is not None
        cost = (
            {"train_seconds": len(name) * 10.0, "trained_parameters": len(name) * 1000, "file_bytes": 4e3}
            if name != "untuned"
            else {}
        )
        rows.append(
            {
                "name": name, "method": name, "status": "done" if done else "failed", "rank": rank,
                "seeds": [*seeds],
                "metrics": {metric: value} if done else {}, "cost": cost, "runs": [],
                "interval": [value - 0.01, value + 0.01] if done and tested else None,
            }
        )  # fmt: skip
    names = [name for name, (value, _) in methods.items() if value is not None]
    pairs = []  # a tie has p = .41
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            gap = methods[a][0] - methods[b][0]
            pairs.append(
                {
                    "a": a, "b": b, "difference": gap, "low": gap - 0.01, "high": gap + 0.01,
                    "p": 0.41 if frozenset((a, b)) in ties else 0.01, "tie": frozenset((a, b)) in ties,
                }
            )  # fmt: skip
    content = {"primary_metric": metric, "higher_is_better": higher, "pairs": pairs if tested else []}
    return of_content(content | {"rows": rows})


def of_content(content: dict[str, Any]) -> Comparison:
    return of_board(Leaderboard.of(content, "leaderboard.json", remedy=""), Path())


def changed(comparison: Comparison, change: Callable[[dict[str, Any]], object]) -> Comparison:
    """The comparison whose leaderboard.json is changed."""
    content = comparison.board.as_dict()
    change(content)
    return of_content(content)


def words(comparison: Comparison) -> str:
    return plain(verdict(comparison)).replace("\u202f", " ").replace("\u00a0", " ")


def with_times(comparison: Comparison, times: dict[str, list[float]]) -> Comparison:
    def change(content: dict[str, Any]) -> None:
        for row in content["rows"]:
            row["train_seconds"] = times[row["name"]]

    return changed(comparison, change)


def with_cost(comparison: Comparison, costs: dict[str, dict[str, float]]) -> Comparison:
    def change(content: dict[str, Any]) -> None:
        for row in content["rows"]:
            row["cost"] = costs[row["name"]]

    return changed(comparison, change)


def of_models(comparison: Comparison, models: dict[str, str]) -> Comparison:
    """The comparison with a base for each method."""
    content = comparison.board.as_dict() | {"models": list(dict.fromkeys(models.values()))}
    for row in content["rows"]:
        row["model"] = models[row["name"]]
    return of_content(content)
