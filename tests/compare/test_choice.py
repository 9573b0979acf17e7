"""Tuning and halving: what is tried, chosen and stopped; tests stay unseen; interruptions change nothing."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deltatune.checkpoint.manifest import mark
from deltatune.comparison.runner import compare
from deltatune.errors import RecipeError
from deltatune.methods.untuned import UntunedConfig
from deltatune.recipe import Recipe, parse_recipe
from deltatune.recipe.choosing import HalvingSpec, TuneSpec
from deltatune.recipe.rates import Course
from deltatune.recipe.train_section import TrainSpec
from deltatune.results import Leaderboard
from tests.compare.test_runner import comparable
from tests.train.test_run import StopAfter, lines, without_times

Make = Callable[..., Recipe]
GRID = {"lora": {}, "grid": {"r": [2, 4], "train.lr": [1e-5, 1e-2]}}


def tried(board: Leaderboard, name: str) -> dict[float, Any]:
    row = next(row for row in board.rows if row.name == name)
    return {one.settings["train.lr"]: one for one in row.tuning.tried}


@pytest.fixture
def fast(make_recipe: Make) -> Make:
    """Validation twice an epoch, so that halving has places to decide at."""
    return lambda *overrides, **sections: make_recipe("train.evaluate_every=2", *overrides, **sections)


def test_rates_surround_an_entrys_own() -> None:
    def rates(spec: TuneSpec) -> list[float]:
        return [
            point["train.lr"]
            for point in spec.points(TrainSpec(lr=1e-3), UntunedConfig(), Course(1, "text", 64))
        ]

    assert rates(TuneSpec(lr=3)) == [3.33e-4, 1e-3, 3e-3]
    assert rates(TuneSpec(lr=4, factor=10.0)) == [1e-5, 1e-4, 1e-3, 1e-2]
    assert rates(TuneSpec(lr=[0.2, 0.1])) == [0.1, 0.2]
    assert HalvingSpec(factor=3, rungs=2).shares(2, 500) == pytest.approx([1 / 9, 1 / 3])


def test_the_best_rate_on_validation_is_trained_with_all_seeds(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(
        "tune={lr: [1e-6, 0.01]}", "seeds=[3,4]", "train.lr=null", methods=["untuned", "lora", "prompt"]
    )
    board = compare(recipe, tmp_path / "out")
    assert {row.name: row.status for row in board.rows} == {n: "done" for n in ("untuned", "lora", "prompt")}
    for name in ("lora", "prompt"):
        row = next(row for row in board.rows if row.name == name)
        values = {lr: one.value for lr, one in tried(board, name).items()}
        assert row.tuning.chosen["train.lr"] == min(values, key=values.__getitem__)
        assert len(values) == 2
        assert row.tuning.seed == 3
        assert row.tuning.steps == 16
        assert row.runs == [f"runs/{name}--lr-{row.tuning.chosen['train.lr']:g}-s{seed}" for seed in (3, 4)]
    assert next(row for row in board.rows if row.name == "untuned").tuning is None


def test_a_rate_that_is_not_chosen_never_sees_a_test_row(make_recipe: Make, tmp_path: Path) -> None:
    board = compare(make_recipe("tune={lr: 3}"), tmp_path / "out")
    chosen = board.rows[0].runs[0]
    for folder in (tmp_path / "out/runs").iterdir():
        tested = (folder / "predictions.jsonl").exists()
        assert tested == (f"runs/{folder.name}" == chosen)
        assert not (folder / "resume").exists()
        assert ("test" in json.loads((folder / "result.json").read_text())["metrics"]) == tested


def test_the_chosen_run_is_the_run_of_that_rate(make_recipe: Make, tmp_path: Path) -> None:
    """Pausing between training and test changes nothing, bit for bit."""
    board = compare(make_recipe("tune={lr: 2}", methods=["lora"]), tmp_path / "tuned")
    lr = board.rows[0].tuning.chosen["train.lr"]
    plain = compare(make_recipe(f"train.lr={lr}", methods=["lora"]), tmp_path / "plain")
    assert board.rows[0].metrics == plain.rows[0].metrics
    folders = [tmp_path / "tuned" / board.rows[0].runs[0], tmp_path / "plain/runs/lora-s0"]
    name = "adapter/adapter_model.safetensors"
    assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_a_rate_that_diverges_is_not_chosen_and_says_so(make_recipe: Make, tmp_path: Path) -> None:
    board = compare(make_recipe("tune={lr: [0.01, 3e38]}", "train.lr=null"), tmp_path / "out")
    found = tried(board, "lora")
    assert board.rows[0].tuning.chosen["train.lr"] == 0.01
    assert found[3e38].status == "failed"
    assert "is nan" in found[3e38].error


def test_if_every_rate_fails_the_row_says_why(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("tune={lr: 2}", methods=["untuned", {"lora": {"targets": ["qurey"]}}])
    row = next(row for row in compare(recipe, tmp_path / "out").rows if row.name == "lora")
    assert row.status == "failed"
    assert "Did you mean 'query'" in row.error.message


def test_halving_stops_those_behind_and_counts_what_it_saved(fast: Make, tmp_path: Path) -> None:
    recipe = fast("halving={factor: 2, rungs: 1}", "train.lr=null", "seeds=[0,1]", methods=["untuned", GRID])
    board = compare(recipe, tmp_path / "out")
    halving = board.halving
    assert {one.name for one in halving.stopped} == {"lora r=2 lr=1e-05", "lora r=4 lr=1e-05"}
    assert {row.name for row in board.rows} == {"untuned", "lora r=2 lr=0.01", "lora r=4 lr=0.01"}
    assert [one.step for one in halving.stopped] == [4, 4]
    assert (halving.steps_planned, halving.steps_done) == (64, 40)
    assert halving.saved_share == pytest.approx(24 / 64)
    assert "would have won" in halving.risk
    logs = [lines(tmp_path / f"out/runs/lora-r-{r}-lr-1e-05-s0/metrics.jsonl") for r in (2, 4)]
    assert [log[-1]["step"] for log in logs] == [4, 4]


def test_a_survivor_ends_as_if_it_had_been_alone(fast: Make, tmp_path: Path) -> None:
    halved = compare(
        fast("halving={factor: 2, rungs: 2}", "train.lr=null", methods=[GRID]), tmp_path / "halved"
    )
    whole = compare(fast("train.lr=null", methods=[GRID]), tmp_path / "whole")
    rows = {row.name: row.metrics for row in whole.rows}
    assert 1 <= len(halved.rows) < len(rows)
    for row in halved.rows:
        assert row.metrics == rows[row.name]
        logs = [lines(tmp_path / part / row.runs[0] / "metrics.jsonl") for part in ("halved", "whole")]
        assert without_times(logs[0]) == without_times(logs[1])


def test_halving_between_rates_of_one_entry(fast: Make, tmp_path: Path) -> None:
    recipe = fast("tune={lr: 4}", "halving={factor: 4, rungs: 1}", methods=["lora", "prompt"])
    board = compare(recipe, tmp_path / "out")
    assert {row.name for row in board.rows} == {"lora", "prompt"}
    for name in ("lora", "prompt"):
        assert sorted(one.status for one in tried(board, name).values()) == ["done", *["stopped"] * 3]


def test_among_all_a_method_may_drop_out(fast: Make, tmp_path: Path) -> None:
    recipe = fast("halving={factor: 2, rungs: 1, among: all}", methods=["untuned", "lora", "prompt"])
    board = compare(recipe, tmp_path / "out")
    [stopped] = board.halving.stopped
    assert {row.name for row in board.rows} | {stopped.name} == {"untuned", "lora", "prompt"}


def test_a_schedule_under_way_is_not_judged(fast: Make, tmp_path: Path) -> None:
    adalora = {"adalora": {"init_r": 4, "target_r": 2, "interval": 1}, "train": {"lr": 1e-9}}
    recipe = fast("halving={factor: 2, rungs: 1, among: all}", methods=[adalora, "lora", "prompt"])
    board = compare(recipe, tmp_path / "out")
    [decision] = board.halving.decisions
    assert decision.not_settled == ["adalora"]
    assert "adalora" in {row.name for row in board.rows}
    assert len(decision.stopped) == 1


@pytest.mark.slow
def test_validations_too_far_apart_give_one_decision(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("halving={factor: 2, rungs: 3}", "train.lr=null", methods=[GRID])
    halving = compare(recipe, tmp_path / "out").halving  # shares 1/8, 1/4, 1/2 of 8 steps; validated at 4
    assert len(halving.decisions) == 1
    assert {one.step for one in halving.stopped} == {4}


@pytest.mark.parametrize(
    "stops", [pytest.param(stops, marks=pytest.mark.slow) for stops in ((3, 9), (5, 5, 8), (1, 16))]
)
def test_an_interrupted_choice_ends_as_an_undisturbed_one(
    fast: Make, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    def recipe() -> Recipe:
        settings = ("tune={lr: 3}", "halving={factor: 2, rungs: 2}", "train.checkpoint_every=3")
        return fast(*settings, methods=[{"lora": {}, "grid": {"r": [2, 4]}}, "prompt"])

    whole = compare(recipe(), tmp_path / "whole")
    for steps in stops:
        with pytest.raises(KeyboardInterrupt):
            compare(recipe(), tmp_path / "parts", observer=StopAfter(steps))
    parts = compare(recipe(), tmp_path / "parts")
    assert comparable(parts) == comparable(whole)
    assert parts.halving == whole.halving
    again = compare(recipe(), tmp_path / "parts")
    assert again.halving == whole.halving


def test_a_run_killed_right_behind_its_pause_is_not_trained_on(fast: Make, tmp_path: Path) -> None:
    """The state is saved before the journal is: losing the journal must not let a candidate go further."""
    recipe = fast("halving={factor: 2, rungs: 1}", "train.lr=null", methods=[GRID])
    with pytest.raises(KeyboardInterrupt):
        compare(recipe, tmp_path / "out", observer=StopAfter(7))
    (tmp_path / "out/choosing.json").unlink()
    board = compare(recipe, tmp_path / "out")
    assert {one.step for one in board.halving.stopped} == {4}
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    ['{"lora lr=0.1": {"1.00', "[1]", '{"lora": 3}', '{"lora": {"1": {"step": 1}}}', '{"lora": {"1": []}}'],
)
def test_a_damaged_journal_is_named(fast: Make, tmp_path: Path, text: str) -> None:
    mark(tmp_path, "comparison")
    (tmp_path / "choosing.json").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"choosing\.json'.*--overwrite"):
        compare(fast("tune={lr: 2}", "train.max_steps=1"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["tune={lr: 1}"], ["tune.lr", "2"]),
        (["tune={lr: [0.1]}"], ["at least two rates"]),
        (["tune={lr: [0.1, 0.1]}"], ["each once"]),
        (["tune={lr: 3}", "data.split.validation=0"], ["tune", "validation rows"]),
        (["tune={lr: 3}", "grid={train.lr: [0.1]}"], ["grid.train.lr", "tune.lr"]),
        (
            ["tune={lr: [0.1, 0.2]}", "methods.0={lora: {}, train: {lr: 0.5}}"],
            ["methods.0.train.lr", "tune.lr"],
        ),
        (["halving={}"], ["halving", "nothing to choose between"]),
        (["halving={factor: 1}", "tune={lr: 3}"], ["halving.factor"]),
    ],
)
def test_what_cannot_be_chosen_is_refused(make_recipe: Make, changes: list[str], parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe(*changes)
    for part in parts:
        assert part in str(caught.value)


def test_a_recipe_with_choices_is_the_same_when_written_and_read(make_recipe: Make) -> None:
    recipe = make_recipe(
        "tune={lr: 3}", "halving={among: all}", methods=[{"lora": {}, "grid": {"r": [2, 4]}}]
    )
    assert parse_recipe(recipe.dump()) == recipe


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twelve_configurations_killed_twice_end_as_undisturbed_ones(
    make_recipe: Make, tmp_path: Path
) -> None:
    """SIGKILL leaves no time to save anything."""
    grid = {"lora": {}, "grid": {"r": [1, 2, 3], "train.lr": [0.001, 0.003, 0.01, 0.03]}}
    recipe = make_recipe(
        "train.checkpoint_every=2", "train.evaluate_every=2", "train.lr=null", methods=[grid]
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.dump()), encoding="utf-8")
    whole = compare(recipe, tmp_path / "whole")
    assert len(whole.rows) == 12
    for runs in (3, 8):
        command = [sys.executable, "-m", "deltatune", "compare", "recipe.yaml", "--out", "parts", "--quiet"]
        child = subprocess.Popen(command, cwd=tmp_path)
        while len(list(tmp_path.glob("parts/runs/*/metrics.jsonl"))) < runs:
            assert child.poll() is None
            time.sleep(0.05)
        child.kill()
        assert child.wait() == -signal.SIGKILL
        assert not (tmp_path / "parts/leaderboard.json").exists()
    assert comparable(compare(recipe, tmp_path / "parts")) == comparable(whole)
