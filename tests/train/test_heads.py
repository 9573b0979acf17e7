"""New heads: their start, their rate, and the baselines that consist of one."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from deltatune.checkpoint.saved import read_adapter
from deltatune.core.model import AdaptedModel
from deltatune.core.new_heads import start_heads_
from deltatune.errors import RecipeError, TargetError
from deltatune.methods import METHODS
from deltatune.models.fingerprint import fingerprint
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.recipe.rates import Course
from deltatune.recipe.train_section import HEAD_LR, TrainSpec
from deltatune.runs import evaluate_run, predict
from deltatune.testing import tiny
from deltatune.training import Context, run
from deltatune.training.loop.optimizer import Rates, build_optimizer

Make = Callable[..., Recipe]


def predictions(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("architecture", tiny.CLASSIFIERS)
def test_a_head_starts_from_the_seed_and_the_base_keeps_its_own(architecture: str) -> None:
    model = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    before, batch = fingerprint(model.base), tiny.batch(architecture)
    for method in ("untuned", "lora", "full"):
        logits = []
        for seed in (0, 1, 0):
            start_heads_(model.attach("a", METHODS.get(method)(), seed=seed), model.view, seed)
            logits.append(model.class_logits(batch))
            model.detach("a")
        assert torch.equal(logits[0], logits[2])
        assert (logits[0] - logits[1]).abs().max() > 1e-2
    assert fingerprint(model.base) == before


def test_untuned_runs_of_two_seeds_differ_and_come_back_as_they_were(
    make_classifier: Make, tmp_path: Path
) -> None:
    """Version 0.1 gave every seed the head of seed 0, so that untuned predictions were equal to the byte."""
    recipe = make_classifier(methods=["untuned"], seeds=[0, 1])
    context = Context.open(recipe, Silent())
    results = [run(recipe, recipe.methods[0], seed, tmp_path / str(seed), context=context) for seed in (0, 1)]
    first, second = (predictions(tmp_path / str(seed)) for seed in (0, 1))
    assert [row["nll"] for row in first] != [row["nll"] for row in second]
    assert [result.cost.trained_parameters for result in results] == [0, 0]
    assert all(line.passed for result in results for line in result.certificate)
    assert results[0].model.fingerprint == results[1].model.fingerprint
    for seed, result in enumerate(results):
        assert evaluate_run(tmp_path / str(seed)) == pytest.approx(result.metrics.test, rel=1e-6)
    [again] = predict(tmp_path / "1", [second[0]["input"]])
    assert again.prediction == second[0]["prediction"]


def test_an_untuned_run_of_version_0_1_is_evaluated_as_it_was(make_classifier: Make, tmp_path: Path) -> None:
    """Its file has no head: the base's own answers."""
    recipe = make_classifier(methods=["untuned"])
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    model = Context.open(recipe, Silent()).base(recipe.methods[0]).adapted()
    model.attach("old", METHODS.get("untuned")(), heads=())
    shutil.rmtree(tmp_path / "run/adapter")
    (tmp_path / "run/manifest.json").unlink()
    model.save(tmp_path / "run/adapter")
    assert not read_adapter(tmp_path / "run/adapter").tensors
    assert evaluate_run(tmp_path / "run")["loss"] != pytest.approx(result.metrics.test["loss"])


@pytest.mark.parametrize("method", ["lora", "lora_plus", "full"])
def test_the_head_learns_at_a_rate_of_its_own(method: str) -> None:
    model = AdaptedModel(tiny.model("bert"), tiny.heads("bert"))
    adapter, spec = model.attach("a", METHODS.get(method)()), TrainSpec(lr=1e-4, head_lr=5e-3)
    course = Course(1000, "text", 64)
    rates = Rates.of(spec, model.configs["a"], course)
    optimizer = build_optimizer(adapter, model.view, spec, rates, model.device, Silent())
    rates.set(optimizer, adapter, 0.5)
    head = {id(p) for path, p in adapter.own.items() if path.startswith("classifier.")}
    head |= {id(p) for path in adapter.heads() for p in adapter.deltas[path].parameters()}
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert head
    assert {found.pop(key) for key in head} == {2.5e-3}
    assert min(found.values()) == 5e-5
    old = Rates.of(TrainSpec(lr=1e-4, head_lr="lr"), model.configs["a"], course)
    assert len(build_optimizer(adapter, model.view, spec, old, model.device, Silent()).param_groups) == (
        2 if method == "lora_plus" else 1
    )
    assert Rates.of(TrainSpec(), METHODS.get("lora")(), course) == Rates(1e-3, HEAD_LR)


