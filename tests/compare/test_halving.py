"""The decisions of successive halving, on recorded curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from benchmarks.halving_on_recorded_grid import describe, read_grid, study

from deltatune.comparison.halving import Standing, halve
from deltatune.recipe.choosing import HalvingSpec

STEPS = 90


def reach(curves: Mapping[str, tuple[float | None, ...]]):
    """Curves hold the values after 1/9, 1/3 (or 1/2) and all of the steps; one without any fails."""

    def at(names: Sequence[str], share: float) -> dict[str, Standing]:
        index = 0 if share < 0.2 else 1 if share <= 0.5 else 2
        step = (10, 30, STEPS)[index]
        return {name: Standing(step, STEPS, curves[name][index]) for name in names if curves[name]}

    return at


def test_the_best_third_goes_on_twice() -> None:
    curves = {f"c{i}": (i, i, i) for i in range(9)}
    alive, decisions = halve(
        list(curves), HalvingSpec(factor=3, rungs=2), reach(curves), higher_is_better=True
    )
    assert alive == ["c8"]
    assert [(round(d.share, 2), len(d.values), len(d.stopped)) for d in decisions] == [
        (0.11, 9, 6),
        (0.33, 3, 2),
    ]
    alive, _ = halve(
        list(curves), HalvingSpec(factor=3, rungs=2, finish=2), reach(curves), higher_is_better=False
    )
    assert alive == ["c0", "c1"]


def test_a_late_winner_is_lost_which_is_the_risk() -> None:
    curves = {"slow": (9.0, 9.0, 0.1), "a": (2.0, 1.0, 1.0), "b": (3.0, 2.0, 2.0)}
    alive, [decision] = halve(list(curves), HalvingSpec(), reach(curves), higher_is_better=False)
    assert alive == ["a"]
    assert decision.stopped == ["b", "slow"]


def test_failures_leave_and_what_is_not_settled_or_overflowed_is_told_apart() -> None:
    curves = {
        "fails": (),
        "schedule": (None, None, 5.0),
        "a": (1.0,) * 3,
        "b": (2.0,) * 3,
        "inf": (float("inf"),) * 3,
    }
    spec = HalvingSpec(factor=2, rungs=1)
    alive, [decision] = halve(list(curves), spec, reach(curves), higher_is_better=False)
    assert alive == ["schedule", "a", "b"]
    assert (decision.stopped, decision.not_settled) == (["inf"], ["schedule"])


@pytest.mark.parametrize("size", [1, 2])
def test_too_few_to_choose_from_all_go_on(size: int) -> None:
    curves = {f"c{i}": (i, i, i) for i in range(size)}
    alive, decisions = halve(list(curves), HalvingSpec(finish=2), reach(curves), higher_is_better=True)
    assert (alive, decisions) == (list(curves), [])


def recorded(folder: Path, name: str, curve: list[float], **changes: object) -> None:
    run = folder / "runs" / name
    run.mkdir(parents=True)
    result = {"status": "done", "seed": 0, "method": "lora", "cost": {"steps": 10 * len(curve)}} | changes
    (run / "result.json").write_text(json.dumps(result))
    lines = [{"step": 10 * (i + 1), "validation": {"loss": value}} for i, value in enumerate(curve)]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, [{"step": 1, "loss": 9.0}, *lines])))


def test_a_recorded_grid_tells_how_often_the_winner_is_kept(tmp_path: Path) -> None:
    for i in range(6):  # order at the end = order at the start
        recorded(tmp_path / "kind", f"c{i}-s0", [3 + i - step / 9 for step in range(9)])
        slow = [9.0] * 6 + [1.0] * 3 if i == 0 else [3.0 + i] * 9  # the winner starts as the worst
        recorded(tmp_path / "cruel", f"c{i}-s0", slow)
    recorded(tmp_path / "kind", "c0-s1", [0.0] * 9, seed=1)  # halving sees the first seed
    recorded(tmp_path / "kind", "adalora-s0", [0.0] * 9, method="adalora")
    recorded(
        tmp_path / "kind", "half-s0", [0.0] * 4, status="paused", cost={"steps": 40, "planned_steps": 90}
    )
    for name, share in (("kind", 1.0), ("cruel", 0.0)):
        found = study(read_grid([tmp_path / name], "loss"), "loss", draws=50, size=6)
        assert (found["runs"], found["size"], found["steps"], found["validations"]) == (6, 6, [90], [9])
        by_setting = {(o["factor"], o["rungs"], o["finish"]): o for o in found["outcomes"]}
        one = by_setting[3, 1, 1]
        assert one["same_winner"] == share
        assert one["saved"] == pytest.approx(4 / 6 * 2 / 3)  # four of six stop after a third
        assert one["mean_loss"] == pytest.approx(0 if share else 3.0)
        table = describe(found).splitlines()
        assert len({line.count("|") for line in table[2:]}) == 1
        assert f"| 3 | 33% | 1 | {share:.1%} |" in describe(found)
        assert json.loads(json.dumps(found))["curves"]["c1-s0"][0][0] == 10
