"""Files of an interrupted run or comparison, damaged: one message says so, nothing is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.comparison.runner import compare
from deltatune.errors import DeltatuneError
from deltatune.recipe import Recipe
from deltatune.training import run
from tests.train.test_run import StopAfter

Make = Callable[..., Recipe]


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def flip_first(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def gone(path: Path) -> None:
    path.unlink()


DAMAGES = [truncate, flip, flip_first, empty, folder]


def contents(out: Path) -> dict[str, bytes]:
    """All that is in the folder but the lock, which every command takes."""
    return {
        str(path.relative_to(out)): path.read_bytes() if path.is_file() else b""
        for path in out.rglob("*")
        if "lock" not in path.name
    }


@pytest.mark.parametrize("name", ["resume/state.safetensors", "resume/state.json", "manifest.json"])
def test_a_run(name: str, make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=5")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=StopAfter(3))
    for damage in DAMAGES:
        out = tmp_path / damage.__name__
        shutil.copytree(tmp_path / "run", out)
        damage(out / name)
        before = contents(out)
        with pytest.raises(DeltatuneError) as caught:
            run(recipe, recipe.methods[0], 0, out, resume=True)
        assert Path(name).name in str(caught.value) or "resume" in str(caught.value), damage.__name__
        assert "\n" not in caught.value.what
        assert contents(out) == before, damage.__name__


@pytest.mark.parametrize("name", ["choosing.json", "search.db", "manifest.json"])
def test_a_comparison(name: str, make_recipe: Make, tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "methods": ["lora"],
        "search": {"trials": 2, "space": {"train.lr": {"from": 0.001, "to": 0.1, "scale": "log"}}},
    }
    if name == "choosing.json":
        sections = {"methods": ["lora"], "tune": {"lr": [0.001, 0.01]}}
    recipe = make_recipe("train.max_steps=4", **sections)
    with pytest.raises(KeyboardInterrupt):
        compare(recipe, tmp_path / "out", observer=StopAfter(6))
    # SQLite has no checksums: a byte within a value is not noticed.
    for damage in [gone, *DAMAGES] if name == "search.db" else DAMAGES:
        if name == "search.db" and damage is flip:
            continue
        out = tmp_path / damage.__name__
        shutil.copytree(tmp_path / "out", out)
        damage(out / name)
        before = contents(out)
        with pytest.raises(DeltatuneError) as caught:
            compare(recipe, out)
        assert name in str(caught.value), damage.__name__
        assert contents(out) == before, damage.__name__
