"""A search: its trials, what it chooses, interruptions, and databases."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from deltatune.comparison import search as module
from deltatune.comparison.runner import compare
from deltatune.errors import RecipeError
from deltatune.observer import Silent
from deltatune.recipe import Recipe, parse_recipe
from deltatune.results import PausedCost, PausedRun, PausedSelection
from tests.compare.test_runner import comparable
from tests.train.test_run import StopAfter

optuna = pytest.importorskip("optuna")
Make = Callable[..., Recipe]
LORA = {"lora": {}, "space": {"r": {"from": 1, "to": 4}, "targets": [["query"], ["query", "value"]]}}
SPACE = {"train.lr": {"from": 1e-5, "to": 1e-1, "scale": "log"}}


@pytest.fixture
def searching(make_recipe: Make) -> Make:
    def make(*overrides: str, trials: int = 4, **sections: Any) -> Recipe:
        search = {"trials": trials, "space": SPACE}
        sections = {"methods": ["untuned", LORA, "prompt"], "search": search} | sections
        return make_recipe("train.evaluate_every=2", "train.lr=null", *overrides, **sections)

    return make


def test_every_method_gets_the_same_number_of_trials(searching: Make, tmp_path: Path) -> None:
    board = compare(searching(), tmp_path / "out")
    rows = {row.name: row for row in board.rows}
    assert rows["untuned"].tuning is None
    for name, fields in (("lora", {"train.lr", "r", "targets"}), ("prompt", {"train.lr"})):
        tuning = rows[name].tuning
        assert [one.status for one in tuning.tried] == ["done"] * 4
        best = min(tuning.tried, key=lambda one: one.value)
        assert tuning.chosen == best.settings
        assert set(best.settings) == fields
        result = json.loads((tmp_path / "out" / rows[name].runs[0] / "result.json").read_text())
        assert result["metrics"]["validation"]["loss"] == best.value
    assert rows["lora"].tuning.chosen["r"] in (1, 2, 3, 4)
    tested = [path.parent.name for path in (tmp_path / "out/runs").glob("*/predictions.jsonl")]
    assert len(tested) == 3
    assert not list((tmp_path / "out/runs").glob("*/resume"))


@pytest.mark.parametrize("pruned", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_interrupted_search_ends_as_an_undisturbed_one(
    searching: Make, tmp_path: Path, pruned: bool
) -> None:
    halving = ["halving={factor: 2, rungs: 2}"] if pruned else []
    recipe = searching(*halving, "train.checkpoint_every=3", trials=5, methods=[LORA])
    whole = compare(recipe, tmp_path / "whole")
    for steps in (3, 6, 8):
        with pytest.raises(KeyboardInterrupt):
            compare(recipe, tmp_path / "parts", observer=StopAfter(steps))
    parts = compare(recipe, tmp_path / "parts")
    assert parts.rows[0].tuning.tried == whole.rows[0].tuning.tried
    assert comparable(parts) == comparable(whole)
    tuning = whole.rows[0].tuning
    stopped = [one for one in tuning.tried if one.status == "stopped"]
    assert bool(stopped) == pruned
    assert (tuning.steps < tuning.steps_planned) == pruned
    assert (whole.halving is not None) == pruned
    if pruned:
        halving = whole.halving
        assert [one.settings for one in halving.stopped] == [one.settings for one in stopped]
        assert (halving.steps_done, halving.steps_planned) == (tuning.steps, tuning.steps_planned)
        assert halving.saved_share > 0


def test_a_trial_that_fails_counts_and_is_told(searching: Make, tmp_path: Path) -> None:
    recipe = searching(methods=["lora"], search={"trials": 3, "space": {"train.lr": [0.01, 3e38]}})
    [row] = compare(recipe, tmp_path / "out").rows
    assert row.tuning.chosen == {"train.lr": 0.01}
    found = {one.settings["train.lr"]: one for one in row.tuning.tried}
    assert "nan" in found[3e38].error if 3e38 in found else found[0.01].status == "done"


def test_a_shared_database_queues_what_was_interrupted(
    searching: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCH_FILE", str(tmp_path / "shared.db"))
    search = {"trials": 3, "space": SPACE, "storage": "sqlite:///$SEARCH_FILE"}
    recipe = searching(methods=["lora"], search=search)
    with pytest.raises(KeyboardInterrupt):
        compare(recipe, tmp_path / "one", observer=StopAfter(10))
    [row] = compare(recipe, tmp_path / "two").rows  # another machine: another folder
    assert len(row.tuning.tried) == 3
    study = optuna.load_study(study_name="lora", storage=f"sqlite:///{tmp_path / 'shared.db'}")
    assert sorted(trial.state.name for trial in study.trials) == ["COMPLETE"] * 3 + ["FAIL"]
    interrupted = next(trial for trial in study.trials if trial.state.name == "FAIL")
    assert sum(trial.params == interrupted.params for trial in study.trials) == 2
    assert "$SEARCH_FILE" in (tmp_path / "two/recipe.yaml").read_text()
    [again] = compare(recipe, tmp_path / "one").rows
    assert again.tuning.chosen == row.tuning.chosen
    assert again.metrics == row.metrics


def test_a_machine_that_fell_silent_is_replaced(
    searching: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltatune.comparison.study.HEARTBEAT", 1)
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    recipe = searching(methods=["lora"], search={"trials": 2, "space": SPACE, "storage": url})
    study = optuna.create_study(study_name="lora", storage=url, direction="minimize")
    lost = study.ask()
    lost.suggest_float("train.lr", 1e-5, 1e-1, log=True)
    import datetime

    from sqlalchemy import create_engine, text

    with create_engine(url).begin() as connection:  # its last sign of life is an hour old
        connection.execute(
            text("insert into trial_heartbeats (trial_id, heartbeat) values (:trial, :time)"),
            {"trial": lost._trial_id, "time": datetime.datetime.now() - datetime.timedelta(hours=1)},
        )
    [row] = compare(recipe, tmp_path / "out").rows
    trials = optuna.load_study(study_name="lora", storage=url).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[0].params == trials[1].params
    assert len(row.tuning.tried) == 2


@dataclass
class Machine:
    """A machine at a shared search, whose trials take no training."""

    ran: list[float] = field(default_factory=list)
    pick: Any = None

    def work(self, recipe: Recipe, out: Path) -> None:
        context = SimpleNamespace(recipe=recipe, observer=Silent(), warn=lambda _: None)
        team = SimpleNamespace(out=out)
        self.pick = module.search(context, team, recipe.methods[0], SPACE)  # type: ignore[arg-type]


def test_two_machines_share_the_trials_and_choose_alike(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines, both = {name: Machine() for name in ("one", "two")}, threading.Barrier(2, timeout=60)

    def attempt(  # noqa: PLR0917
        context: Any, team: Any, entry: Any, seed: int, folder: Path, pause: Any
    ) -> PausedRun:
        name, rate = threading.current_thread().name, entry.train.lr
        machines[name].ran.append(rate)
        if len(machines[name].ran) == 1:
            both.wait()  # a thread that is late would find nothing left
        time.sleep(0.05 if name == "one" else 0.12)
        cost = PausedCost(steps=8, planned_steps=8, train_seconds=0.1, peak_memory_bytes=0)
        selected = PausedSelection(by="loss", value=abs(math.log10(rate) + 3))
        return PausedRun(status="paused", cost=cost, selected=selected)

    monkeypatch.setattr(module, "attempt", attempt)
    monkeypatch.setattr(module, "POLL", 0.05)
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    recipe = make_recipe(methods=["lora"], search={"trials": 9, "space": SPACE, "storage": url})
    threads = [
        threading.Thread(target=machine.work, args=(recipe, tmp_path / name), name=name)
        for name, machine in machines.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    one, two = machines.values()
    assert one.ran
    assert two.ran
    assert len({*one.ran, *two.ran}) == len(one.ran) + len(two.ran) == 9  # none twice, and no more than asked
    assert one.pick.tuning.chosen == two.pick.tuning.chosen
    assert len(one.pick.tuning.tried) == len(two.pick.tuning.tried) == 9


WORKER = """
import sys
from pathlib import Path
import yaml
from deltatune.comparison import runner, search, study
from deltatune.recipe import parse_recipe

