"""Runs on a quantized base, from recipe to merged model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import T5Config, T5ForConditionalGeneration

from deltatune.errors import RecipeError
from deltatune.observer import Silent
from deltatune.recipe import parse_recipe
from deltatune.runs.load import load_run
from deltatune.runs.merge import merge
from deltatune.runs.use import evaluate_run
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from deltatune.training import Context, run
from tests.launched import dropping, require_equal, trained

Make = Callable[..., Any]


class Listening(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A recipe over a T5 that is wide enough for blocks of 64 weights."""
    tokenizer = tiny_tokenizer("t5")
    config = T5Config(
        vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    words = ("medals", "goals", "songs", "ships")
    rows = [{"text": f"{i} of the {words[i % 4]}", "title": words[i % 4]} for i in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def recipe(*methods: Any, **sections: Any) -> Any:
        return parse_recipe(
            {
                "task": "text-to-text",
                "model": str(tmp_path / "base"),
                "data": {
                    "source": str(tmp_path / "rows.jsonl"),
                    "columns": {"input": "text", "target": "title"},
                    "split": {"validation": 0.2, "test": 0.2},
                    "max_target_tokens": 8,
                },
                "methods": list(methods),
                "train": {"max_steps": 4, "batch_size": 8, "lr": 0.01},
                "evaluation": {"max_new_tokens": 4},
                **sections,
            }
        )

    return recipe


@pytest.mark.parametrize("method", ["lora", "loftq", "dora", "pissa", "prefix"])
def test_a_run_in_four_bits(make: Make, tmp_path: Path, method: str) -> None:
    recipe = make(method, quantization={"format": "nf4", "compute": "fp32"})
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.status == "done"
    assert result.model.quantization == "nf4 double"
    assert all(line.passed for line in result.certificate)
    plain = T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    assert result.model.parameters == sum(p.numel() for p in plain.parameters())
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_make_the_run_of_one_in_four_bits(make: Make, tmp_path: Path, shard: bool) -> None:
    """The start reads unquantized weights, of a base that may be in parts."""
    train = {"max_steps": 4, "batch_size": 7, "micro_batch_size": 3, "lr": 0.01}
    sections = {"quantization": {"format": "nf4", "compute": "fp32"}}
    trained(make(dropping("loftq"), train=train, **sections), tmp_path / "one")
    trained(make(dropping("loftq"), train=train | {"shard": shard}, **sections), tmp_path / "two", 2)
    require_equal(tmp_path / "one", tmp_path / "two")


def test_merging_goes_onto_the_weights_that_were_quantized(make: Make, tmp_path: Path) -> None:
    recipe = make("lora", quantization={"format": "nf4", "compute": "fp32"})
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    done = merge(tmp_path / "run", tmp_path / "merged")
    assert done.max_abs_logit_difference < 1e-4
    assert done.max_abs_difference_to_quantized > 1e-3
    assert load_run(tmp_path / "run", as_trained=False).model.merged() is not None


def test_an_entry_may_have_its_own_bits(make: Make) -> None:
    recipe = make("untuned", {"lora": {"r": 4}, "quantization": "nf4", "name": "qlora"}, "full")
    assert [entry.quantization and entry.quantization.format for entry in recipe.methods] == [
        None,
        "nf4",
        None,
    ]
    again = make("untuned", {"full": None, "quantization": None}, quantization="int8")
    assert [e.quantization and e.quantization.format for e in again.methods] == ["int8", None]
    for each in (recipe, again):
        assert parse_recipe(each.dump()) == each


def test_what_four_bits_exclude(make: Make) -> None:
    with pytest.raises(RecipeError, match=r"full.*quantization: null"):
        make("full", quantization="nf4")
    with pytest.raises(RecipeError, match="leave it at auto"):
        make("lora", quantization="nf4", train={"precision": "bf16"})


def test_optimizers_for_gpus_give_way_on_cpus(make: Make, tmp_path: Path) -> None:
    recipe = make("lora", train={"max_steps": 2, "batch_size": 8, "optimizer": "adamw-paged"})
    observer = Listening()
    context = Context.open(recipe, observer)
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=observer, context=context)
    assert result.status == "done"
    if result.cost.memory_kind == "rss":
        assert any("adamw-paged works on GPUs only" in warning for warning in observer.warnings)
