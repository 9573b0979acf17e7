"""A run over a base that processes hold parts of is the run of one process that holds it whole."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from deltatune.comparison.runner import compare
from deltatune.core.whole import held
from deltatune.errors import RecipeError
from deltatune.methods import METHODS
from deltatune.recipe import Recipe
from deltatune.training import run
from tests.launched import dropping, require_equal, several, train, trained

SHARD = "train.shard=true"
FEW = ("dora", "prefix")
"""Methods that read weights in every pass: their site's, and another layer's (T5's position bias)."""


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in FEW else pytest.mark.slow)
        for name in METHODS.names()
        if METHODS.get(name).trains and name not in ("head", "full", "loftq", "peft")
    ],
)
def test_two_processes_that_share_a_base_make_the_run_of_one(make_recipe, tmp_path, method):
    """A step has three micro-batches, so that one of the processes keeps the other company."""
    changes = ("train.micro_batch_size=3", "train.batch_size=7", "train.max_steps=6", "train.precision=fp32")
    trained(make_recipe(*changes, methods=[dropping(method)]), tmp_path / "one")
    trained(make_recipe(*changes, SHARD, methods=[dropping(method)]), tmp_path / "two", 2)
    require_equal(tmp_path / "one", tmp_path / "two")


def train_altered(rank: int, recipe: Recipe, out: Path) -> None:
    """The same, and behind the last step one process writes into its part of a weight."""
    module = importlib.import_module("deltatune.training.single.run")
    end = module.end

    def altering(begun: Any, *rest: Any) -> Any:
        if rank == 1:
            held(begun.run.model.base.encoder.block[1].layer[0].SelfAttention.q.weight).view(-1)[:1].add_(1)
        return end(begun, *rest)

    module.end = altering
    train(rank, recipe, out)


def test_an_altered_part_of_the_base_is_found(make_recipe, tmp_path):
    recipe = make_recipe("train.micro_batch_size=4", "train.max_steps=2", SHARD)
    for answer in several(2, train_altered, recipe, tmp_path / "run"):
        assert "base unchanged" in answer


def test_full_is_refused_and_found_out_where_nobody_refuses_it(make_recipe, tmp_path, monkeypatch):
    """Its copies stand in for parts that no pass looks at: nothing would be trained, and nothing said."""
    with pytest.raises(RecipeError, match=r"full.*train.shard each process holds a part"):
        make_recipe(SHARD, methods=["full"])
    monkeypatch.setattr("deltatune.recipe.base_rules._sharding", lambda recipe: [])
    changes = ("train.micro_batch_size=4", "train.max_steps=2", "train.precision=fp32")
    recipe = make_recipe(SHARD, *changes, methods=["full"])
    for answer in several(2, train, recipe, tmp_path / "run"):
        assert "gradient in every part" in answer


def test_eight_bits_are_refused(make_recipe):
    with pytest.raises(RecipeError, match=r"int8.*train.shard divides"):
        make_recipe(SHARD, quantization={"format": "int8"})


def test_one_process_is_refused_and_so_is_a_comparison(make_recipe, tmp_path):
    recipe = make_recipe(SHARD)
    with pytest.raises(RecipeError, match=r"train.shard.*alone"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")
    with pytest.raises(RecipeError, match=r"train.shard.*a comparison trains each run in one"):
        compare(recipe, tmp_path / "cmp")
    assert not list(tmp_path.glob("run")) + list(tmp_path.glob("cmp"))
