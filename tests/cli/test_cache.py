"""`cache`: only what we made is listed, and removed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two models, a leftover, and files of the user's."""
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))
    models = tmp_path / "cache" / "models"
    for name in ("minilm-1", "t5-small-1", ".t5-small-1.abc_0123", ".minilm-1.now_0123", "mine"):
        (models / name).mkdir(parents=True)
        (models / name / "model.safetensors").write_bytes(b"0" * 1500)
        if name[0] != "." and name != "mine":
            (models / name / "source.json").write_text("{}")
    os.utime(models / ".t5-small-1.abc_0123", (0, 0))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "source.json").write_text("{}")
    (models / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "cache" / "notes.txt").write_text("mine")
    (models / ".git").mkdir()  # older than any leftover of ours may be
    os.utime(models / ".git", (0, 0))
    rows = tmp_path / "cache" / "rows"
    rows.mkdir()
    (rows / "train.jsonl").write_text("mine")
    (rows / ("0" * 32 + ".jsonl")).symlink_to(rows / "train.jsonl")
    (rows / ("1" * 32 + ".jsonl")).symlink_to(rows / "nothing")
    return models


def test_it_is_listed_with_sizes(folder: Path, run: Callable) -> None:
    done = run("cache")
    assert done.code == 0, done.err
    assert str(folder.parent) in done.out
    assert "1.50 kB" in done.out
    found = json.loads(run("cache", "--json").out)
    assert [entry["name"] for entry in found["entries"]] == [".t5-small-1.abc_0123", "minilm-1", "t5-small-1"]
    assert found["bytes"] == sum(entry["bytes"] for entry in found["entries"])


def test_clear_removes_what_is_ours_and_nothing_else(folder: Path, run: Callable) -> None:
    assert run("cache", "clear", "minilm-1").code == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        ".git", ".minilm-1.now_0123", ".t5-small-1.abc_0123", "link", "mine", "t5-small-1",
    ]  # fmt: skip
    done = run("cache", "clear")
    assert done.code == 0, done.err
    assert sorted(path.name for path in folder.iterdir()) == [".git", ".minilm-1.now_0123", "link", "mine"]
    assert (folder.parent.parent / "elsewhere" / "source.json").exists()
    assert (folder.parent / "notes.txt").exists()


def test_mistakes(folder: Path, run: Callable) -> None:
    for arguments, words in ((("clear", "t5-smal-1"), "Did you mean 't5-small-1'?"), (("claer",), "clear")):
        done = run("cache", *arguments)
        assert done.code == 2
        assert words in done.err
    assert (folder / "t5-small-1").exists()


def test_what_has_only_the_place_of_ours_is_the_users(folder: Path, run: Callable) -> None:
    """The cache may be a folder of a project, with models/ and rows/ of its own."""
    rows = folder.parent / "rows"
    (rows / ("2" * 32 + ".jsonl")).write_text("{}")
    for name in (".deltatune-tmp.old", ".deltatune-tmp.now"):
        (rows / name).write_text("{")
    os.utime(rows / ".deltatune-tmp.old", (0, 0))
    theirs = {rows / "train.jsonl", rows / ("0" * 32 + ".jsonl"), rows / ("1" * 32 + ".jsonl")}
    done = run("cache", "clear")
    assert done.code == 0, done.err
    assert {path for path in rows.iterdir()} == {*theirs, rows / ".deltatune-tmp.now"}
    assert (rows / "train.jsonl").read_text() == "mine"
    assert (folder / ".git").is_dir()


def test_what_was_measured_of_a_processor_is_listed_and_removed(folder: Path, run: Callable) -> None:
    machines = folder.parent / "machines"
    machines.mkdir()
    for name in ("0123456789abcdef.json", "mine.json"):
        (machines / name).write_text("{}")
    assert "0123456789abcdef.json" in [e["name"] for e in json.loads(run("cache", "--json").out)["entries"]]
    assert run("cache", "clear", "0123456789abcdef.json").code == 0
    assert [path.name for path in machines.iterdir()] == ["mine.json"]


def test_an_empty_cache(tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "none"))
    assert run("cache").code == 0
    assert run("cache", "clear").code == 0
    assert not (tmp_path / "none").exists()
