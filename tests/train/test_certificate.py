"""The certificate: what a sound run proves, and that each line fails on what it is there to find."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)
from transformers.models.bert.modeling_bert import BertPooler

from deltatune.checkpoint import store
from deltatune.checkpoint.inspection import inspect
from deltatune.core.adapter import Adapter
from deltatune.core.delta import Delta
from deltatune.core.fast import lean_attention
from deltatune.core.sites import BaseView
from deltatune.data.encode import Encoder
from deltatune.errors import TrainingError
from deltatune.methods.adalora import AdaLoraAdapter
from deltatune.methods.diff_pruning import DiffPruningAdapter
from deltatune.methods.lora import LoraConfig, low_rank_product
from deltatune.models import load
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.runs import merge
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from deltatune.training import Context, run

Make = Callable[..., Recipe]
Patch = pytest.MonkeyPatch
BASE = "training logits are the base's"
ALONE = "same alone as in a batch"
LINES = [
    "targets reached", "supervised labels", BASE, ALONE, "every tap fired", "gradient in every part",
    "every part changed in step one", "final budget", "logits moved", "same after reload", "base unchanged",
]  # fmt: skip
FIRST = "encoder.block.0.layer.0.SelfAttention.q"
deltas, delta_at, collate = LoraConfig.deltas, LoraConfig.delta, Encoder.collate
write_tensors = store.write_tensors


def certificate(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
    return found


def a_selector_that_is_ignored(patch: Patch) -> None:
    patch.setattr(
        LoraConfig, "deltas", lambda self, view: {p: self.delta(view, p) for p in view.select(["query"])}
    )


def labels_that_mask_their_end(patch: Patch) -> None:
    """What comparing labels with the pad id does to tokenizers that pad with their end token."""

    def masked(self: Encoder, features: Any) -> Any:
        batch = collate(self, features)
        return batch | {"labels": batch["labels"].masked_fill(batch["labels"] == self.eos_ids[0], -100)}

    patch.setattr(Encoder, "collate", masked)


def a_tap_at_an_unused_module(patch: Patch) -> None:
    def more(self: LoraConfig, view: BaseView) -> dict[str, Delta]:
        view.modules["unused"] = nn.Linear(32, 32)
        return deltas(self, view) | {"unused": self.delta(view, "unused")}

    patch.setattr(LoraConfig, "deltas", more)


def at_the_first_site(patch: Patch, spoil: Callable[[Any, nn.Module], None]) -> None:
    """Let `spoil` change the delta, given the base's module, at one of the twelve sites."""

    def spoilt(self: LoraConfig, view: BaseView, path: str) -> Delta:
        delta = delta_at(self, view, path)
        if path == FIRST:
            spoil(delta, view.modules[path])
        return delta

    patch.setattr(LoraConfig, "delta", spoilt)


def a_detached_parameter(patch: Patch) -> None:
    def spoil(delta: Any, module: nn.Module) -> None:
        a, b = delta.lora_A.weight, delta.lora_B.weight
        delta.forward = lambda x, y: y + low_rank_product(x, a.detach(), b.detach(), delta.scale)

    at_the_first_site(patch, spoil)


def a_part_without_a_rate(patch: Patch) -> None:
    patch.setattr(Adapter, "lr_factor", lambda self, name: float(not name.startswith("_delta_list.0.")))


def a_budget_that_is_never_allocated(patch: Patch) -> None:
    patch.setattr(AdaLoraAdapter, "_allocate", lambda self, budget: None)


def entries_that_are_never_chosen(patch: Patch) -> None:
    patch.setattr(DiffPruningAdapter, "_project", lambda self: None)


def a_schedule_that_does_not_end(patch: Patch) -> None:
    patch.setattr(Adapter, "settled", property(lambda self: False))


def a_rate_lost_in_rounding(patch: Patch) -> None:
    """Parts change, from zero to something, and no logit does."""
    patch.setattr(Adapter, "lr_factor", lambda self, name: 1e-28)


