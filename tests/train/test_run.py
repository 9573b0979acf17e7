"""Whole runs: files, resuming, precision of accumulation, early stopping, certificates."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deltatune.errors import DeltatuneError, RecipeError, TargetError, TrainingError
from deltatune.methods import METHODS
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.runs import Failed, evaluate_run, predict
from deltatune.runs.load import load_run
from deltatune.training import plan, run

Make = Callable[..., Recipe]


class StopAfter(Silent):
    """Presses Ctrl-C after a number of training steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, task: str, amount: int = 1, numbers: dict[str, float] | None = None) -> None:
        if task == "Training" and numbers:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_times(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in log]


def methods_for_a_run() -> list[Any]:
    """One method of each kind by default; the others, which the contract saves and loads, too, are slow."""
    kinds = ("lora", "adalora", "prefix", "prompt", "hard_prompt", "diff_pruning", "full", "head", "untuned")
    names = [name for name in METHODS.names() if name != "loftq"]
    return [pytest.param(name, marks=[] if name in kinds else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize("method", methods_for_a_run())
def test_a_run_leaves_what_the_readme_promises(
    make_recipe: Make, make_classifier: Make, tmp_path: Path, method: str
) -> None:
    methods = [{method: {"peft_type": "LOHA"} if method == "peft" else {}}]
    # Three rows are padded otherwise than ten, which in bfloat16 can turn a near tie of two tokens.
    make = make_classifier if method in ("majority", "head") else make_recipe
    recipe = make("train={epochs: 2, batch_size: 8, lr: 0.01, precision: fp32}", methods=methods)
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "adapter", "certificate.json", "manifest.json", "metrics.jsonl", "predictions.jsonl", "recipe.yaml",
        "result.json",
    ]  # fmt: skip
    assert json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8")) == result.as_dict()
    assert result.cost.steps == (8 if METHODS.get(method).trains else 0)
    assert all(line.passed for line in result.certificate)
    predictions = lines(tmp_path / "run/predictions.jsonl")
    assert len(predictions) == result.data.test == 10
    again = evaluate_run(tmp_path / "run")
    assert again == pytest.approx(result.metrics.test, rel=1e-5, abs=1e-5)
    texts = [
        p["input"] for p in predictions
    ]  # all: fewer would be padded, and in bfloat16 rounded, otherwise
    assert [p.prediction for p in predict(tmp_path / "run", texts)] == [p["prediction"] for p in predictions]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_is_loaded_in_the_precision_of_its_training(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    recipe = make_recipe("train.precision=bf16", "train.max_steps=2", methods=[method])
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.model.dtype == "bfloat16"
    monkeypatch.setattr("deltatune.runs.load.computes_bfloat16", lambda _: True)
    loaded = load_run(tmp_path / "run")
    with loaded.model.using():
        assert next(loaded.model.base.parameters()).dtype == torch.bfloat16
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test, rel=1e-5, abs=1e-5)
    monkeypatch.setattr("deltatune.runs.load.computes_bfloat16", lambda _: False)
    loaded = load_run(tmp_path / "run")
    with loaded.model.using():
        assert next(loaded.model.base.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("stop_at", "method"), [(1, "adalora"), (4, "lora"), (4, "adalora"), (4, "full"), (6, "prefix")]
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    make_recipe: Make, tmp_path: Path, method: str, stop_at: int
) -> None:
    settings = {"dropout": 0.1} if method in ("lora", "adalora") else {}
    settings |= {"projection": True} if method == "prefix" else {}
    recipe = make_recipe(
        "train.micro_batch_size=3",
        "train.evaluate_every=3",
        "train.base_dropout=true",
        methods=[{method: settings}],
    )
    entry = recipe.methods[0]
    torch.manual_seed(7)  # whatever the process did before, a run has its own randomness
    whole = run(recipe, entry, 3, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, entry, 3, tmp_path / "parts", observer=StopAfter(stop_at))
    torch.manual_seed(1234)
    rest = run(recipe, entry, 3, tmp_path / "parts", resume=True)
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    proofs = [(tmp_path / part / "certificate.json").read_bytes() for part in ("whole", "parts")]
    assert proofs[0] == proofs[1]
    logs = [without_times(lines(tmp_path / part / "metrics.jsonl")) for part in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert rest.metrics == whole.metrics
    assert not (tmp_path / "parts/resume").exists()


def test_accumulation_equals_the_whole_batch(make_recipe: Make, tmp_path: Path) -> None:
    """Micro-batches hold different numbers of targets, so means of means would differ."""
    logs = []
    for size in ("null", "1", "3"):
        recipe = make_recipe(f"train.micro_batch_size={size}", "train.max_steps=5", "train.precision=fp32")
        run(recipe, recipe.methods[0], 0, tmp_path / size)
        logs.append([line["loss"] for line in lines(tmp_path / size / "metrics.jsonl") if "loss" in line])
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)
    assert logs[2] == pytest.approx(logs[0], rel=1e-5)


def test_gradient_checkpointing_changes_nothing(make_recipe: Make, tmp_path: Path) -> None:
    weights = []
    for flag in ("true", "false"):
        recipe = make_recipe(
            f"train.gradient_checkpointing={flag}", "train.max_steps=3", "train.precision=fp32",
            methods=[{"lora": {"dropout": 0.2}}],
        )  # fmt: skip
        run(recipe, recipe.methods[0], 0, tmp_path / flag)
        weights.append(load_file(tmp_path / flag / "adapter/adapter_model.safetensors"))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-6)