study.HEARTBEAT = 1
study.POLL = search.POLL = 0.5
runner.compare(parse_recipe(yaml.safe_load(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_machine_that_is_killed_leaves_its_trial_to_another(searching: Make, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    search = {"trials": 5, "space": SPACE, "storage": url}
    recipe = searching("train.epochs=10", methods=["lora"], search=search)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.dump()), encoding="utf-8")

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WORKER, str(path), str(tmp_path / name)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    one, two = start("one"), start("two")
    until = time.monotonic() + 300
    while not list((tmp_path / "one/runs").glob("*/metrics.jsonl")) and time.monotonic() < until:
        time.sleep(0.05)
    one.send_signal(signal.SIGKILL)
    assert one.wait(30) == -signal.SIGKILL
    assert two.wait(900) == 0
    trials = optuna.load_study(study_name="lora", storage=url).trials
    assert sorted(trial.state.name for trial in trials) == ["COMPLETE"] * 5 + ["FAIL"]
    lost = next(trial for trial in trials if trial.state.name == "FAIL")
    assert [trial.state.name for trial in trials if trial.params == lost.params] == ["FAIL", "COMPLETE"]
    assert len({str(trial.params) for trial in trials}) == 5


def test_without_optuna_it_says_what_to_install(
    searching: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError, match=r"deltatune\[search\]"):
        compare(searching(), tmp_path / "out")


def test_a_database_that_cannot_be_used_is_named(searching: Make, tmp_path: Path) -> None:
    search = {"trials": 3, "space": SPACE, "storage": "nosuch://host/db"}
    with pytest.raises(RecipeError, match=r"search\.storage"):
        compare(searching(search=search), tmp_path / "out")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("methods.1.space.r=[0, 2]", ["methods.1.space.r", "0 must be greater"]),
        ("methods.1.space.rr=[1]", ["methods.1.space.rr", "'r'"]),
        ("methods.1.space.r=8", ["methods.1.space", "r: 8 must be a list"]),
        ("methods.1.space.r={from: 4, to: 2}", ["methods.1.space", "empty"]),
        ("search.space.r=[1]", ["search.space.r", "entry under methods"]),
        ("search.space={train.lr: [fast]}", ["search.space.train.lr", "'fast'"]),
        ("search.trials=0", ["search.trials", "greater"]),
        ("search=null", ["methods.1.space", "search: {trials: 40}"]),
        ("tune={lr: 3}", ["tune", "search train.lr"]),
        ("budget=1000", ["methods.1.space.r", "budget"]),
        ("methods=[lora]", ["search", "nothing to search"]),
        ("methods.1.grid={alpha: [1, 2]}", ["methods.1.space", "grid"]),
    ],
)
def test_mistakes_are_named_where_they_were_written(searching: Make, override: str, parts: list[str]) -> None:
    sections: dict[str, Any] = {"search": {"trials": 3}} if override == "methods=[lora]" else {}
    with pytest.raises(RecipeError) as caught:
        searching(override, **sections)
    for part in parts:
        assert part in str(caught.value)


def test_a_recipe_with_a_search_is_the_same_when_written_and_read(searching: Make) -> None:
    recipe = searching()
    assert parse_recipe(recipe.dump()) == recipe