def a_store_that_loses_a_tensor(patch: Patch) -> None:
    """It writes all of them when saving is rehearsed, before the first step."""
    written: list[Path] = []

    def lossy(path: Path, found: dict[str, torch.Tensor]) -> None:
        written.append(path)
        write_tensors(path, dict(list(found.items())[len(written) > 1 :]))

    patch.setattr(store, "write_tensors", lossy)


def a_store_that_loses_values(patch: Patch) -> None:
    """The names and shapes are all there, so only the logits tell."""

    def zeroed(path: Path, found: dict[str, torch.Tensor]) -> None:
        last = next(name for name in found if "lora_B" in name)
        write_tensors(path, found | {last: torch.zeros_like(found[last])})

    patch.setattr(store, "write_tensors", zeroed)


def a_delta_that_writes_into_the_base(patch: Patch) -> None:
    def spoil(delta: Any, module: nn.Module) -> None:
        forward = delta.forward

        def written(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if delta.training:
                next(module.parameters()).data[0, 0] += 1e-3
            result: torch.Tensor = forward(x, y)
            return result

        delta.forward = written

    at_the_first_site(patch, spoil)


@pytest.mark.parametrize(
    ("broken", "method", "line", "finding"),
    [
        (a_selector_that_is_ignored, "lora", "targets reached", "'value' reached no module"),
        (labels_that_mask_their_end, "lora", "supervised labels", "0.0% of which end with the end token"),
        (a_tap_at_an_unused_module, "lora", "every tap fired", "1 of 13 did not, first unused"),
        (a_detached_parameter, "lora", "gradient in every part", f"none in 1 part of 12, first {FIRST}"),
        (
            a_part_without_a_rate,
            "lora",
            "every part changed in step one",
            f"1 part of 12 did not, first {FIRST}",
        ),
        (a_budget_that_is_never_allocated, "adalora", "final budget", "144 of 96 singular values"),
        (entries_that_are_never_chosen, "diff_pruning", "final budget", "of 205 entries"),
        (a_schedule_that_does_not_end, "lora", "final budget", "not reached"),
        (a_rate_lost_in_rounding, "lora", "logits moved", "the delta moves them by up to 0"),
        (a_store_that_loses_a_tensor, "lora", "same after reload", "cannot be read back: .*1 missing"),
        (a_store_that_loses_values, "lora", "same after reload", "logits differ by up to"),
        (a_delta_that_writes_into_the_base, "lora", "base unchanged", "before, .* after"),
    ],
)
def test_a_line_that_fails_ends_the_run(  # noqa: PLR0917
    make_recipe: Make, tmp_path: Path, monkeypatch: Patch, broken: Any, method: str, line: str, finding: str
) -> None:
    steps = 2 if method == "lora" else 8
    recipe = make_recipe(f"train.max_steps={steps}", "evaluation.max_new_tokens=2", methods=[method])
    context = Context.open(recipe, Silent())
    with monkeypatch.context() as patch:
        broken(patch)
        with pytest.raises(TrainingError, match=f"certificate: {line}: .*{finding}") as raised:
            run(recipe, recipe.methods[0], 0, tmp_path / "run", context=context)
    assert raised.value.remedy
    found = certificate(tmp_path / "run")
    assert not found["passed"]
    assert [entry["check"] for entry in found["lines"]] == LINES[: LINES.index(line) + 1]
    *good, last = found["lines"]
    assert all(entry["passed"] for entry in good)
    assert (last["passed"], last["remedy"]) == (False, raised.value.remedy)
    result = json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8"))
    assert result["status"] == "failed"
    assert result["error"] == {"kind": "TrainingError", "message": str(raised.value)}
    assert not list((tmp_path / "run").glob(".*"))
    if broken is a_delta_that_writes_into_the_base:  # the next run gets a sound base
        run(recipe, recipe.methods[0], 0, tmp_path / "run", context=context, resume=True)
        assert certificate(tmp_path / "run")["passed"]


def test_a_sound_run_proves_every_line(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(methods=[{"lora": {"targets": ["decoder.query", "value"]}}])
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    found = certificate(tmp_path / "run")
    assert found["passed"]
    assert [line["check"] for line in found["lines"]] == LINES
    assert found["lines"] == [line.as_dict() for line in result.certificate]
    values = {line["check"]: line["values"] for line in found["lines"]}
    # self-attention of the decoder's two layers; values of the six attentions
    assert values["targets reached"]["selectors"] == {"decoder.query": 2, "value": 6}
    total, within = result.cost.total_parameters, 8 * 32 * 32
    assert values["targets reached"]["share"] == within / total
    supervised = values["supervised labels"]
    assert supervised["tokens"] == result.data.supervised_tokens
    assert supervised["ended"] == supervised["rows"] == result.data.train
    assert values["every tap fired"]["sites"] == values["gradient in every part"]["parts"] == 8
    assert values["same after reload"]["difference"] == 0
    assert values["logits moved"]["effect"] == values["same after reload"]["effect"]
    assert 0 < values["same after reload"]["limit"] < values["same after reload"]["effect"]
    assert values["base unchanged"]["before"] == values["base unchanged"]["after"]
    shown, alone = inspect(tmp_path / "run"), inspect(tmp_path / "run/adapter")
    assert shown.certificate.as_dict() == alone.certificate.as_dict() == found
    assert shown.certified
    assert found["delta"]["sha256"] == shown.sha256


def classifying(make_recipe: Make, folder: Path, *methods: Any) -> Recipe:
    """Text classification with a BERT of two layers."""
    tokenizer = tiny_tokenizer("bert")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_labels=8,
        intermediate_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return make_recipe(
        "train.max_steps=2",
        "train.precision=fp32",
        task="text-classification",
        model=str(folder),
        methods=list(methods),
        evaluation={"batch_size": 8},
    )


def test_nothing_but_a_head(make_recipe: Make, tmp_path: Path) -> None:
    """A run whose only trained part is a new classifier, and one of the untuned base."""
    ia3 = {"ia3": {"targets": [], "feedforward": []}}
    recipe = classifying(make_recipe, tmp_path / "bert", ia3, "untuned")
    for entry in recipe.methods:
        run(recipe, entry, 0, tmp_path / entry.method)
    lines = {line["check"]: line["detail"] for line in certificate(tmp_path / "ia3")["lines"]}
    assert list(lines) == LINES
    assert lines["targets reached"].startswith("new heads classifier; 264 of")
    assert lines["supervised labels"] == "28 of 28 rows have a label"
    assert [line["check"] for line in certificate(tmp_path / "untuned")["lines"]] == [ALONE, *LINES[-2:]]


def test_a_classifier_that_reads_more_than_is_computed(
    make_recipe: Make, tmp_path: Path, monkeypatch: Patch
) -> None:
    """What would happen if a later version of Transformers took the mean where it takes the first now."""
    recipe = classifying(make_recipe, tmp_path / "bert", "lora")
    mean = lambda self, hidden: self.activation(self.dense(hidden.mean(dim=1)))  # noqa: E731
    monkeypatch.setattr(BertPooler, "forward", mean)
    with pytest.raises(TrainingError, match=f"{BASE}: logits differ .*something else here"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert not certificate(tmp_path / "run")["passed"]


@pytest.fixture(scope="module")
def unmatched_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose config names another padding token than its tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = tiny_tokenizer("llama")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=5, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["lora", "untuned"])
def test_a_row_alone_is_a_row_in_a_batch(
    make_recipe: Make, tmp_path: Path, unmatched_llama: Path, monkeypatch: Patch, method: str
) -> None:
    """A decoder that classifies reads the token before the first padding, by the id in its config."""

    def outcome(batch_size: int, micro_batch_size: int = 8) -> dict[str, Any]:
        recipe = make_recipe(
            "train.max_steps=2",
            "train.precision=fp32",
            f"train.micro_batch_size={micro_batch_size}",
            f"evaluation.batch_size={batch_size}",
            task="text-classification",
            model=str(unmatched_llama),
            methods=[method],
            evaluation={},
        )
        return run(recipe, recipe.methods[0], 0, tmp_path / "run", overwrite=True)

    found = [outcome(size) for size in (8, 1)]
    line = next(line for line in found[0].certificate if line.check == ALONE)
    assert line.values["rows"] == 3
    assert line.values["difference"] < 1e-6
    assert found[0].metrics.test == pytest.approx(found[1].metrics.test)

    def unmatched(model: Any, tokenizer: Any, name: str) -> list[str]:
        tokenizer.pad_token = tokenizer.eos_token
        return []

    monkeypatch.setattr(load, "set_padding", unmatched)
    with pytest.raises(TrainingError, match=f"{ALONE}: 3 rows of .* logits differ by") as raised:
        outcome(8)
    assert "evaluation.batch_size and train.micro_batch_size to 1" in raised.value.remedy
    assert all(line.passed for line in outcome(1, 1).certificate), "as the remedy says"


@pytest.mark.parametrize("task", ["text-to-text", "causal-lm"])
def test_a_generating_model_that_takes_padding_for_text(  # noqa: PLR0917
    make_recipe: Make, tmp_path: Path, t5_folder: Path, llama_folder: Path, monkeypatch: Patch, task: str
) -> None:
    """Prompts are padded on the left when a text is generated, and on the right when losses are computed."""
    folder = t5_folder if task == "text-to-text" else llama_folder
    recipe = make_recipe("train.max_steps=2", task=task, model=str(folder))
    padded = Encoder.collate_prompts if task == "causal-lm" else Encoder.collate

    def unmasked(self: Encoder, features: Any) -> Any:
        batch = padded(self, features)
        return batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}

    monkeypatch.setattr(Encoder, padded.__name__, unmasked)
    with pytest.raises(TrainingError, match=f"{ALONE}: 3 rows of"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")


def test_a_part_that_computes_something_else_in_training(
    make_recipe: Make, tmp_path: Path, monkeypatch: Patch
) -> None:
    lean = lean_attention.attention
    monkeypatch.setattr(
        lean_attention, "attention", lambda *args, **named: (lean(*args, **named)[0] * 2, None)
    )
    recipe = make_recipe(methods=["lora"])
    with pytest.raises(TrainingError, match=f"{BASE}: logits differ"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")


def test_a_merged_model_carries_the_certificate(
    make_recipe: Make, tmp_path: Path, monkeypatch: Patch
) -> None:
    recipe = make_recipe("train.max_steps=2", "train.lr=0.05")
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    merge(tmp_path / "run", tmp_path / "merged")
    found = certificate(tmp_path / "merged")
    assert found["passed"]
    assert [line["check"] for line in found["lines"]] == [*LINES, "merged model is the same"]
    shown = inspect(tmp_path / "merged").as_dict()
    assert shown == {"files": "as they were written", "certificate": found}

    from deltatune.methods.lora import LoraDelta

    original = LoraDelta.fold

    def half(self: LoraDelta, weight: torch.Tensor, bias: Any) -> Any:
        return (weight + original(self, weight, bias)[0]) / 2, bias

    monkeypatch.setattr(LoraDelta, "fold", half)
    with pytest.raises(TrainingError, match="merged model is the same: logits differ"):
        merge(tmp_path / "run", tmp_path / "wrong")
    assert {path.name for path in (tmp_path / "wrong").iterdir()} == {"certificate.json", "manifest.json"}
    assert not certificate(tmp_path / "wrong")["passed"]
    assert certificate(tmp_path / "wrong")["lines"][-1]["remedy"]


@pytest.mark.parametrize("method", ["untuned", "lora"])
def test_weights_of_the_base_that_are_not_finite_are_named(
    method: str, make_recipe: Callable[..., Recipe], t5_folder: Path, tmp_path: Path
) -> None:
    """A lower learning rate, which the loss alone would have asked for, mends nothing of this."""
    base = shutil.copytree(t5_folder, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    tensors[name][0, 0] = float("nan")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    recipe = make_recipe("train.max_steps=1", model=str(base), methods=[method])
    with pytest.raises(TrainingError, match=rf"model: the base's weights are not finite: {name}"):
        run(recipe, recipe.methods[0], 0, tmp_path / "run")
