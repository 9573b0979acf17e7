"""What changes while a run is interrupted: it does not go on with other rows, labels, tokens or base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltatune.comparison.runner import compare
from deltatune.data.dataset import Dataset
from deltatune.data.rows import Row
from deltatune.errors import AdapterError, ChangedError, DataError, DeltatuneError, RecipeError
from deltatune.files import sealed
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.training import run
from deltatune.training.given.digests import Inputs, dataset_digests
from tests.train.test_run import StopAfter, lines

Make = Callable[..., Recipe]


class Listening(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def interrupted(make_recipe: Make, t5_folder: Path, tmp_path: Path) -> tuple[Recipe, Path]:
    """A run that was stopped in its third step, on a base of its own."""
    shutil.copytree(t5_folder, tmp_path / "base")
    recipe = make_recipe("train.max_steps=5", model=str(tmp_path / "base"))
    with pytest.raises(KeyboardInterrupt):
        run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=StopAfter(3))
    return recipe, tmp_path / "run"


def remove_rows(rows: Path) -> None:
    rows.write_text("\n".join(rows.read_text().splitlines()[:30]))


def change_rows(rows: Path) -> None:
    rows.write_text(rows.read_text().replace("0 of the", "0 of all the"))


def change_base(rows: Path) -> None:
    path = rows.parent / "base/model.safetensors"
    tensors = load_file(path)
    tensors["shared.weight"][5] += 0.5
    save_file(tensors, path, metadata={"format": "pt"})


def change_tokenizer(rows: Path) -> None:
    path = rows.parent / "base/tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "o"}, "content": "a"}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_rows, r"rows have changed.*train: .*removed.*of the test rows were training rows before"),
        (change_rows, r"rows have changed.*[0-9] changed"),
        (change_base, "weights of the base have changed"),
        (change_tokenizer, "tokenizer or image processor has changed"),
    ],
)
def test_a_run_does_not_go_on_with_something_else(
    change: Callable[[Path], None], message: str, interrupted: tuple[Recipe, Path], rows: Path
) -> None:
    recipe, out = interrupted
    before = (out / "metrics.jsonl").read_bytes()
    change(rows)
    with pytest.raises(ChangedError, match=message) as caught:
        run(recipe, recipe.methods[0], 0, out, resume=True)
    assert "--overwrite" in str(caught.value)
    assert (out / "metrics.jsonl").read_bytes() == before
    assert (out / "resume/state.json").exists()


def test_a_run_without_its_recipe_does_not_go_on(interrupted: tuple[Recipe, Path]) -> None:
    recipe, out = interrupted
    (out / "recipe.yaml").unlink()
    with pytest.raises(RecipeError, match="has lost its recipe"):
        run(recipe, recipe.methods[0], 0, out, resume=True)


def test_a_state_of_version_0_1_goes_on_with_a_warning(interrupted: tuple[Recipe, Path]) -> None:
    recipe, out = interrupted
    path = out / "resume/state.json"
    content = json.loads(path.read_text())
    del content["checksum"], content["state"]["inputs"], content["state"]["log"]
    content["state"]["progress"].pop("unknown", None)
    path.write_text(json.dumps(content))
    (out / "manifest.json").unlink()
    listening = Listening()
    assert run(recipe, recipe.methods[0], 0, out, resume=True, observer=listening).status == "done"
    assert any("begun by version 0.1" in text for text in listening.warnings)


def test_a_state_whose_content_was_changed_is_refused(interrupted: tuple[Recipe, Path]) -> None:
    recipe, out = interrupted
    path = out / "resume/state.json"
    whole = path.read_text()
    for damaged in (
        whole.replace('"step": 3', '"step": 4', 1),
        whole.replace('"checksum"', '"checksun"'),
        whole.replace('"state"', '"stade"', 1),
        "{}",
        '{"sha256": "", "state": 5}',
    ):
        path.write_text(damaged)
        with pytest.raises(AdapterError, match="checksum differs"):
            run(recipe, recipe.methods[0], 0, out, resume=True)
    del (content := json.loads(whole))["checksum"], content["state"]["progress"]["tokens"]
    content["state"]["progress"]["tokenz"] = 5
    path.write_text(json.dumps(sealed(content)))
    with pytest.raises(AdapterError, match="not one of this run"):
        run(recipe, recipe.methods[0], 0, out, resume=True)


@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_history_that_was_cut_short_is_said(damage: str, interrupted: tuple[Recipe, Path]) -> None:
    recipe, out = interrupted
    path, listening = out / "metrics.jsonl", Listening()
    text = path.read_text()
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(text[:-20] if damage == "cut" else text.replace('"loss": ', '"loss": 1', 1))
    run(recipe, recipe.methods[0], 0, out, resume=True, observer=listening)
    assert any("cut short or changed" in text for text in listening.warnings)
    assert [line["step"] for line in lines(path) if "lr" in line][-2:] == [4, 5]


def test_labels_and_order_are_named() -> None:
    rows = [Row(str(i), f"text {i}", "ab"[i % 2], {}) for i in range(6)]

    def inputs(rows: list[Row], labels: list[str]) -> Inputs:
        each = dataset_digests(Dataset(rows[:4], [], rows[4:]))
        return Inputs(str([row.id for row in rows]), each, labels, "", "")

    before = inputs(rows, ["a", "b"]).as_state()
    for after, message in (
        (inputs(rows, ["a"]), r"labels have changed since the run began \(b gone\)"),
        (inputs(rows, ["b", "a"]), r"labels .*another order"),
        (inputs([rows[1], rows[0], *rows[2:]], ["a", "b"]), r"rows .*another order"),
        (inputs([*rows[:3], Row("new", "text", "a", {}), *rows[4:]], ["a", "b"]), "1 removed, 1 added"),
    ):
        with pytest.raises(ChangedError, match=message):
            after.require_same(before, print)
    elsewhere = replace(inputs(rows, ["a", "b"]), base="in four bytes", dtype="float32")
    with pytest.raises(ChangedError, match="in float32 on this device, and was in bfloat16 when the run"):
        elsewhere.require_same(before | {"dtype": "bfloat16"}, print)
    with pytest.raises(ChangedError, match="weights of the base have changed"):
        elsewhere.require_same(before, print)


def test_a_comparison_does_not_go_on_with_other_rows_or_another_base(
    make_recipe: Make, t5_folder: Path, rows: Path, tmp_path: Path
) -> None:
    shutil.copytree(t5_folder, tmp_path / "base")
    recipe = make_recipe("train.max_steps=4", methods=["lora", "prompt"], model=str(tmp_path / "base"))
    half, begun = tmp_path / "half", tmp_path / "begun"
    for out, steps in ((half, 2), (begun, 6)):  # within the first entry, and within the second
        with pytest.raises(KeyboardInterrupt):
            compare(recipe, out, observer=StopAfter(steps))
    text = rows.read_text()
    change_rows(rows)
    for out in (half, begun):
        with pytest.raises(DataError, match=r"runs lora-s0.* have seen different data"):
            compare(recipe, out)
    rows.write_text(text)
    shutil.rmtree(begun / "runs/prompt-s0")
    torch.manual_seed(0)
    change_base(rows)
    for out in (half, begun):
        with pytest.raises(DeltatuneError, match="weights of the base"):
            compare(recipe, out)
        assert not (out / "leaderboard.json").exists()
