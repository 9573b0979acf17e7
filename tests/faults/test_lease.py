"""A lease keeps a folder where a file system has no locks: one process has it, or when it died the next."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune import files
from deltatune.checkpoint import lease, lease_files, lock
from deltatune.checkpoint.lock import NAME, Lock
from deltatune.comparison.runner import compare
from deltatune.errors import DeltatuneError, InUseError, LostError
from deltatune.recipe import Recipe
from deltatune.watch.holders import holder

Make = Callable[..., Recipe]
HOLD = """
import sys
from pathlib import Path
from deltatune.checkpoint.lock import Lock
from deltatune.files import write_text
folder = Path(sys.argv[1])
held = Lock(folder, print)
print("held", flush=True)
sys.stdin.readline()
try:
    write_text(folder / "result", "mine")
except Exception as error:
    print(type(error).__name__, flush=True)
"""
RACE = """
import sys, threading
from pathlib import Path
from deltatune.checkpoint.lock import Lock
from deltatune.errors import InUseError
won = []
def take(folder):
    try:
        won.append((Lock(folder, print), folder.name))
    except InUseError:
        pass
folders = sorted(Path(sys.argv[1]).iterdir())
print("ready", flush=True)
sys.stdin.readline()
rounds = [threading.Thread(target=take, args=(folder,)) for folder in folders]
[each.start() for each in rounds]
[each.join() for each in rounds]
print(*(name for _, name in won), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def leased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lock.SETTING, "lease")


def begin(script: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() in ("held\n", "ready\n")
    return process


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def left_by_the_dead(folder: Path, *, age: float = 60, seconds: float = lease_files.LEAST) -> Path:
    """What a killed process leaves."""
    path = folder / f"{NAME}~7"
    holder = lease_files.Holder("elsewhere", 77, seconds, "ab" * 8, joins=False)
    path.write_text(json.dumps(vars(holder)))
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_a_lease_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(descriptor: int, *, shared: bool = False) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock, "_flock", refuse)
    warned: list[str] = []
    with (
        Lock(tmp_path, warned.append),
        pytest.raises(InUseError, match=rf"process \({os.getpid()} on .*free 60"),
    ):
        Lock(tmp_path, warned.append)
    with Lock(tmp_path, warned.append):
        assert not warned
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}~4"]  # free


@pytest.mark.usefixtures("leased")
def test_those_that_join_share_and_the_last_one_frees(tmp_path: Path) -> None:
    first = Lock(tmp_path, print, join=True)
    assert not first.shared
    with pytest.raises(InUseError):
        Lock(tmp_path, print)
    joined: list[Lock] = []
    other = threading.Thread(target=lambda: joined.append(Lock(tmp_path, print, join=True)))
    other.start()
    time.sleep(0.05)
    assert not joined  # until the first has put the folder in order
    first.share()
    other.join(10)
    assert joined[0].shared
    first.release()
    with pytest.raises(InUseError):
        Lock(tmp_path, print)
    joined[0].release()
    with Lock(tmp_path, print), pytest.raises(InUseError):
        Lock(tmp_path, print, join=True)


@pytest.mark.usefixtures("leased")
def test_who_has_a_lease_is_seen_by_those_who_watch(tmp_path: Path) -> None:
    mine = (socket.gethostname(), os.getpid())
    assert holder(tmp_path, tmp_path) is None
    kept = Lock(tmp_path, print, join=True)
    assert holder(tmp_path, tmp_path) == mine
    kept.share()
    assert holder(tmp_path, tmp_path) == mine
    kept.release()
    assert holder(tmp_path, tmp_path) is None
    (tmp_path / f"{NAME}~9").write_text("nothing of ours")
    assert holder(tmp_path, tmp_path) is None


def test_locks_and_leases_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lock.SETTING, "lease")
    kept = Lock(tmp_path, print)
    monkeypatch.delenv(lock.SETTING)
    with pytest.raises(DeltatuneError, match=r"kept by leases.*DELTATUNE_LOCKS=lease"):
        Lock(tmp_path, print)
    kept.release()
    with Lock(tmp_path, print):
        monkeypatch.setenv(lock.SETTING, "lease")
        with pytest.raises(DeltatuneError, match=rf"\({os.getpid()} on .*that keeps no leases"):
            Lock(tmp_path, print)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (lock.SETTING, "flok"),
        (lease_files.SETTING, "soon"),
        (lease_files.SETTING, "nan"),
        (lease_files.SETTING, "0"),
    ],
)
@pytest.mark.usefixtures("leased")
def test_a_setting_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(DeltatuneError, match=name):
        Lock(tmp_path, print)


