"""`check`: what is learned is shown, warnings are told, nothing is trained and no weights are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.tiny_recipe import rows, t5_folder

__all__ = ["rows", "t5_folder"]


@pytest.fixture
def recipe(t5_folder: Path, rows: Path, tmp_path: Path) -> Path:
    content = {
        "task": "text-to-text",
        "model": str(t5_folder),
        "data": {
            "source": str(rows),
            "columns": {"input": "text", "target": "title", "id": "id"},
            "split": {"validation": 0.2, "test": 0.2},
            "max_target_tokens": 16,
        },
        "methods": ["lora"],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_tokens_are_shown_with_what_is_learned(recipe: Path, run: Callable) -> None:
    done = run("check", recipe, "--samples", 3)
    assert done.code == 0, done.err
    samples = done.out.split("\nData\n")[0].strip().split("\n\n")
    assert len(samples) == 3
    for sample in samples:
        head, read, learned = sample.splitlines()
        assert head.startswith("Row ")
        assert read.strip().startswith("read")
        assert learned.strip().startswith("learned")
        assert learned.endswith("|</s>")
    for word in ("train tokens", "median", "cut off: 0 inputs", "duplicates"):
        assert word in done.out


def test_json_has_the_same_and_counts_add_up(recipe: Path, run: Callable) -> None:
    found = json.loads(run("check", recipe, "--json", "--quiet").out)
    assert len(found["samples"]) == 5
    for sample in found["samples"]:
        learned = [token["text"] for token in sample["tokens"] if token["supervised"]]
        assert len(sample["tokens"]) == sample["length"]
        assert len(learned) == sample["supervised"]
        assert learned[-1] == "</s>"
        assert sum(token["text"] == "</s>" for token in sample["tokens"] if token["supervised"]) == 1
    assert found["rows"] == {"train": 28, "validation": 10, "test": 10}
    assert found["tokens"]["train"]["supervised"] < found["tokens"]["train"]["total"]
    assert json.loads(run("check", recipe, "--json", "--samples", 0).out)["samples"] == []


def test_warnings_do_not_change_the_exit_code(recipe: Path, rows: Path, run: Callable) -> None:
    lines = rows.read_text(encoding="utf-8").splitlines()
    again = [line.replace('"id": "', '"id": "again') for line in lines]
    rows.write_text("\n".join(lines + again), encoding="utf-8")
    done = run("check", recipe, "--set", "data.max_input_tokens=8")
    assert done.code == 0
    assert "rows have the same input as a training row" in done.out
    assert "training inputs are longer than data.max_input_tokens" in done.out
    assert "100% alike: test row" in done.out


def test_labels_are_counted(recipe: Path, rows: Path, run: Callable) -> None:
    lines = [{"id": str(i), "text": f"{i} songs", "title": "no" if i % 11 else "yes"} for i in range(100)]
    rows.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    done = run("check", recipe, "--samples", 0)
    assert "train classes" in done.out
    assert "baseline" in done.out
    assert "always answering 'no' is right in" in done.out
    assert json.loads(run("check", recipe, "--json").out)["majority"]["label"] == "no"


def test_no_weights_are_needed(recipe: Path, t5_folder: Path, run: Callable, tmp_path: Path) -> None:
    light = tmp_path / "light"
    light.mkdir()
    for file in t5_folder.iterdir():
        if file.suffix != ".safetensors":
            (light / file.name).write_bytes(file.read_bytes())
    assert run("check", recipe, "--set", f"model={light}").code == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [("data.columns.target=titel", "Did you mean 'title'"), ("model=./nowhere", "no model folder")],
)
def test_a_mistake_is_exit_code_2(recipe: Path, run: Callable, change: str, problem: str) -> None:
    done = run("check", recipe, "--set", change)
    assert done.code == 2
    assert problem in done.err
    assert done.out == ""


def test_each_way_to_read_is_shown_with_its_label(recipe: Path, run: Callable) -> None:
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    content["methods"] = [
        "untuned",
        {"lora": {}, "data": {"template": "Of what? {input}", "max_input_tokens": 9}},
    ]
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    done = run("check", recipe, "--samples", 1)
    assert done.code == 0, done.err
    assert ", template={input} max_input_tokens=512\n" in done.out
    assert ", template=Of what? {input} max_input_tokens=9\n" in done.out
    assert done.out.count("Row ") == 2
    assert "cut off: 28 inputs (100.0%)" in done.out


def test_what_must_be_the_same_for_all_entries_is_refused_without_a_traceback(
    recipe: Path, run: Callable
) -> None:
    done = run("check", recipe, "--set", "methods.0={lora: null, data: {limit: {train: 9}}}")
    assert done.code == 2
    assert done.err.startswith("Error: methods.0.data.limit: must be the same for every entry")
    assert "Traceback" not in done.err


def test_code_of_the_model_runs_if_it_is_trusted(recipe: Path, t5_folder: Path, run: Callable) -> None:
    folder = recipe.parent / "own"
    shutil.copytree(t5_folder, folder)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForSeq2SeqLM": "own.Own"}
    config |= {"model_type": "own", "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "own.py").write_text(
        "from transformers import T5Config, T5ForConditionalGeneration\n"
        "class OwnConfig(T5Config):\n    model_type = 'own'\n"
        "class Own(T5ForConditionalGeneration):\n    config_class = OwnConfig\n",
        encoding="utf-8",
    )
    for command in ("check", "plan"):
        trusted = ("--set", f"model.name={folder}", "--set", "model.trust_remote_code=true")
        done = run(command, recipe, *trusted)
        assert done.code == 0, done.err


def test_a_target_that_matches_nothing_is_told(recipe: Path, run: Callable) -> None:
    text = recipe.read_text(encoding="utf-8").replace("- lora", "- lora: {targets: [q_prj]}")
    recipe.write_text(text, encoding="utf-8")
    done = run("check", recipe)
    assert done.code == 2
    assert "'q_prj' matches no module" in done.err
