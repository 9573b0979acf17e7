"""Every file of a finished run, damaged: what rests on it is refused, and what shows it says so."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.checkpoint.inspection import inspect
from deltatune.checkpoint.manifest import NAME, changed_files, read_manifest
from deltatune.comparison.runner import compare
from deltatune.errors import AdapterError, DeltatuneError
from deltatune.recipe import Recipe
from deltatune.report import render
from deltatune.report.examples import examples
from deltatune.report.load import load
from deltatune.runs import evaluate_run, merge
from deltatune.runs.load import load_run

Make = Callable[..., Recipe]
DELTA = ("adapter_model.safetensors", "adapter_config.json", "deltatune.json", "certificate.json")
DECIDES = ("result.json", *(f"adapter/{name}" for name in DELTA[:3]))
"""Files that decide what a run's delta does."""
FILES = (
    *DECIDES,
    "recipe.yaml",
    "adapter/certificate.json",
    "certificate.json",
    "metrics.jsonl",
    "predictions.jsonl",
)


@pytest.fixture
def out(make_recipe: Make, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two entries; each test has a copy of the one that the first test made."""
    whole = tmp_path_factory.getbasetemp() / "covered"
    if not whole.exists():
        compare(make_recipe("train.max_steps=2", methods=["lora", "untuned"]), whole)
    shutil.copytree(whole, tmp_path / "out")
    return tmp_path / "out"


def flip(path: Path) -> None:
    text = bytearray(path.read_bytes())
    place = max(index for index, letter in enumerate(text) if chr(letter).isdigit())
    text[place] ^= 1  # another digit: the syntax stays whole
    path.write_bytes(text)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
}


def test_every_file_is_covered(out: Path, tmp_path: Path) -> None:
    run = out / "runs/lora-s0"
    known = read_manifest(run)
    assert known is not None
    assert set(known.files) == set(FILES)
    assert changed_files(run) == []
    assert changed_files(out) == []
    assert inspect(run).files == "as they were written"
    assert inspect(run).certified
    assert not load(out).changed
    copy = tmp_path / "copy"
    for damage, spoil in DAMAGE.items():
        for name in FILES:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(run, copy)
            spoil(copy / name)
            assert changed_files(copy) == [name]
            with contextlib.suppress(DeltatuneError):  # or in words:
                seen = inspect(copy)
                assert name in seen.files, (damage, name)
                assert not getattr(seen, "certified", False), (damage, name)
            if name in DECIDES:
                with pytest.raises(DeltatuneError):
                    load_run(copy)


def test_what_was_turned_round_is_refused(out: Path, tmp_path: Path) -> None:
    """By hand and with the syntax whole: a setting, a metric, the labels, the recipe."""
    run = out / "runs/lora-s0"
    for name, before, after in (
        ("adapter/adapter_config.json", '"lora_alpha": 16', '"lora_alpha": 96'),
        ("adapter/deltatune.json", '"alpha": 16', '"alpha": 96'),
        ("result.json", '"labels": null', '"labels": ["b", "a"]'),
    ):
        whole = (run / name).read_text()
        assert before in whole
        (run / name).write_text(whole.replace(before, after))
        for use in (evaluate_run, lambda path: merge(path, tmp_path / "merged")):
            with pytest.raises(AdapterError, match="checksum"):
                use(run)
        assert any(name in text for text in load(out).changed)
        assert "is not what was written" in render(out, "md")
        (run / name).write_text(whole)
    recipe = (run / "recipe.yaml").read_text()  # a person may mean it, so it is said
    (run / "recipe.yaml").write_text(recipe.replace("max_target_tokens: 16", "max_target_tokens: 2"))
    with pytest.warns(UserWarning, match=r"recipe\.yaml' was changed"):
        load_run(run)
    assert any("recipe.yaml" in text for text in load(out).changed)
    board = (out / "leaderboard.json").read_text()
    (out / "leaderboard.json").write_text(board.replace('"rank": 1', '"rank": 3', 1))
    assert load(out).warnings[0].startswith("leaderboard.json in 'out' is not what was written")
    assert "leaderboard.json in" in render(out, "html")


def test_a_run_of_version_0_1_is_not_covered_and_works(out: Path) -> None:
    run = out / "runs/lora-s0"
    for path in out.rglob(NAME):
        path.unlink()
    path = run / "adapter/deltatune.json"
    old = json.loads(path.read_text())
    del old["files"], old["checksum"]
    path.write_text(json.dumps(old))
    seen = inspect(run)
    assert seen.files.startswith("not covered")
    assert "not covered" in seen.checksum
    assert seen.certified
    load_run(run)
    assert not load(out).changed


def test_a_damaged_line_of_predictions_does_not_shift_the_others(out: Path) -> None:
    before = {e.id: [(a.method.name, a.length) for a in e.answers] for e in examples(load(out))}
    path = out / "runs/lora-s0/predictions.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    lost = json.loads(rows[3])["id"]
    rows[3] = rows[3][: len(rows[3]) // 2] + "\n"
    path.write_text("".join(rows))
    for covered in (True, False):
        after = {e.id: [(a.method.name, a.length) for a in e.answers] for e in examples(load(out))}
        assert after.keys() == before.keys()
        assert {name: after[name] for name in after if name != lost} == {
            name: before[name] for name in before if name != lost
        }
        assert [name for name, _ in after[lost]] == ["untuned"]
        assert any("predictions.jsonl" in text for text in load(out).warnings)
        if covered:
            (path.parent / NAME).unlink()
