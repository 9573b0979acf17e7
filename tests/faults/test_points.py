"""Killed, stopped, or without room at every change of a file: the same command then ends as if nothing was.

The short run takes some of the changes, the slow one all of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.faults.points import Commands, Outcome, What
from tests.tiny_recipe import WORDS

MEASURED = {
    "created", "started", "finished", "seconds", "train_seconds", "evaluation_seconds", "tokens_per_second",
    "peak_memory_bytes", "step_memory_bytes", "memory", "id", "checksum", "result.json", "metrics.jsonl",
    "energy_joules", "leaderboard.json", "choosing.json", "steps_planned", "timeline",
    "starting", "validating",
}  # fmt: skip
"""What two runs of the same thing may differ in: times, and checksums of files that hold times."""
FURTHER = (0, 4, 1, 8)
"""How many of the commands that go on are killed too, case by case."""
SKIPPED = {"search.db", "report.html", "report.md", "report.csv", "error.txt"}
"""Compared by name alone."""
CHANGES: dict[str, dict[str, Any]] = {
    "train": {"methods": ["lora"]},
    "compare": {"methods": ["untuned", "lora", {"prompt": {"n_tokens": 2}}]},
    "search": {
        "methods": ["lora"],
        "search": {"trials": 2, "space": {"train.lr": {"from": 0.001, "to": 0.1, "scale": "log"}}},
    },
    "halving": {"methods": ["lora"], "tune": {"lr": [0.001, 0.01]}, "halving": {"factor": 2}},
}


@dataclass(frozen=True)
class Scenario:
    """A command that can be given again and again until it is through."""

    name: str
    commands: Commands
    arguments: list[object]
    replaces: Path | None = None
    """What is in the place of its folder at first."""

    def command(self, out: Path) -> list[object]:
        return [*self.arguments, "--out", out, "--json"]

    def __call__(self, out: Path, what: What | None = None) -> Outcome:
        if self.replaces and not out.exists() and what is not None:
            shutil.copytree(self.replaces, out)
        return self.commands(out.parent, *self.command(out), what=what)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Commands(tmp_path_factory.mktemp("commands")) as started:
        yield started


@pytest.fixture(scope="module")
def scenarios(
    commands: Commands, t5_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Scenario]:
    folder = tmp_path_factory.mktemp("scenarios")
    lines = [{"id": str(i), "text": f"{i} of the {WORDS[i % 8]}", "title": WORDS[i % 8]} for i in range(24)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    found = {}
    for name, sections in CHANGES.items():
        content = {
            "task": "text-to-text",
            "model": str(t5_folder),
            "data": {
                "source": str(folder / "rows.jsonl"),
                "columns": {"input": "text", "target": "title", "id": "id"},
                "split": {"validation": 0.2, "test": 0.2},
                "max_target_tokens": 8,
            },
            "train": {
                "epochs": 2, "batch_size": 8, "lr": 0.01, "checkpoint_every": 1, "evaluate_every": 2,
                "cache_trunk": False,
            },
            "evaluation": {"max_new_tokens": 4, "batch_size": 8},
            **sections,
        }  # fmt: skip
        recipe = folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        command = ["train", recipe, "--resume"] if name == "train" else ["compare", recipe]
        found[name] = Scenario(name, commands, [*command, "--quiet"])
    (folder / "finished").mkdir()
    run, merged = folder / "finished/run", folder / "finished/merged"
    for arguments in (["train", folder / "train.yaml", "--out", run, "-q"], ["merge", run, "--out", merged]):
        done = commands.rehearse(folder, *arguments)
        assert done.code == 0, done.text
    shutil.copytree(run / "adapter", folder / "foreign", ignore=lambda *_: ["deltatune.json"])
    for name, arguments in {
        "merge": ["merge", run, "--overwrite"],
        "foreign": ["merge", folder / "foreign", "--base", t5_folder, "--overwrite"],
    }.items():
        found[name] = Scenario(name, commands, arguments, merged)
    extend = ["train", "--extend", run, "--set", "train.epochs=1", "--resume", "--quiet"]
    found["extend"] = Scenario("extend", commands, extend)
    return found


def comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items() if key not in MEASURED}
    return [comparable(item) for item in value] if isinstance(value, list) else value


def content(out: Path) -> dict[str, Any]:
    """All files, as far as two runs of the same thing must have the same; hidden ones are leftovers."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.parent.rglob("*") if path.is_file()):
        name, text = str(path.relative_to(out.parent)), path.read_bytes()
        if path.name in SKIPPED:
            text = b""
        elif path.suffix in (".json", ".jsonl"):
            values = [text] if path.suffix == ".json" else text.splitlines()
            text = json.dumps([comparable(json.loads(line)) for line in values]).encode()
        found[name] = text.replace(str(out.parent).encode(), b"")
    return found


