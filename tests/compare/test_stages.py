"""`halving: auto` and `budget_time`: how many decisions there are, and that they stay the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deltatune.comparison import attempt
from deltatune.comparison.candidates import Candidate
from deltatune.comparison.halving import Standing, halve
from deltatune.comparison.journal import Journal, Stages
from deltatune.comparison.runner import compare
from deltatune.comparison.stages import Contest, Foresight, Pace, spread
from deltatune.comparison.team import Team
from deltatune.errors import RecipeError
from deltatune.observer import Silent
from deltatune.recipe import MethodEntry, Recipe, TrainSpec
from deltatune.recipe.choosing import HalvingSpec
from deltatune.watch.halved import journal_of
from tests.compare.test_runner import comparable
from tests.train.test_run import StopAfter

Make = Callable[..., Recipe]
AUTO = HalvingSpec(rungs="auto")
RATES = {"lora": {}, "grid": {"train.lr": [1e-5, 1e-3, 1e-2, 1e-1]}}


class Told(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, text: str) -> None:
        self.said.append(text)

    warn = log


def with_auto(make_recipe: Make, *overrides: str) -> Recipe:
    given = ("train.evaluate_every=1", "train.epochs=6", "train.lr=null", "halving=auto", *overrides)
    return make_recipe(*given, methods=[RATES, "bitfit"])


def test_auto_decides_early_among_many_but_not_within_eight_steps(make_recipe: Make) -> None:
    few, many = [1 / 3], pytest.approx([1 / 9, 1 / 3])
    assert [AUTO.shares(count, 240) for count in (1, 2, 3, 8)] == [[], [], few, few]
    assert [AUTO.shares(count, 240) for count in (9, 500)] == [many, many]
    assert AUTO.shares(16, 40) == pytest.approx([1 / 5, 1 / 3])  # at step 8
    assert AUTO.shares(16, 24) == few
    assert AUTO.shares(16, 23) == []
    assert AUTO.shares_of(3) == pytest.approx([1 / 27, 1 / 9, 1 / 3])
    assert AUTO.shares_of(0) == []
    assert (AUTO.factor, AUTO.finish, AUTO.kept(36), AUTO.kept(4), AUTO.kept(2)) == (3, 2, 12, 2, 2)
    assert HalvingSpec(rungs="auto", factor=2, finish=1).shares(4, 500) == [1 / 4, 1 / 2]
    assert HalvingSpec(rungs=1).shares(2, 5) == few
    written = with_auto(make_recipe).dump()
    assert written["halving"] == {"factor": 3, "rungs": "auto", "finish": 2, "among": "entry"}
    assert "budget_time" not in written
    assert with_auto(make_recipe, "budget_time=20m").dump()["budget_time"] == "20m"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["halving={factor: 3}", "budget_time=20m"], "budget_time: says how long"),
        (["halving=null", "budget_time=20m"], "budget_time: says how long"),
        (["budget_time=soon"], "budget_time"),
        (["budget_time=20m", "search={trials: 3, space: {data.max_input_tokens: [8, 9]}}"], "beside search"),
        (["halving=fast"], "halving"),
    ],
)
def test_what_does_not_go_together_is_refused(make_recipe: Make, overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        with_auto(make_recipe, *overrides)


def test_nobody_is_stopped_while_losses_jump() -> None:
    def reach(pool: Sequence[str], share: float) -> dict[str, Standing]:
        up = 3.0 if share < 0.2 else 1.0
        place = {name: 1.0 + number / 10 for number, name in enumerate("abcdefghi")}
        return {name: Standing(int(90 * share), 90, place[name], last=up * place[name]) for name in pool}

    alive, decisions = halve("abcdefghi", AUTO, reach, higher_is_better=False, waits=True)
    assert [(one.stopped, one.jump) for one in decisions] == [
        ([], pytest.approx(3)),
        (list("defghi"), None),
    ]
    assert alive == ["a", "b", "c"]
    alive, decisions = halve("abcdefghi", AUTO, reach, higher_is_better=False)
    assert [len(one.stopped) for one in decisions] == [6, 1]
    assert [one.jump for one in decisions] == [pytest.approx(3), None]  # the first is a guess
    assert alive == ["a", "b"]
    upwards = halve("abcdefghi", AUTO, reach, higher_is_better=True, waits=True)[1]
    assert [decision.jump for decision in upwards] == [None, None]  # accuracies do not jump in this way
    assert Standing(1, 9, None, last=2.0).jump == Standing(1, 9, 0.0, last=2.0).jump == 1
    assert Standing(1, 9, 1.0, last=float("nan")).jump == 1


def foresight(
    sizes: dict[str, int], seeds: int = 1, every: float = 1 / 18, unsettled: float = 0.0
) -> Foresight:
    """A run takes 18 seconds of steps, one at the start, and two for test rows."""
    contests = {
        key: Contest(
            [Candidate(SimpleNamespace(name=f"{key}{i}")) for i in range(size)],
            Pace(1, 18, every, steps=180, unsettled=unsettled),
        )
        for key, size in sizes.items()
    }
    return Foresight(AUTO, contests, seeds, testing=2.0, asked=1)


def test_time_is_foreseen_by_what_is_stopped() -> None:
    seen = foresight({"a": 9})
    everyone = {"a": 9}
    assert seen.seconds(0, everyone) == 9 * 19 + 9 * 2 + 2
    assert seen.seconds(1, everyone) == pytest.approx(9 * (1 + 6) + 3 * (1 + 12) + 3 * 2 + 2)
    assert seen.seconds(2, everyone) == pytest.approx(9 * (1 + 2) + 3 * (1 + 4) + 2 * (1 + 12) + 2 * 2 + 2)
    again = foresight({"a": 9}, seeds=3)
    assert again.seconds(2, everyone) == pytest.approx(27 + 15 + 26 + 2 * (2 * 19 + 3 * 2) + 2)
    coarse = foresight({"a": 9}, every=1 / 3)  # one validation in six seconds: early decisions are the same
    assert coarse.seconds(2, everyone) == coarse.seconds(1, everyone)


def test_the_fewest_decisions_that_end_in_time() -> None:
    seen = foresight({"a": 9, "alone": 1})
    assert seen.within(1000) == Stages({"a": [], "alone": []}, [], pytest.approx(191 + 21))
    assert seen.within(150).shares == {"a": [1 / 3], "alone": []}
    assert seen.within(100).shares["a"] == pytest.approx([1 / 9, 1 / 3])
    late = seen.within(74)
    assert len(late.shares["a"]) == 3  # the two earliest come to one validation
    assert late.seconds <= 74
    assert late.left_out == ["a1", "a3", "a5", "a7"]
    assert "no time to begin with 4 of 10 configurations (a1, a3, a5, a7)" in seen.said(late, 74)
    never = seen.within(1)
    assert (len(never.left_out), never.seconds > 1) == (7, True)
    assert seen.within(1000) == seen.within(1000)
    assert "Nobody has to be stopped" in seen.said(seen.within(1000), 1000)
    assert "after 11% and 33% of their steps" in seen.said(seen.within(100), 100)


def test_a_pace_is_of_steps_and_of_starts_apart() -> None:
    train = TrainSpec(epochs=1, batch_size=1, evaluate_every=10)
    candidate = Candidate(SimpleNamespace(train=train))
    standing = Standing(10, 100, 1.0, seconds=4.0, validating=1.0, starting=3.0)
    pace = Pace.of(standing, candidate, rows=100, look=7.0)
    assert (pace.start, pace.whole, pace.steps, pace.unsettled) == (3, 50, 100, 0)
    assert (pace.validated(0.11), pace.validated(0.3)) == pytest.approx((0.2, 0.3))
    longer = Pace.of(standing, candidate, rows=200, look=7.0)  # the same steps, twice as many
    assert longer.whole == 100
    lost = Pace.of(Standing(10, 100, None, seconds=4.0), candidate, rows=100, look=0.5)
    assert (lost.whole, lost.unsettled) == (40 + 10 * 0.5, 1)  # ten looks, whose time a kill took away
    both = Pace.mean([pace, longer])
    assert (both.whole, both.every, both.steps) == (75, 0.1, 100)


def test_what_is_not_judged_goes_on_and_costs_all() -> None:
    adalora = foresight({"a": 9}, unsettled=1.0)
    assert adalora.seconds(0, {"a": 9}) < adalora.seconds(2, {"a": 9})  # more starts, and nobody is stopped
    assert adalora.seconds(2, {"a": 9}) == pytest.approx(9 * (18 + 3) + 9 * 2 + 2)
    assert adalora.within(100).left_out


def test_more_decisions_are_not_taken_where_they_take_longer() -> None:
    pool = [Candidate(SimpleNamespace(name=name)) for name in "abc"]
    dear = Foresight(AUTO, {"p": Contest(pool, Pace(20, 5, 1 / 81, steps=810))}, 1, testing=0.0, asked=0)
    assert dear.within(76) == Stages({"p": []}, [], 75)
    stages = dear.within(70)
    assert (stages.shares, stages.left_out, stages.seconds) == ({"p": []}, ["b"], 50)


def test_what_is_begun_is_spread_over_the_grid() -> None:
    assert spread("abcdefg", 3) == ["a", "d", "g"]
    assert spread("abc", 5) == ["a", "b", "c"]
    assert spread("abc", 1) == ["a"]


def test_what_was_decided_stays_for_whoever_comes(tmp_path: Path) -> None:
    with Team(tmp_path, Silent(), join=False) as team:
        journal = Journal(team)
        journal.note("a", "0.1111", Standing(1, 9, 0.5, last=0.7))
        first = Stages({"grid lora": [0.25]}, ["b"], 30.0)
        assert journal.settle(lambda: first) == first
        assert Journal(team).settle(lambda: Stages({})) == first
        assert Journal(team).reached == {"a": {"0.1111": Standing(1, 9, 0.5, last=0.7)}}
    seen = journal_of(json.loads((tmp_path / "choosing.json").read_text()))
    assert (seen.shares, seen.reached["a"]["0.1111"].last) == ({"grid lora": [0.25]}, 0.7)
    assert journal_of({"stages": {"shares": {"a": "two", "b": [0.5, "x"]}}}).shares == {"b": [0.5]}
    assert journal_of({"stages": [1]}).shares == {}


def test_validations_too_far_apart_are_said(make_recipe: Make, tmp_path: Path) -> None:
    told = Told()
    coarse = with_auto(make_recipe, "train.evaluate_every=16", "budget_time=0.001s")
    compare(coarse, tmp_path / "out", observer=told)
    assert sum("set train.evaluate_every=8 to save more" in text for text in told.said) == 1


def trained(folder: Path) -> dict[str, int]:
    """The last step of each run of the grid."""
    logs = (folder / "runs").glob("lora-*-s0/metrics.jsonl")
    return {log.parent.name: json.loads(log.read_text().splitlines()[-1])["step"] for log in logs}


def test_a_comparison_in_little_time(make_recipe: Make, tmp_path: Path) -> None:
    told = Told()
    little = compare(with_auto(make_recipe, "budget_time=0.001s"), tmp_path / "little", observer=told)
    assert {row.name: row.status for row in little.rows}.keys() >= {"bitfit"}
    assert little.halving.budget_time == "0.001s"
    assert little.halving.foreseen_seconds > 0.001
    [gone, *_] = little.halving.decisions
    assert (gone.share, len(gone.stopped)) == (0, 2)
    assert not any(
        (tmp_path / "little/runs" / f"lora-lr-{lr}-s0").exists() for lr in ("0.0001", "0.001", "0.01")
    )
    assert any("no time to begin with 2 of 5" in text for text in told.said)
    assert not any("stopped early" in text for text in told.said)  # two are left, and both go on


def test_the_first_of_a_grid_that_fails_takes_no_budget_away(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = attempt.run

    def run(recipe: Recipe, entry: MethodEntry, *args: Any, **more: Any) -> Any:
        if entry.train.lr in broken:
            raise RuntimeError("no memory")
        return real(recipe, entry, *args, **more)

    monkeypatch.setattr(attempt, "run", run)
    broken = {1e-5}
    board = compare(with_auto(make_recipe, "budget_time=0.001s"), tmp_path / "first")
    assert board.halving.foreseen_seconds > 0
    assert len(board.halving.decisions[0].stopped) == 2
    broken = {1e-5, 1e-1}  # both that are begun
    tuned = make_recipe(
        "train.lr=null", "halving=auto", "budget_time=0.001s", "tune={lr: [1e-5, 1e-3, 1e-2, 1e-1]}",
        methods=["lora"],
    )  # fmt: skip
    [row] = compare(tuned, tmp_path / "both").rows
    assert (row.status, row.error.message) == ("failed", "no memory")


@pytest.mark.slow
def test_a_comparison_in_much_time(make_recipe: Make, tmp_path: Path) -> None:
    told = Told()
    much = compare(with_auto(make_recipe, "budget_time=10h"), tmp_path / "much", observer=told)
    assert much.halving.decisions == []
    assert sum(row.name.startswith("lora") for row in much.rows) == 4
    assert any("Nobody has to be stopped to end within 10 h" in text for text in told.said)


def test_killed_and_gone_on_with_it_decides_alike(make_recipe: Make, tmp_path: Path) -> None:
    whole = compare(with_auto(make_recipe), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        compare(with_auto(make_recipe), tmp_path / "parts", observer=StopAfter(7))
    parts = compare(with_auto(make_recipe), tmp_path / "parts")
    assert comparable(parts) == comparable(whole)
    assert parts.halving == whole.halving
    assert [len(decision.stopped) for decision in whole.halving.decisions] == [2]
    assert whole.halving.rungs == "auto"
    assert sorted(trained(tmp_path / "whole").values()) == [8, 8, 24, 24]