def test_head_and_majority_runs(make_classifier: Make, tmp_path: Path) -> None:
    recipe = make_classifier("train.head_lr=0.01", methods=["head", "majority"])
    context = Context.open(recipe, Silent())
    head, majority = (
        run(recipe, entry, 0, tmp_path / entry.name, context=context) for entry in recipe.methods
    )
    assert head.cost.trained_parameters == 32 * 8 + 8
    assert head.rates.head_lr == 0.01
    dataset = context.dataset
    counts = Counter(row.target for row in dataset.train)
    assert {row["prediction"] for row in predictions(tmp_path / "majority")} <= {
        label for label, count in counts.items() if count == max(counts.values())
    }
    assert majority.cost.trained_parameters == majority.cost.train_seconds == 0
    shares = {label: (counts[label] + 1) / (len(dataset.train) + 8) for label in dataset.labels or []}
    for row in predictions(tmp_path / "majority"):
        assert row["nll"] == pytest.approx(-torch.tensor(shares[row["reference"]]).log().item(), rel=1e-5)
    assert evaluate_run(tmp_path / "majority") == pytest.approx(majority.metrics.test, rel=1e-6)


@pytest.mark.parametrize("method", ["head", "majority"])
def test_they_are_for_classifiers(method: str) -> None:
    with pytest.raises(TargetError, match="no head that tells classes apart"):
        AdaptedModel(tiny.model("t5")).attach("a", METHODS.get(method)())


def test_the_head_of_a_base_that_brings_one_is_trained_as_it_is() -> None:
    model = AdaptedModel(tiny.model("roberta"))
    adapter = model.attach("a", METHODS.get("head")())
    assert adapter.heads() == ["classifier.dense", "classifier.out_proj"]
    own = model.view.modules["classifier.dense"].weight
    assert torch.equal(dict(adapter.deltas["classifier.dense"].named_parameters())["copy.weight"], own)


def test_a_run_of_version_0_1_goes_on_as_it_began_or_says_what_to_do(
    make_classifier: Make, tmp_path: Path
) -> None:
    """There a new head learned at its method's own rate, and the recipe had no field for it."""

    class Stop(Silent):
        def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
            if task == "Training" and numbers:
                self.seen = getattr(self, "seen", 0) + 1
                if self.seen == 2:
                    raise KeyboardInterrupt

    changes = ("train.max_steps=4", "train.checkpoint_every=1")
    before = make_classifier(*changes, "train.head_lr=lr")
    whole = run(before, before.methods[0], 0, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(before, before.methods[0], 0, tmp_path / "run", observer=Stop())
    stored = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text(encoding="utf-8"))
    del stored["train"]["head_lr"]
    (tmp_path / "run/recipe.yaml").write_text(yaml.safe_dump(stored, sort_keys=False), encoding="utf-8")
    now = make_classifier(*changes)
    with pytest.raises(RecipeError, match=r"--set train\.head_lr=lr"):
        run(now, now.methods[0], 0, tmp_path / "run", resume=True)
    gone_on = run(before, before.methods[0], 0, tmp_path / "run", resume=True)
    assert gone_on.metrics == whole.metrics


def test_recipes_of_other_tasks_have_no_such_rate(make_recipe: Make, tmp_path: Path) -> None:
    for changes in (["train.head_lr=0.1"], ["tune={head_lr: 3}"], ["grid={train.head_lr: [0.1, 0.2]}"]):
        with pytest.raises(RecipeError, match="text-to-text has none"):
            make_recipe(*changes)
    recipe = make_recipe("train.max_steps=1")
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    path = tmp_path / "run/recipe.yaml"
    stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    del stored["train"]["head_lr"]  # as version 0.1 wrote it
    path.write_text(yaml.safe_dump(stored, sort_keys=False), encoding="utf-8")
    assert run(recipe, recipe.methods[0], 0, tmp_path / "run", resume=True).status == "done"