@dataclass
class Tally:
    """What came of it, in cases; written to `log` after each."""

    of: str
    log: Path
    tried: int = 0
    happened: int = 0
    """Commands that ended by it; one that goes on may end by it too."""
    crashed: list[str] = field(default_factory=list)
    """A traceback, a defect, or an exit code that is not the one of what happened."""
    silent: list[str] = field(default_factory=list)
    """Ended with 0, and is not whole."""
    wrong: list[str] = field(default_factory=list)
    """Given again, it fails or leaves other contents."""
    leftovers: list[str] = field(default_factory=list)
    """Given again, it leaves other files."""

    def write(self) -> None:
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(self) | {"log": time.strftime("%H:%M:%S")}) + "\n")

    @property
    def bad(self) -> list[str]:
        return [*self.crashed, *self.silent, *self.wrong, *self.leftovers]


def sweep(scenario: Scenario, folder: Path, kinds: list[What], most: int | None) -> Tally:
    """Let it happen at (some of) the changes, then give the command again.

    Commands that go on are killed too, each at one of its first 40 changes; FURTHER says how many. The
    counts so far are written to the file named by FAULTS_LOG, if it is set. FAULTS_PART=2/3 takes the second
    of each three changes.
    """
    tally = Tally(scenario.name, Path(os.environ.get("FAULTS_LOG", folder / "tally.jsonl")))
    reference = folder / "reference/out"
    reference.parent.mkdir()
    if most is None:
        assert scenario.commands.rehearse(folder, *scenario.command(folder / "rehearsed")).code == 0
    whole = scenario(reference, What())
    assert whole.code == 0, whole.text
    wanted = content(reference)
    part, parts = map(int, os.environ.get("FAULTS_PART", "1/1").split("/"))
    points = range(part, whole.changes + 1, parts)
    if most is not None:
        points = points[:: max(1, len(points) // most)]
    for number, point in enumerate(points):
        what = kinds[number % len(kinds)]
        out = folder / f"{scenario.name}-{point}/out"
        out.parent.mkdir()
        where = f"{scenario.name}, change {point} of {whole.changes}, {what}"
        further = number % 2 if most is not None else FURTHER[number % len(FURTHER)]
        this = replace(what, at=point, after=what.after * (point * 7 % 23))
        _one_case(scenario, out, this, wanted, tally, where=where, further=further)
        tally.tried += 1
        tally.write()
        shutil.rmtree(out.parent)
    return tally


def _one_case(
    scenario: Scenario,
    out: Path,
    what: What,
    wanted: dict[str, Any],
    tally: Tally,
    *,
    where: str,
    further: int,
) -> None:
    ended = scenario(out, what)
    tally.happened += ended.code != 0
    allowed = {2} if what.full else {-signal.SIGKILL, -signal.SIGALRM, 128 + what.signum}
    unclear = "defect" in ended.text or "Traceback" in ended.text
    if ended.code not in {0, *allowed} or unclear:
        tally.crashed.append(f"{where}: {ended.code}\n{ended.text}")
    if ended.code == 0 and (left := content(out)) != wanted:
        changed = [name for name in {*left, *wanted} if left.get(name) != wanted.get(name)]
        tally.silent.append(f"{where}: {changed}")
    chance = random.Random(what.at)
    for _ in range(further):
        tally.happened += scenario(out, What(chance.randint(1, 40))).code != 0
    ended = scenario(out)
    if ended.code != 0:
        tally.wrong.append(f"{where}, then again: {ended.code}\n{ended.text}")
        return
    left = content(out)
    if left.keys() != wanted.keys():
        tally.leftovers.append(f"{where}: {sorted(left.keys() ^ wanted.keys())}")
    elif changed := [name for name in left if left[name] != wanted[name]]:
        tally.wrong.append(f"{where}: {changed}")


KILLED = What(1)
LATER = What(1, signal.SIGALRM, after=0.001)
FULL = What(1, full=True)
TERM, HUP, INT = (What(1, signum) for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT))


@pytest.mark.parametrize(("name", "most"), [("train", 3), ("merge", 3)])
def test_some_changes(scenarios: dict[str, Scenario], tmp_path: Path, name: str, most: int) -> None:
    tally = sweep(scenarios[name], tmp_path, [KILLED, FULL, TERM], most)
    assert tally.bad == []
    assert tally.happened >= most // 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["train", "extend", "merge", "foreign", "compare", "search", "halving"])
@pytest.mark.parametrize(
    "kinds", [[KILLED, LATER], [FULL], [TERM, HUP, INT]], ids=["killed", "full", "stopped"]
)
def test_all_changes(
    scenarios: dict[str, Scenario], tmp_path: Path, name: str, kinds: list[What], capsys: Any
) -> None:
    tally = sweep(scenarios[name], tmp_path, kinds, None)
    with capsys.disabled():
        print(f"\n{name}, {kinds[0]}: {tally.tried} tried, {tally.happened} happened, {len(tally.bad)} bad")
    assert tally.bad == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["train", "compare"])
