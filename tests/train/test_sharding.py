"""A run over a base that processes hold parts of is the run of one process that holds it whole."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from deltatune.comparison.runner import compare
from deltatune.core.devices import HOST
from deltatune.core.model import AdaptedModel
from deltatune.core.ranks import joined
from deltatune.core.sharding import shard_
from deltatune.core.whole import held
from deltatune.errors import AdapterError, RecipeError
from deltatune.methods import METHODS
from deltatune.models.fingerprint import checksum, fingerprint
from deltatune.recipe import Recipe
from deltatune.testing import tiny
from deltatune.training import run
from tests.launched import (
    SETTINGS,
    TRAINED,
    dropping,
    evaluated,
    require_equal,
    several,
    train,
    train_interrupted,
    trained,
)

SHARD = "train.shard=true"


def in_parts(rank: int, methods: tuple[str, ...]) -> list[str]:
    """What differs between a tiny T5 of which two processes hold parts and one that is whole."""
    wrong, config = [], tiny.batch("t5")
    base, whole = tiny.model("t5"), tiny.model("t5")
    digests, kind = (fingerprint(whole), checksum(whole)), type(base.encoder.block[0])
    with joined(HOST) as group:
        shard_(base, group, HOST)
        weight = base.encoder.block[1].layer[0].SelfAttention.q.weight
        wrong += [] if 2 * held(weight).numel() == weight.numel() else ["it is not in parts"]
        wrong += [] if type(base.encoder.block[0]) is kind else ["a class is another"]
        for method in methods:
            models = AdaptedModel(base), AdaptedModel(whole)
            found = []
            for model in models:
                adapter = model.attach("run", METHODS.get(method)(**SETTINGS.get(method, {})), seed=0)
                tiny.perturb(adapter)
                model.eval()
                inputs = tiny.prompts("t5", rows=2 + rank)  # one of them writes for more rows
                ids = model.generate(**inputs, max_new_tokens=3 + 2 * rank, do_sample=False)
                model.train()
                logits, _ = model.labelled_logits(config)
                logits.square().sum().backward()
                found.append([ids, logits, *(p.grad for _, p in adapter.trainable())])
                model.detach("run")
            for number, (one, other) in enumerate(zip(*found, strict=True)):
                if one.shape != other.shape or not torch.allclose(one, other, rtol=1e-4, atol=1e-4):
                    wrong.append(
                        f"{method}: result {number} is {one.flatten()[:9]}, not {other.flatten()[:9]}"
                    )
        wrong += [] if (fingerprint(base), checksum(base)) == digests else ["the hash is another"]
        if rank == 1:
            held(weight).view(-1)[:1].add_(1)
        same = fingerprint(base) == digests[0], checksum(base) == digests[1]
        wrong += ["an altered part is not found"] if any(same) else []
        with pytest.raises(AdapterError, match="part of the base"):
            AdaptedModel(base).merged()
    return wrong


def test_a_base_in_parts_computes_what_the_whole_does():
    """By every method: some read weights when they start, some in each pass, their site's or another's."""
    assert several(2, in_parts, tuple(name for name in TRAINED if name != "full")) == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in TRAINED if name != "full"])
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


@pytest.mark.slow
def test_an_altered_part_of_the_base_is_found(make_recipe, tmp_path):
    recipe = make_recipe("train.micro_batch_size=4", "train.max_steps=2", SHARD)
    for answer in several(2, train_altered, recipe, tmp_path / "run"):
        assert "base unchanged" in answer


def test_full_is_refused(make_recipe):
    with pytest.raises(RecipeError, match=r"full.*train.shard each process holds a part"):
        make_recipe(SHARD, methods=["full"])


@pytest.mark.slow
def test_full_is_found_out_where_nobody_refuses_it(make_recipe, tmp_path, monkeypatch):
    """Its copies stand in for parts that no pass looks at: nothing would be trained, and nothing said."""
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


@pytest.mark.slow
def test_resumed_on_two_and_on_one(make_recipe, tmp_path):
    """On two bit for bit; on one, which holds the base whole, to rounding."""
    recipe = make_recipe("train.micro_batch_size=4", "train.max_steps=5", "train.precision=fp32", SHARD)
    trained(recipe, tmp_path / "whole", 2)
    stopped = several(2, train_interrupted, recipe, tmp_path / "a")
    assert all("Stopped" in answer for answer in stopped), stopped
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    trained(recipe, tmp_path / "a", 2, resume=True)
    require_equal(tmp_path / "whole", tmp_path / "a", exactly=True)
    alone = make_recipe("train.micro_batch_size=4", "train.max_steps=5", "train.precision=fp32")
    trained(alone, tmp_path / "b", resume=True)
    require_equal(tmp_path / "whole", tmp_path / "b")


@pytest.mark.slow
def test_four_processes_and_a_classifier(make_classifier, tmp_path):
    """A step has two micro-batches, and the head is new; the finished run is evaluated by two."""
    changes = ("train.micro_batch_size=4", "train.max_steps=4", "train.gradient_checkpointing=true")
    trained(make_classifier(*changes, methods=["ia3"]), tmp_path / "one")
    trained(make_classifier(*changes, SHARD, methods=["ia3"]), tmp_path / "four", 4)
    require_equal(tmp_path / "one", tmp_path / "four")
    first, second = several(2, evaluated, tmp_path / "four")
    assert first == second == evaluated(0, tmp_path / "one")


@pytest.mark.slow
def test_rows_that_share_a_loss(make_recipe, bert_folder, tmp_path):
    content = {
        "task": "embedding",
        "model": str(bert_folder),
        "methods": [dropping("lora")],
        "evaluation": {"batch_size": 4},
    }
    changes = ("train.micro_batch_size=3", "train.precision=fp32")
    trained(make_recipe(*changes, **content), tmp_path / "one")
    trained(make_recipe(*changes, SHARD, **content), tmp_path / "two", 2)
    require_equal(tmp_path / "one", tmp_path / "two")
