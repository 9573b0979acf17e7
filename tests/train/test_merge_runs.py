"""Several runs become one plain model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from deltatune.errors import AdapterError, DeltatuneError
from deltatune.recipe import Recipe
from deltatune.runs import load_run, merge
from deltatune.train import run as train_run

Make = Callable[..., Recipe]


def test_runs_of_one_base_are_folded_together(make_recipe: Make, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for seed, (folder, method) in enumerate(zip(folders, ("lora", "lora", "dora"), strict=True)):
        recipe = make_recipe("train.max_steps=3", "train.lr=0.05", methods=[method])
        train_run(recipe, recipe.methods[0], seed, folder)
    plain = load_run(folders[0], as_trained=False).model.base
    singles = [load_run(folder, as_trained=False).model.merged() for folder in folders[:2]]
    for rule in ("linear", "ties", "dare"):
        done = merge(folders[0], tmp_path / rule, others=folders[1:2], rule=rule, density=0.5)
        assert done["max_abs_logit_difference"] < 1e-4
    merged = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "linear", dtype=torch.float32)
    moved = 0
    for name, weight in merged.named_parameters():
        parts = [single.get_parameter(name) - plain.get_parameter(name) for single in singles]
        torch.testing.assert_close(weight - plain.get_parameter(name), sum(parts) / 2, rtol=1e-4, atol=1e-5)
        moved += bool(sum(parts).any())
    assert moved
    with pytest.raises(AdapterError, match="low-rank"):
        merge(folders[0], tmp_path / "no", others=folders[2:])
    with pytest.raises(AdapterError, match="for 2 adapters"):
        merge(folders[0], tmp_path / "no", others=folders[1:2], weights=[1.0])
    assert not (tmp_path / "no").exists()


def test_only_a_merged_model_is_replaced(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["lora"])
    train_run(recipe, recipe.methods[0], 0, tmp_path / "run")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("mine", encoding="utf-8")
    base = Path(recipe.model.name)
    for out in (tmp_path / "run", tmp_path / "run" / "adapter", tmp_path / "data", base):
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        with pytest.raises(DeltatuneError, match="is not a model that was merged before"):
            merge(tmp_path / "run", out)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    with pytest.raises(DeltatuneError, match="is not a model"):
        merge(tmp_path / "run", tmp_path / "data" / "rows.csv")
    for _ in range(2):
        merge(tmp_path / "run", tmp_path / "merged")
    again = make_recipe("train.max_steps=1", methods=["lora"], model=str(tmp_path / "merged"))
    train_run(again, again.methods[0], 0, tmp_path / "again")
    with pytest.raises(DeltatuneError, match="is the base of the run"):
        merge(tmp_path / "again", tmp_path / "merged")
