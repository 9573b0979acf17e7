"""What a watch makes of a folder, whatever is in it, and that it changes nothing there."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.watch.holders import is_gone
from deltatune.watch.page import Pages, live_part
from deltatune.watch.remaining import Remaining
from deltatune.watch.so_far import so_far
from deltatune.watch.standing import Watched

from .under_way import (
    HOSTILE,
    SECONDS,
    hold,
    write_done,
    write_failed,
    write_log,
    write_paused,
    write_recipe,
    write_under_way,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_under_way(tmp_path / "out")


def phases(folder: Path) -> dict[tuple[str, int | None, str], str]:
    return {(run.name, run.seed, run.variant): run.phase for run in Watched(folder).look().runs}


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_each_run_stands_where_its_files_say(folder: Path) -> None:
    assert phases(folder) == {
        ("untuned", 0, ""): "done",
        ("untuned", 1, ""): "waiting",
        ("lora", 0, ""): "training",
        ("lora", 1, ""): "waiting",
        (HOSTILE, 0, ""): "waiting",
        (HOSTILE, 1, ""): "waiting",
    }
    (run,) = Watched(folder).look().of("training")
    assert (run.step, run.steps, run.seconds, run.validation) == (120, 400, 120 * SECONDS, 5 / 100)


def test_what_is_left_follows_from_the_logged_steps(folder: Path) -> None:
    left = Remaining(Watched(folder).look())
    # 280 steps of one run and 400 of three; beside its steps each takes 240 s, as the one that is done did
    assert left.seconds == pytest.approx((280 + 3 * 400) * SECONDS + 5 * 240)
    assert left.share == pytest.approx(120 / 1600)


def test_a_watch_reads_on_where_it_was(folder: Path) -> None:
    watched, path = Watched(folder), folder / "runs" / "lora-s0"
    assert watched.look().of("training")[0].step == 120
    with (path / "metrics.jsonl").open("a") as handle:  # the rest of the line that was half written
        handle.write('ss": 0.5, "epoch": 1.21, "seconds": 60.5}\n')
    assert watched.look().of("training")[0].step == 121
    write_log(path, 400, first=122)
    assert watched.look().of("evaluating")[0].loss == 4 / 400
    (path / "new").write_text("")
    (path / "metrics.jsonl").unlink()
    (path / "new").rename(path / "metrics.jsonl")  # begun anew
    assert watched.look().of("starting")[0].step == 0


def test_a_killed_process_and_an_interrupted_one_are_told(folder: Path) -> None:
    pid = gone()
    hold(folder, pid)
    hold(folder / "runs" / "lora-s0", pid)
    live = live_part(Watched(folder).look(), folder)
    assert phases(folder)["lora", 0, ""] == "interrupted"
    assert live.words == "Not at work: 1 of 6 runs done."
    assert f"Process {pid}" in live.notes[0]
    assert live.command == f"deltatune compare {folder / 'recipe.yaml'} --out {folder}"


def test_a_process_that_nobody_reaped_is_gone(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still in the list
        assert is_gone((socket.gethostname(), process.pid))
    assert not is_gone((socket.gethostname(), os.getpid()))
    assert not is_gone(("elsewhere", 1))


def test_two_processes_share_what_is_left(folder: Path) -> None:
    alone = Remaining(Watched(folder).look()).seconds
    write_log(folder / "runs" / "lora-s1", 120)
    hold(folder / "runs" / "lora-s1", os.getppid())
    both = Remaining(Watched(folder).look()).seconds
    assert both == pytest.approx((alone - 120 * SECONDS) / 2)


def test_halving_shows_what_it_stopped_once_another_has_gone_on(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_recipe(
        folder, tune={"lr": 3}, halving={"factor": 3, "rungs": 1, "finish": 1, "among": "entry"}, seeds=[0]
    )
    hold(folder)
    at = {"1e-4": 3.0, "1e-3": 1.0, "0.01": 2.0}
    reached = {}
    for rate, value in at.items():
        run = folder / "runs" / f"lora--lr-{float(rate):g}-s0"
        write_log(run, 150)
        write_paused(run, "lora", 150, value)
        reached[f"lora lr={float(rate):g}"] = {
            "0.3333": {"step": 150, "steps": 400, "value": value, "seconds": 1.0}
        }
    (folder / "choosing.json").write_text(json.dumps({"reached": reached, "checksum": "x"}))
    variants = {f"lr-{float(rate):g}" for rate in at}
    assert {variant for (name, _, variant), phase in phases(folder).items() if phase == "paused"} == variants
    best = folder / "runs" / "lora--lr-0.001-s0"
    write_log(best, 160)
    hold(best)
    found = phases(folder)
    assert found["lora", 0, "lr-0.001"] == "training"
    assert found["lora", 0, "lr-0.0001"] == found["lora", 0, "lr-0.01"] == "stopped"
    assert Remaining(Watched(folder).look()).at_most
    (best / ".deltatune-lock").unlink()
    found = phases(folder)
    assert found["lora", 0, "lr-0.001"] == "interrupted"
    assert found["lora", 0, "lr-0.01"] == "stopped"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"status": [], "seeds": 3}', "\x00", '{"a": ' * 3000])
def test_a_damaged_file_is_no_error(folder: Path, content: str) -> None:
    names = ("recipe.yaml", "choosing.json", "runs/lora-s0/result.json")
    for name in names:
        (folder / name).write_text(content)
        assert Watched(folder).look().of("training")
    assert "lora" in Pages(Watched(folder)).page().html.decode()


def test_a_recipe_that_stands_for_far_more_says_nothing(folder: Path) -> None:
    laughs = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (folder / "recipe.yaml").write_text(
        "\n".join(["a0: &a0 [ha]", *laughs, "methods: *a11", "seeds: *a11", ""])
    )
    assert [run.phase for run in Watched(folder).look().runs] == ["training", "done"]
    Pages(Watched(folder)).page()


def test_strange_numbers_are_left_out(folder: Path) -> None:
    path = folder / "runs" / "lora-s0" / "metrics.jsonl"
    lines = [
        '{"step": 1e400}',
        '{"step": true}',
        '{"step": 5, "loss": NaN}',
        f'{{"step": 6, "loss": {"9" * 400}}}',
    ]
    path.write_text("\n".join([*lines, '{"step": 7, "epoch": 1e-300, "loss": 1}', ""]))
    (run,) = Watched(folder).look().of("training")
    assert (run.step, run.loss, run.steps) == (7, 1.0, None)


def test_nothing_is_written_and_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    write_done(secret, "SECRET", "lora", 1, 0.9)
    (folder / "runs" / "lora-s1").symlink_to(secret)
    write_log(folder / "runs" / "odd-s0", 3)
    (folder / "runs" / "odd-s0" / "result.json").symlink_to(secret / "result.json")
    (folder / "runs" / "odd-s1").mkdir()
    os.mkfifo(folder / "runs" / "odd-s1" / "result.json")
    (folder / "runs" / "loop-s0").symlink_to("loop-s0")
    before = {path: path.lstat() for path in folder.rglob("*")}
    page = Pages(Watched(folder)).page().html.decode()
    assert "SECRET" not in page
    assert {path: path.lstat() for path in folder.rglob("*")} == before


def test_what_has_gone_or_is_none_is_said(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "later")
    assert live_part(watched.look(), watched.path).words == "Nothing is here yet."
    write_under_way(watched.path)
    assert watched.look().kind == "comparison"
    (watched.path / "runs").rename(tmp_path / "moved")
    assert live_part(watched.look(), watched.path).words == "A process has begun; no run has yet."


def test_a_single_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_recipe(folder, methods=[{"lora": {}, "name": "lora", "train": {"epochs": 4}}], seeds=[0])
    write_log(folder, 100)
    hold(folder)
    standing = Watched(folder).look()
    assert (standing.kind, standing.runs[0].phase, standing.runs[0].steps) == ("run", "training", 400)
    (folder / ".deltatune-lock").unlink()
    assert live_part(Watched(folder).look(), folder).command.endswith("--resume")
    write_done(folder, "lora", "lora", 0, 0.5)
    assert Watched(folder).look().over


def test_it_is_over_when_the_manifest_vouches_whatever_the_times(folder: Path) -> None:
    (folder / "leaderboard.json").write_text("{}")
    for path in (folder, folder / "runs" / "lora-s0"):
        (path / ".deltatune-lock").unlink()
    os.utime(folder / "leaderboard.json", (0, 0))
    (folder / "manifest.json").write_text('{"kind": "comparison", "files": {}}')
    assert not Watched(folder).look().over
    (folder / "manifest.json").write_text('{"kind": "comparison", "files": {"leaderboard.json": "ab"}}')
    assert Watched(folder).look().over
    hold(folder)  # again
    assert not Watched(folder).look().over


def test_what_failed_is_in_the_page_escaped(folder: Path) -> None:
    for seed in (0, 1):
        write_failed(folder / "runs" / f"script-document.title-ran-script-s{seed}", HOSTILE, "ia3", seed)
    page = Pages(Watched(folder)).page().html.decode()
    assert page.count("<script>") == 1
    assert "\u202e" not in page
    assert "What failed" in page
    assert "TargetError" in page


def test_a_report_that_is_too_large_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltatune.watch.page.MOST_BELOW", 100)
    page = Pages(Watched(folder)).page().html.decode()
    assert "It cannot be shown: it would have" in page
    assert "120 of 400" in page


def test_the_page_is_made_anew_only_when_something_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages, made = Pages(Watched(folder)), []
    monkeypatch.setattr(Pages, "_render", lambda self, standing: made.append(standing) or "page")
    for _ in range(3):
        pages.page()
        pages._next = 0.0
    assert len(made) == 1
    write_log(folder / "runs" / "lora-s0", 130)
    pages.page()
    assert len(made) == 2


@pytest.mark.slow
def test_ten_thousand_runs(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_recipe(folder, seeds=[0])
    write_done(folder / "runs" / "many-s0", "many", "lora", 0, 0.5)
    text = (folder / "runs" / "many-s0" / "result.json").read_text()
    for number in range(1, 10_000):
        run = folder / "runs" / f"many-{number}-s0"
        run.mkdir()
        (run / "result.json").write_text(text.replace('"many"', f'"many {number}"'))
    pages = Pages(Watched(folder))
    started = time.process_time()
    page = pages.page()
    first = time.process_time() - started
    pages._next = 0.0
    started = time.process_time()
    assert pages.page() is page
    again = time.process_time() - started
    print(f"first {first:.2f} s, again {again:.2f} s, {len(page.html):,} bytes")
    assert first < 60
    assert again < 1
    assert len(page.html) < 3_000_000
    assert "9,803 more runs are not listed" in page.html.decode()


@pytest.mark.slow
def test_files_may_change_while_they_are_read(folder: Path) -> None:
    """A thread writes, cuts, damages and removes them for three seconds; each look gives a page."""
    draw, ended = random.Random(1), threading.Event()
    run = folder / "runs" / "lora-s0"
    changes: list[Callable[[], object]] = [
        lambda: shutil.rmtree(run, ignore_errors=True),
        lambda: write_log(run, draw.randrange(1, 400)),
        lambda: write_done(run, "lora", "lora", 0, 0.5),
        lambda: (run / "result.json").write_bytes(b'{"status": "done"'),
        lambda: write_failed(run, "lora", "lora", 0),
        lambda: write_recipe(folder, seeds=draw.choice([[0, 1], [0], []])),
        lambda: (folder / "recipe.yaml").write_bytes(draw.randbytes(50)),
        lambda: (folder / "leaderboard.json").write_text(draw.choice(["{}", '{"rows": []'])),
        lambda: (folder / "leaderboard.json").unlink(missing_ok=True),
    ]

    def change() -> None:
        while not ended.wait(0.002):
            with contextlib.suppress(OSError):
                draw.choice(changes)()

    thread = threading.Thread(target=change)
    thread.start()
    pages, until = Pages(Watched(folder)), time.monotonic() + 3
    try:
        while time.monotonic() < until:
            pages._next = 0.0
            assert pages.page().html.startswith(b"<!doctype html>")
    finally:
        ended.set()
        thread.join()


def test_points_of_a_curve_are_runs_and_no_rows(folder: Path) -> None:
    before = Watched(folder).look()
    write_done(folder / "runs/lora--rows-50-s0", "lora rows=50", "lora", 0, 0.2)
    write_log(folder / "runs/lora--rows-50-s1", 7)
    watched = Watched(folder)
    standing = watched.look()
    assert len(standing.runs) == len(before.runs) + 2  # none that is to come counts as there
    assert [run.phase for run in standing.runs if run.of_curve] == ["done", "interrupted"]
    comparison = so_far(standing, watched)
    assert [method.name for method in comparison.methods] == ["untuned", "lora", HOSTILE]
    assert all("--rows-" not in run for method in comparison.methods for run in method.row.runs)