@pytest.mark.usefixtures("leased")
@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": 1, "host": "a"}', "x" * 2000])
def test_a_file_of_somebody_elses_is_no_lease(tmp_path: Path, content: str) -> None:
    (tmp_path / f"{NAME}~1").write_text(content)
    with pytest.raises(DeltatuneError, match="no lease that deltatune wrote"):
        Lock(tmp_path, print)
    assert (tmp_path / f"{NAME}~1").read_text() == content


@pytest.mark.usefixtures("leased")
def test_of_two_processes_one_takes_over_each_time(tmp_path: Path) -> None:
    rounds = [tmp_path / f"{number:02}" for number in range(40)]
    for folder in rounds:
        folder.mkdir()
        left_by_the_dead(folder)
    racers = [begin(RACE, tmp_path) for _ in range(2)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [racer.stdout.readline().split() for racer in racers if racer.stdout]
    for racer in racers:
        racer.kill()
        racer.wait()
    assert sorted(won[0] + won[1]) == [folder.name for folder in rounds]


@pytest.mark.usefixtures("leased")
def test_a_stopped_process_loses_its_lease_and_notices_before_it_writes(tmp_path: Path) -> None:
    process = begin(HOLD, tmp_path, **{lease_files.SETTING: "0.4"})
    try:
        time.sleep(0.6)
        with pytest.raises(InUseError, match=f"{process.pid} on"):  # it touches its lease
            Lock(tmp_path, print)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        with Lock(tmp_path, print):
            files.write_text(tmp_path / "result", "taken over")
            process.send_signal(signal.SIGCONT)
            assert told(process) == "LostError"
        assert (tmp_path / "result").read_text() == "taken over"
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("leased")
def test_a_process_that_was_away_goes_on_if_nobody_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(lease_files.SETTING, "100")
    held = Lock(tmp_path, print)
    was = tmp_path / f"{NAME}~1"
    os.utime(was, (time.time() - 60,) * 2)  # more than half of its seconds ago
    monkeypatch.setattr(lease, "_clocks", lambda: (1e9, 1e9))
    files.write_text(tmp_path / "result", "mine")
    assert not was.exists()
    assert (tmp_path / f"{NAME}~2").exists()
    left_by_the_dead(tmp_path)
    monkeypatch.setattr(lease, "_clocks", lambda: (2e9, 2e9))
    os.utime(tmp_path / f"{NAME}~2", (time.time() - 60,) * 2)
    for _ in range(2):
        with pytest.raises(LostError, match="has taken the folder over"):
            files.write_text(tmp_path / "result", "mine again")
    held.release()
    assert (tmp_path / "result").read_text() == "mine"
    assert (tmp_path / f"{NAME}~7").exists()


@pytest.mark.usefixtures("leased")
@pytest.mark.parametrize("away", [-86_400, 86_400])
def test_no_clock_of_a_machine_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: float) -> None:
    """Of a machine whose clock is a day off; and where files have times of machines, as some systems have."""
    held = Lock(tmp_path, print)
    monkeypatch.setattr(time, "time", lambda: time.time_ns() / 1e9 + away)
    with pytest.raises(InUseError):
        Lock(tmp_path, print)
    held.release()
    path, ended = left_by_the_dead(tmp_path, age=-away), threading.Event()

    def touch() -> None:
        while not ended.wait(0.02):
            now = time.time_ns() / 1e9 + away
            os.utime(path, (now, now))

    toucher = threading.Thread(target=touch)
    toucher.start()
    with pytest.raises(InUseError, match="77 on elsewhere"):
        Lock(tmp_path, print)
    ended.set()
    toucher.join()
    with Lock(tmp_path, print):
        assert not path.exists()


@pytest.mark.usefixtures("leased")
def test_a_comparison_that_lost_its_folder_stops_and_blames_no_method(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = make_recipe("train.max_steps=1", methods=["untuned"]), tmp_path / "out"
    compare(recipe, out)
    (out / "runs/untuned-s0/result.json").unlink()
    real = lease._File.require_held

    def require_held(file: lease._File) -> None:
        if file.path.parent.name == "untuned-s0" and (file.path.parent / "predictions.jsonl").exists():
            file.lose()
        real(file)

    monkeypatch.setattr(lease._File, "require_held", require_held)
    with pytest.raises(LostError, match="untuned-s0"):
        compare(recipe, out)
    assert not (out / "runs/untuned-s0/result.json").exists()
