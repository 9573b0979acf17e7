"""A stranger's folder may hold links to any file of this machine: what they lead to is left alone."""

from __future__ import annotations

import importlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.checkpoint.folders import atomic_folder, settle
from deltatune.checkpoint.lock import NAME as LOCK
from deltatune.checkpoint.lock import Lock
from deltatune.checkpoint.manifest import changed_files, vouch
from deltatune.comparison.runner import compare
from deltatune.errors import AdapterError, DeltatuneError, RecipeError
from deltatune.files import atomic_path, meant, sha256, write_text
from deltatune.recipe import Recipe
from deltatune.report import write_report
from deltatune.training import run

Make = Callable[..., Recipe]
merging = importlib.import_module("deltatune.runs.merge")  # a function of the package has its name


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of the user's, with a file in it and in a folder of it."""
    (tmp_path / "home/thesis").mkdir(parents=True)
    (tmp_path / "home/file").write_text("mine\n" * 100)
    (tmp_path / "home/thesis/text").write_text("mine")
    return tmp_path / "home"


def untouched(theirs: Path) -> bool:
    content = {str(path.relative_to(theirs)): path for path in theirs.rglob("*") if path.is_file()}
    whole = content.keys() == {"file", "thesis/text"}
    return whole and (theirs / "file").read_text() == "mine\n" * 100 and not (theirs / "file").is_symlink()


def test_a_run_writes_through_no_link(make_recipe: Make, theirs: Path, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["lora"])
    out = tmp_path / "out"
    run(recipe, recipe.methods[0], 0, out)
    names = ("recipe.yaml", "metrics.jsonl", "predictions.jsonl", "certificate.json", "error.txt")
    (
        out / "result.json"
    ).unlink()  # as a stranger leaves it, to be gone on with; the manifest is in its place
    shutil.rmtree(out / "adapter")
    (out / "adapter").symlink_to(theirs)
    for name in names:
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(theirs / "file")
    run(recipe, recipe.methods[0], 0, out)
    assert untouched(theirs)
    assert not [path for path in out.rglob("*") if path.is_symlink()]
    untuned = make_recipe(methods=["untuned"])
    for name in ("metrics.jsonl", "result.json"):
        (out / name).unlink()
    (out / "metrics.jsonl").symlink_to(theirs / "file")
    run(untuned, untuned.methods[0], 0, out)
    assert untouched(theirs)


def test_a_comparison_writes_through_no_link(make_recipe: Make, theirs: Path, tmp_path: Path) -> None:
    recipe, out = make_recipe("train.max_steps=1", methods=["untuned"]), tmp_path / "out"
    compare(recipe, out)
    for name in ("leaderboard.json", "recipe.yaml", "report.html"):
        (out / name).unlink()
        (out / name).symlink_to(theirs / "file")
    with pytest.raises(RecipeError, match=r"recipe\.yaml' holds no recipe"):
        compare(recipe, out)
    (out / "recipe.yaml").unlink()
    compare(recipe, out)
    assert untouched(theirs)
    (out / "report.html").unlink()
    (out / "report.html").symlink_to(theirs / "file")
    (out / "recipe.yaml").unlink()
    (out / "recipe.yaml").symlink_to(theirs / "file")
    write_report(out)
    assert untouched(theirs)
    assert "mine" not in (out / "report.html").read_text()  # which may be passed on


