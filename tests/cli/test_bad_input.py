"""Bad input of many kinds: exit code 2, one message with field and remedy, and no half-written file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from deltatune.recipe import Recipe
from deltatune.training import run as train_run
from tests.tiny_recipe import make_recipe, rows, t5_folder

__all__ = ["make_recipe", "rows", "t5_folder"]

Content = dict[str, Any]
Change = Callable[[Content, Path], None]


def at(path: str, value: Any) -> Change:
    """Set a dotted field of the recipe."""

    def change(content: Content, folder: Path) -> None:
        *above, last = path.split(".")
        node: Any = content
        for step in above:
            node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
        node[last] = value

    return change


def data_file(name: str, text: str | bytes, **columns: str) -> Change:
    """Use other data."""

    def change(content: Content, folder: Path) -> None:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        content["data"]["source"] = str(folder / name)
        content["data"]["columns"] = columns or content["data"]["columns"]

    return change


def broken_image(content: Content, folder: Path) -> None:
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (folder / "images" / part / label).mkdir(parents=True)
            for n in range(6):
                (folder / "images" / part / label / f"{n}.png").write_bytes(b"this is no picture")
    content.update(
        task="image-classification",
        model="bundled:dinov2-small",
        data={"source": str(folder / "images"), "split": {"validation": 0.3}},
    )


def parts_with_another_label(content: Content, folder: Path) -> None:
    for name, labels in (("train", "ab"), ("test", "abc")):
        lines = [json.dumps({"text": f"row {n}", "label": labels[n % len(labels)]}) for n in range(20)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    content.update(
        task="text-classification",
        data={
            "train": str(folder / "train.jsonl"),
            "test": str(folder / "test.jsonl"),
            "split": {"validation": 0.1},
            "columns": {"input": "text", "target": "label"},
        },
    )


ROW = json.dumps({"text": "a", "title": "b", "id": "1"})
CASES: dict[str, tuple[Change, str]] = {
    "unknown key": (at("train.lerning_rate", 1e-3), r"train\.lerning_rate.*(lr|Known)"),
    "wrong type": (at("train.epochs", "three"), r"train\.epochs.*three"),
    "out of range": (at("train.lr", -1.0), r"train\.lr.*greater than 0"),
    "fp16": (at("train.precision", "fp16"), r"precision.*fp16.*bf16"),
    "unknown method": (at("methods", ["lroa"]), r"'lroa'.*'lora'"),
    "unknown setting": (at("methods", [{"lora": {"rank": 8}}]), r"rank.*\br\b"),
    "impossible setting": (at("methods", [{"adalora": {"init_r": 4, "target_r": 8}}]), r"target_r.*init_r"),
    "unknown task": (at("task", "translate"), r"task.*text-to-text"),
    "unknown metric": (at("evaluation.metrics", ["rogue"]), r"rogue.*rouge"),
    "same label twice": (at("methods", ["lora", "lora"]), r"lora.*name"),
    "no metric": (at("evaluation.metrics", []), r"evaluation\.metrics.*at least one"),
    "a choice by what is neither good nor bad": (
        at("evaluation.select_by", "mean_length"),
        r"evaluation\.select_by.*'mean_length'.*Known",
    ),
    "a sample of no grid": (at("sample", 2), r"sample: has no grid.*leave sample out"),
    "missing file": (at("data.source", "nowhere.jsonl"), r"nowhere\.jsonl"),
    "empty file": (data_file("empty.jsonl", ""), r"empty\.jsonl"),
    "bad JSON": (data_file("bad.jsonl", ROW + "\n{oops\n"), r"bad\.jsonl.*2"),
    "missing column": (at("data.columns.input", "txt"), r"txt.*text"),
    "ragged CSV": (data_file("ragged.csv", "text,title,id\na,b,1\na,b,2,c,d\n"), r"ragged\.csv.*3"),
    "label unknown in test": (parts_with_another_label, r"'c'"),
    "broken image": (broken_image, r"0\.png"),
    "missing model": (at("model", "./no-such-model"), r"no-such-model"),
    "hub model without network": (at("model", "google-t5/t5-small"), r"google-t5/t5-small"),
    "model of another kind": (at("task", "causal-lm"), r"text-to-text|causal"),
    "target that matches nothing": (at("methods", [{"lora": {"targets": ["qurey"]}}]), r"'qurey'.*'query'"),
    "scope that is not there": (at("methods", [{"prefix": {"scopes": ["middle"]}}]), r"scopes.*encoder"),
    "no room for the schedule": (at("methods", [{"adalora": {"tinit": 90}}]), r"tinit.*Train longer"),
}


@pytest.fixture
def content(make_recipe: Callable[..., Recipe]) -> Content:
    return make_recipe().dump()


def assert_refused(outcome: Any, pattern: str) -> None:
    text = " ".join(outcome.err.split())
    assert outcome.code == 2, text
    assert re.search(pattern, text), text
    assert "Traceback" not in text
    assert text.count("Error:") == 1


def left_over(folder: Path) -> Iterator[str]:
    """Results, deltas and temporary files below `folder`."""
    for path in folder.rglob("*"):
        if path.name in ("result.json", "adapter", "resume") or path.name.startswith("."):
            yield str(path)


@pytest.mark.parametrize("kind", CASES)
def test_bad_recipes_and_data(kind: str, content: Content, tmp_path: Path, run: Callable[..., Any]) -> None:
    change, pattern = CASES[kind]
    change(content, tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    outcome = run("train", tmp_path / "recipe.yaml", "--out", tmp_path / "out", "--quiet")
    assert_refused(outcome, pattern)
    assert list(left_over(tmp_path / "out")) == []


@pytest.fixture
def finished(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    recipe = make_recipe("train.max_steps=1")
    train_run(recipe, recipe.methods[0], 0, tmp_path / "run")
    return tmp_path / "run"


def truncate(folder: Path) -> None:
    path = folder / "adapter/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def alter(folder: Path) -> None:
    path = folder / "adapter/adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path)


def remove_config(folder: Path) -> None:
    (folder / "adapter/adapter_config.json").unlink()


def unfinished(folder: Path) -> None:
    (folder / "result.json").unlink()


def only_a_status(folder: Path) -> None:
    (folder / "result.json").write_text('{"status": "done"}', encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "pattern"),
    [
        (only_a_status, r"result\.json' lacks name"),
        (truncate, r"damaged"),
        (alter, r"checksum"),
        (remove_config, r"adapter_config\.json"),
        (unfinished, r"result\.json"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "predict", "merge"])
def test_damaged_runs(
    command: str, damage: Callable[[Path], None], pattern: str, finished: Path, run: Callable[..., Any]
) -> None:
    damage(finished)
    merged = finished.parent / "merged"
    arguments = {"evaluate": [], "predict": ["a text"], "merge": ["--out", merged]}[command]
    assert_refused(run(command, finished, *arguments), pattern)
    assert not merged.exists()


def test_an_adapter_for_another_base(finished: Path, run: Callable[..., Any], t5_folder: Path) -> None:
    import torch
    from transformers import T5ForConditionalGeneration

    other = finished.parent / "other"
    model = T5ForConditionalGeneration.from_pretrained(t5_folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.1)
    model.save_pretrained(other)
    for path in t5_folder.glob("*token*"):
        (other / path.name).write_bytes(path.read_bytes())
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["model"]["name"] = str(other)
    (finished / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert_refused(run("evaluate", finished), r"trained on")


def test_merging_what_is_no_weight(
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    run: Callable[..., Any],
) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["prefix"])
    train_run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert_refused(
        run("merge", tmp_path / "run", "--out", tmp_path / "merged"), r"cannot be written into weights"
    )
    assert not (tmp_path / "merged").exists()


def test_a_folder_that_cannot_be_made(content: Content, tmp_path: Path, run: Callable[..., Any]) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    outcome = run("train", tmp_path / "recipe.yaml", "--out", tmp_path / "file" / "out")
    assert_refused(outcome, r"--out.*cannot write")


def test_a_loss_that_is_not_finite(content: Content, tmp_path: Path, run: Callable[..., Any]) -> None:
    content["methods"] = [{"full": {}}]
    content["train"] |= {"lr": 1e30, "max_grad_norm": None, "schedule": "constant", "warmup": 0.0}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    outcome = run("train", tmp_path / "recipe.yaml", "--out", tmp_path / "out", "--quiet")
    assert_refused(outcome, r"train\.lr.*(nan|inf).*Lower the learning rate")
    assert list(left_over(tmp_path / "out")) == []