def test_the_best_validation_state_is_kept(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(  # rows stand in other batches where they are written, which bfloat16 shows
        "train.lr=0.5", "train.evaluate_every=1", "train.early_stopping=3", "train.epochs=6",
        "train.precision=fp32",
    )  # fmt: skip
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    found = [line for line in lines(tmp_path / "run/metrics.jsonl") if "validation" in line]
    for line in found:  # the loss of each row, summed over its tokens
        of_rows = sum(line["rows"]) / line["validation"]["tokens"]
        assert (len(line["rows"]), of_rows) == (10, pytest.approx(line["validation"]["loss"], rel=1e-4))
    best = min(found, key=lambda line: line["validation"]["loss"])
    assert result.selected.step == best["step"]
    assert result.metrics.validation == best["validation"]
    assert evaluate_run(tmp_path / "run", split="validation")["loss"] == pytest.approx(
        best["validation"]["loss"]
    )
    if result.selected.stopped_early:
        assert result.cost.steps == best["step"] + 3


def test_selection_by_a_generated_metric(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("evaluation.select_by=rougeL_f", "train.evaluate_every=4")
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert "rougeL_f" in result.metrics.validation


def test_adalora_reaches_exactly_its_budget(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(methods=[{"adalora": {"init_r": 6, "target_r": 4, "interval": 2}}])
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    sites = len(result.method_result) and 12  # query and value of 2 + 2 + 2 attention layers
    assert result.method_result["budget"] == result.method_result["target_budget"] == 4 * sites
    config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert sum(sum(mask) for mask in config["rank_pattern"].values()) == 4 * sites
    budgets = [line["budget"] for line in lines(tmp_path / "run/metrics.jsonl") if "budget" in line]
    assert budgets[0] == 6 * sites
    assert budgets[-1] == 4 * sites


def test_adalora_without_room_for_its_schedule_is_refused(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(methods=[{"adalora": {"tinit": 6, "tfinal": 4}}])
    with pytest.raises(RecipeError, match="6 steps"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert not (tmp_path / "run/result.json").exists()


def test_a_loss_that_is_not_finite_ends_the_run(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltatune.core.model import AdaptedModel

    original = AdaptedModel.labelled_logits

    def broken(self: AdaptedModel, batch: Any) -> Any:
        logits, targets = original(self, batch)
        return logits * float("nan"), targets

    monkeypatch.setattr(AdaptedModel, "labelled_logits", broken)
    recipe = make_recipe()
    with pytest.raises(TrainingError, match=r"train\.lr.*Lower the learning rate"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert not (tmp_path / "run/result.json").exists()


def test_a_delta_that_does_not_act_fails_the_run(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltatune.methods.lora import LoraDelta

    monkeypatch.setattr(LoraDelta, "forward", lambda self, x, y: y + 0 * self.lora_B.weight.sum())
    recipe = make_recipe()
    with pytest.raises(TrainingError, match="gradient in every part"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")


def test_a_finished_run_is_not_overwritten_silently(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1")
    first = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    with pytest.raises(RecipeError, match="--overwrite"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert run(recipe, recipe.methods[0], 0, tmp_path / "run", resume=True) == first
    other = make_recipe("train.max_steps=2")
    with pytest.raises(RecipeError, match="another length"):
        run(other, other.methods[0], 0, tmp_path / "run", resume=True)
    assert run(other, other.methods[0], 0, tmp_path / "run", overwrite=True).cost.steps == 2


def test_a_delta_that_cannot_be_saved_is_refused_before_the_first_step(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving is rehearsed: a run whose delta could not be written would be lost at its end."""

    def lost(*_: object) -> None:
        raise TargetError("this base has no such module.")

    recipe = make_recipe(methods=["lora"])
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    for part in ("to_peft", "from_peft_tensors"):
        with monkeypatch.context() as patch:
            patch.setattr(METHODS.get("lora"), part, lost)
            with pytest.raises(TargetError, match="no such module"):
                run(recipe, recipe.methods[0], 0, tmp_path / "run", overwrite=True)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert before == after
    assert not list((tmp_path / "run").glob(".*"))


def test_overwriting_costs_nothing_if_the_new_run_cannot_begin(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1")
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for broken in ("data.template='{nowhere}'", "model=./nowhere"):
        other = make_recipe(broken)
        with pytest.raises(DeltatuneError, match="nowhere"):
            run(other, other.methods[0], 0, tmp_path / "run", overwrite=True)
        assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["leaderboard.json", "runs/lora-s0"])
def test_the_folder_of_a_comparison_is_no_runs(make_recipe: Make, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)
    recipe = make_recipe("train.max_steps=1")
    with pytest.raises(RecipeError, match="holds a comparison"):
        run(recipe, recipe.methods[0], 0, tmp_path, overwrite=True)


def test_the_plan_says_what_the_run_does(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe()
    planned = plan(recipe, recipe.methods[0], 0)
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    for key in ("trained_parameters", "stored_parameters", "total_parameters", "steps"):
        assert planned[key] == getattr(result.cost, key)
    assert planned["supervised_tokens"] == result.data.supervised_tokens


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_precisions_learn_alike(make_recipe: Make, tmp_path: Path, precision: str, method: str) -> None:
    recipe = make_recipe(f"train.precision={precision}", methods=[method])
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    losses = [line["loss"] for line in lines(tmp_path / "run/metrics.jsonl") if "loss" in line]
    assert losses[-1] < losses[0]
    stored = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_trackers_get_what_the_log_has(make_recipe: Make, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = make_recipe("train.trackers=[tensorboard]")
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run/deltatune"))
    events.Reload()
    log = lines(tmp_path / "run/metrics.jsonl")
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(
        [line["loss"] for line in log if "loss" in line]
    )
    assert len(events.Scalars("validation/loss")) == 2


def test_a_tracker_that_is_not_installed_is_refused(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    recipe = make_recipe("train.trackers=[wandb]")
    with pytest.raises(RecipeError, match=r"wandb.*deltatune\[trackers\]"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")


def test_a_template_of_several_columns_takes_objects(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("train.max_steps=1", "data.template='{id}: {text}'", methods=["untuned"])
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    [one] = predict(tmp_path / "run", ['{"id": "7", "text": "0 Name: Ivan"}'])
    assert one.input == "7: 0 Name: Ivan"
    for text in ("0 Name: Ivan", "[1]"):
        [refused] = predict(tmp_path / "run", [text])
        assert isinstance(refused, Failed)
        assert "the run's template names id, text" in refused.error


def test_more_epochs_of_a_finished_run_are_refused_with_what_to_do(make_recipe: Make, tmp_path: Path) -> None:
    recipe, longer = make_recipe("train.epochs=1"), make_recipe("train.epochs=2")
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    with pytest.raises(RecipeError, match=r"train\.epochs 1 there, 2 here.*another --out"):
        run(longer, longer.methods[0], 0, tmp_path / "run", resume=True)
    other = make_recipe("train.epochs=2", "train.lr=0.5")
    with pytest.raises(RecipeError, match="differs in train"):
        run(other, other.methods[0], 0, tmp_path / "run", resume=True)