@pytest.mark.parametrize("target", ["nothing", "file"])
def test_a_search_writes_through_no_link(
    target: str, make_recipe: Make, theirs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    space = {"train.lr": {"from": 0.001, "to": 0.1, "scale": "log"}}
    recipe = make_recipe("train.max_steps=1", search={"trials": 1, "space": space})
    compare(make_recipe("train.max_steps=1", methods=["untuned"]), tmp_path / "out")
    (tmp_path / "out/recipe.yaml").unlink()
    (tmp_path / "out/search.db").symlink_to(theirs / target)
    with pytest.raises(AdapterError, match=r"search\.db' is damaged: it is a link"):
        compare(recipe, tmp_path / "out")
    assert untouched(theirs)


def test_leftovers_that_are_links_are_nobodys_to_put_in_order(theirs: Path, tmp_path: Path) -> None:
    for name in (".deltatune-old.0.x", ".deltatune-new.0.x", ".deltatune-tmp.x", ".deltatune-gone.0"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).symlink_to(theirs)
    (tmp_path / "out/.adapter.old.abcd1234").symlink_to(theirs)
    (tmp_path / "out/.resume.old.abcd1234").mkdir()
    (tmp_path / "out/.resume.old.abcd1234/folder").symlink_to(theirs)
    settle(tmp_path / "out")
    assert untouched(theirs)
    assert not (tmp_path / "out/thesis").exists()


@pytest.mark.parametrize("kind", ["link", "dangling", "file", "hard link", "pipe"])
def test_a_lock_that_is_somebody_elses_is_refused(kind: str, theirs: Path, tmp_path: Path) -> None:
    path = tmp_path / LOCK
    made = {
        "link": lambda: path.symlink_to(theirs / "file"),
        "dangling": lambda: path.symlink_to(theirs / "nothing"),
        "file": lambda: path.write_text("notes"),
        "hard link": lambda: os.link(theirs / "file", path),
        "pipe": lambda: os.mkfifo(path),
    }
    made[kind]()
    with pytest.raises(DeltatuneError, match="no lock that deltatune wrote"):
        Lock(tmp_path, print)
    assert untouched(theirs)
    assert path.is_symlink() or path.exists()
    path.unlink()
    for left in ("", '{"pid": 1, "host": "x"}'):  # of processes that were killed
        path.write_text(left)
        Lock(tmp_path, print).release()


def test_a_link_that_a_person_names_is_followed(theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(theirs / "file")
    write_text(meant(tmp_path / "link"), "new")
    assert (tmp_path / "link").is_symlink()
    assert (theirs / "file").read_text() == "new"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DeltatuneError):
        write_text(meant(tmp_path / "loop") / "x", "new")


def test_two_threads_that_write_leave_the_umask_as_it_is(tmp_path: Path) -> None:
    """To ask for it is to set it: of two threads that did so at once, the second put 0 back."""
    before = os.umask(0o027)
    try:
        end = time.monotonic() + 0.5

        def write(name: str) -> None:
            while time.monotonic() < end:
                with atomic_folder(tmp_path / name) as made, atomic_path(made / "file") as file:
                    file.write_text("x")

        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert os.umask(0o027) == 0o027
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o750
        assert (tmp_path / "a/file").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_model_is_not_put_where_another_command_has_begun_to_work(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is looked at once more when the model is ready: to make it can take many minutes."""
    recipe = make_recipe("train.max_steps=1")
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    before = merging.Proof.equal_logits

    def meanwhile(*arguments: object) -> None:
        before(*arguments)  # type: ignore[arg-type]
        shutil.copytree(tmp_path / "run", tmp_path / "out")

    monkeypatch.setattr(merging.Proof, "equal_logits", meanwhile)
    with pytest.raises(DeltatuneError, match="not a model that was merged before"):
        merging.merge(tmp_path / "run", tmp_path / "out")
    assert changed_files(tmp_path / "out") == []
    assert not list(tmp_path.glob(".deltatune-*"))


def test_a_model_is_not_put_in_the_place_of_its_base(
    make_recipe: Make, t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of one that was merged before, and that the recipe names from the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = make_recipe("train.max_steps=1")
    run(recipe, recipe.methods[0], 0, tmp_path / "first")
    merging.merge(tmp_path / "first", tmp_path / "base")
    recipe = make_recipe("train.max_steps=1", model="~/base")
    run(recipe, recipe.methods[0], 0, tmp_path / "second")
    with pytest.raises(DeltatuneError, match="is the base of the run"):
        merging.merge(tmp_path / "second", tmp_path / "base")
    assert changed_files(tmp_path / "base") == []


@pytest.mark.parametrize("name", ["../home/file", "/proc/kmsg", "link", "a" * 300, "a\0b", "\ud800", ""])
def test_a_manifest_vouches_for_files_of_its_folder_alone(name: str, theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(theirs / "file")
    vouch(tmp_path / "out", "run", {name: sha256(theirs / "file")})
    assert changed_files(tmp_path / "out") == [name]
