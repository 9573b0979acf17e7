"""Files of somebody else's stay: what is replaced or removed carries our own mark."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.checkpoint.folders import atomic_folder, settle
from deltatune.checkpoint.manifest import read_manifest
from deltatune.comparison.folder import WRITES as COMPARISON
from deltatune.comparison.runner import compare
from deltatune.errors import AdapterError, DeltatuneError, RecipeError
from deltatune.recipe import Recipe
from deltatune.training import run
from deltatune.training.given.folder import WRITES as RUN

Make = Callable[..., Recipe]
THEIRS = (
    ".config.old.2024/precious", ".notes.new.x/precious", ".draft.tmp", "notes.txt", ".adapter.new/precious",
)  # fmt: skip


def put(folder: Path, *names: str) -> dict[Path, bytes]:
    for name in names:
        path = folder / name
        path = path / "precious" if name in ("adapter", "resume", "runs") else path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    return content(folder)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_and_a_comparison_replace_nothing_foreign(
    make_recipe: Make, tmp_path: Path, overwrite: bool
) -> None:
    recipe = make_recipe()
    for names, begin in (
        (RUN, lambda out: run(recipe, recipe.methods[0], 0, out, overwrite=overwrite)),
        (COMPARISON, lambda out: compare(recipe, out, overwrite=overwrite)),
    ):
        for name in names:
            out = tmp_path / f"{len(names)}-{name}"
            before = put(out, name, *THEIRS)
            with pytest.raises(RecipeError, match=f"{name}' was not written by deltatune"):
                begin(out)
            assert content(out) == before


def test_what_lies_beside_a_run_stays(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1")
    out = tmp_path / "home"
    before = put(out, *THEIRS)
    run(recipe, recipe.methods[0], 0, out)
    known = read_manifest(out)
    assert known is not None
    run(recipe, recipe.methods[0], 0, out, overwrite=True)
    assert before.items() <= content(out).items()
    again = read_manifest(out)
    assert again is not None
    assert again.id == known.id
    with pytest.raises(RecipeError, match="holds a run"):
        compare(recipe, out, overwrite=True)


def test_an_overwritten_comparison_keeps_the_runs_of_others(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["untuned", "lora"])
    out = tmp_path / "out"
    compare(recipe, out)
    before = put(out, "runs/Nov29_12-00/events.out", "runs/lora-s0/notes.txt", "runs/notes.txt")
    mine = {path: text for path, text in before.items() if text == b"mine"}
    compare(make_recipe("train.max_steps=1", methods=["untuned"]), out, overwrite=True)
    after = content(out)
    assert mine.items() <= after.items()
    assert not (out / "runs/lora-s0/result.json").exists()
    assert (out / "runs/untuned-s0/result.json").exists()


def test_a_folder_of_version_0_1_is_recognised(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["untuned"])
    out = tmp_path / "out"
    board = compare(recipe, out)
    for path in out.rglob("manifest.json"):
        path.unlink()
    assert compare(recipe, out).rows == board.rows
    for path in out.rglob("manifest.json"):
        path.unlink()
    compare(recipe, out, overwrite=True)
    run_folder = out / "runs/untuned-s0"
    (run_folder / "manifest.json").unlink()
    run(recipe, recipe.methods[0], 0, run_folder, overwrite=True)


def test_anothers_or_a_damaged_manifest_is_refused(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["untuned"])
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(AdapterError, match="not written by deltatune"):
        run(recipe, recipe.methods[0], 0, tmp_path, overwrite=True)
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"name": "a web page"}
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    path = tmp_path / "run/manifest.json"
    path.write_text(path.read_text().replace('"kind": "run"', '"kind": "ran"'))
    with pytest.raises(AdapterError, match="damaged or was changed"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run", overwrite=True)


def test_a_run_folder_of_somebody_else_in_a_comparison_is_left_alone(
    make_recipe: Make, tmp_path: Path
) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["untuned", "lora"])
    compare(make_recipe("train.max_steps=1", methods=["untuned", "lora"]), tmp_path)
    for path in sorted((tmp_path / "runs/lora-s0").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    before = put(tmp_path / "runs/lora-s0", "metrics.jsonl")
    board = compare(recipe, tmp_path)
    assert [row.status for row in board.rows if row.name == "lora"] == ["failed"]
    assert content(tmp_path / "runs/lora-s0") == before


def test_leftovers_of_version_0_1_are_put_in_order(tmp_path: Path) -> None:
    (tmp_path / ".resume.old.abcd1234/folder").mkdir(parents=True)
    (tmp_path / ".resume.old.abcd1234/folder/state.json").write_text("state")
    (tmp_path / ".resume.new.xy_z0123").mkdir()
    (tmp_path / ".result.json.0123abcd.tmp").write_text("{")
    before = put(tmp_path, *THEIRS)
    settle(tmp_path)
    kept = {path: text for path, text in before.items() if text == b"mine"}
    assert content(tmp_path) == kept | {tmp_path / "resume/state.json": b"state"}


def test_a_link_is_replaced_and_what_it_names_stays(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/theirs").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "far")
    with atomic_folder(tmp_path / "link") as made:
        (made / "a").write_text("new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link/a").read_text() == "new"
    assert content(tmp_path / "far") == {tmp_path / "far/theirs": b"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "link"]


def test_a_loop_of_links_is_an_error_in_words(make_recipe: Make, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    recipe = make_recipe()
    with pytest.raises(DeltatuneError, match="cannot write to the folder"):
        run(recipe, recipe.methods[0], 0, tmp_path / "loop")