def test_two_workers_in_one_folder(
    scenarios: dict[str, Scenario], tmp_path: Path, name: str, capsys: Any
) -> None:
    """Both are killed again and again; one of them works at a time, and what comes of it is whole."""
    scenario, out, ended = scenarios[name], tmp_path / "both/out", []
    for place in (tmp_path / "reference/out", out):
        place.parent.mkdir()
    assert scenario(tmp_path / "reference/out").code == 0
    (tmp_path / "other").mkdir()

    def work(mine: Scenario, chance: random.Random) -> None:
        ended.extend(mine(out, What(chance.randint(1, 60))) for _ in range(20))

    with Commands(tmp_path / "other") as commands:
        pair = [scenario, replace(scenario, commands=commands)]
        threads = [Thread(target=work, args=(s, random.Random(n))) for n, s in enumerate(pair)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    codes = Counter(outcome.code for outcome in ended)
    with capsys.disabled():
        print(f"\n{name}, two workers: {dict(codes)}")
    assert codes.keys() <= {0, 2, -signal.SIGKILL}
    assert all("at work in" in outcome.text for outcome in ended if outcome.code == 2)
    assert scenario(out).code == 0
    assert content(out) == content(tmp_path / "reference/out")


@pytest.mark.parametrize("limit", [pytest.param(1_500, marks=pytest.mark.slow), 20_000])
def test_a_limit_of_file_size_is_said_and_lifted(
    scenarios: dict[str, Scenario], tmp_path: Path, limit: int
) -> None:
    """As a full disk is, by the system itself: also what libraries write meets it."""
    scenario, out = scenarios["compare"], tmp_path / "parts/out"
    out.parent.mkdir()
    ended = scenario(out, What(file_limit=limit))
    assert ended.code == 2, ended.text
    assert "cannot write" in ended.text
    assert "run the same command again" in ended.text
    assert "Traceback" not in ended.text
    assert not list(out.rglob("error.txt"))
    assert scenario(out).code == 0
    board = json.loads((out / "leaderboard.json").read_text())
    assert [row["status"] for row in board["rows"]] == ["done"] * 3
    assert not [path for path in out.rglob(".*") if path.name != ".gitignore"]
