"""What is lost by a delta, measured at the end of runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, T5ForConditionalGeneration

from deltatune.comparison.runner import compare
from deltatune.data.general import read_general
from deltatune.data.tokens import TextTokens
from deltatune.errors import DataError
from deltatune.evaluation import general, latency
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.report.load import load
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from deltatune.training import Context, run
from deltatune.training.single.lost import documents_of
from tests.train.test_run import StopAfter

Make = Callable[..., Recipe]
TEXTS = ["the quick brown fox jumps", "medals by nation and year", "In the third quarter, net sales", "a fox"]


@pytest.fixture
def make_decoder(make_recipe: Make, llama_folder: Path, tmp_path: Path) -> Make:
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(TEXTS), encoding="utf-8")

    def make(*overrides: str, **sections: Any) -> Recipe:
        content: dict[str, Any] = {
            "task": "causal-lm", "model": str(llama_folder),
            "train": {"max_steps": 4, "batch_size": 4, "lr": 0.05, "precision": "fp32"},
            "evaluation": {"max_new_tokens": 2, "batch_size": 8, "general": str(path), "metrics": ["loss"],
                           "primary": "loss"},
        } | sections  # fmt: skip
        return make_recipe(*overrides, **content)

    return make


@pytest.mark.parametrize("seeds", [[0], pytest.param([0, 1], marks=pytest.mark.slow)])
def test_a_comparison_measures_each_base_once(
    make_decoder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: list[int]
) -> None:
    calls, losses = [], general.losses

    def counted(model: Any, *rest: Any) -> Any:
        calls.append(model.active)
        return losses(model, *rest)

    monkeypatch.setattr(general, "losses", counted)
    monkeypatch.setattr(latency, "TURNS", 4)
    methods = ["untuned", "lora", {"prompt": {"n_tokens": 2}}]
    recipe = make_decoder("evaluation.latency=true", methods=methods, seeds=seeds)
    board = compare(recipe, tmp_path / "out")
    assert calls.count(()) == 1
    assert len(calls) == 1 + 2 * len(seeds)  # an untuned run has nothing to measure beside the base
    rows = {row.name: row for row in board.rows}
    lost = {name: row.lost for name, row in rows.items()}
    assert lost["untuned"].general.difference == 0
    assert lost["untuned"].latency is None
    assert {each.general.base for each in lost.values()} == {lost["untuned"].general.base}
    assert lost["lora"].general.documents == len(TEXTS)
    assert lost["lora"].general.low < lost["lora"].general.difference < lost["lora"].general.high
    assert lost["lora"].latency.merged.low <= lost["lora"].latency.merged.median
    assert (lost["lora"].latency.tokens, lost["lora"].latency.turns) == (latency.WRITTEN, 4)
    assert lost["prompt"].latency.merged is None
    assert lost["prompt"].latency.not_merged == "adds tokens and cannot be written into weights"
    of_seeds = []
    for folder in rows["lora"].runs:
        lines = [json.loads(line) for line in (tmp_path / "out" / folder / "general.jsonl").open()]
        of_seeds.append(
            sum(line["delta"] - line["base"] for line in lines) / sum(line["tokens"] for line in lines)
        )
    assert lost["lora"].general.difference == pytest.approx(sum(of_seeds) / len(seeds))
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "What is lost</h2>" in page
    [shown] = [method for method in load(tmp_path / "out").methods if method.name == "lora"]
    assert shown.row.lost == lost["lora"]


def test_a_run_that_goes_on_has_lost_the_same(make_decoder: Make, tmp_path: Path) -> None:
    recipe = make_decoder(methods=["lora"])
    whole = run(recipe, recipe.methods[0], 0, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, recipe.methods[0], 0, tmp_path / "parts", observer=StopAfter(2))
    parts = run(recipe, recipe.methods[0], 0, tmp_path / "parts", resume=True)
    assert parts.lost == whole.lost
    assert parts.lost.general.difference != 0
    files = [(tmp_path / name / "general.jsonl").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_a_text_that_has_changed_is_no_common_measure(make_decoder: Make, tmp_path: Path) -> None:
    recipe = make_decoder(methods=["lora", {"lora": {"r": 2}, "name": "small"}])
    compare(recipe, tmp_path / "out")
    (tmp_path / "out/leaderboard.json").unlink()
    (tmp_path / "out/report.html").unlink()
    (tmp_path / "out/runs/small-s0/result.json").unlink()
    (tmp_path / "texts.txt").write_text("Another text.", encoding="utf-8")
    with pytest.raises(DataError, match=r"evaluation\.general: has changed"):
        compare(recipe, tmp_path / "out")


def test_a_base_without_such_a_loss_is_told(make_recipe: Make, tmp_path: Path, t5_folder: Path) -> None:
    """The tiny T5 has no sentinels in its vocabulary, as translators and BART have none."""
    warned: list[str] = []
    base = T5ForConditionalGeneration.from_pretrained(t5_folder)
    tokens = TextTokens(AutoTokenizer.from_pretrained(t5_folder))
    asked: Any = SimpleNamespace(
        context=SimpleNamespace(general=read_general("bundled"), warn=warned.append),
        model=SimpleNamespace(base=base), encoder=SimpleNamespace(tokens=tokens),
    )  # fmt: skip
    assert documents_of(asked) is None
    assert warned[0].startswith(
        "evaluation.general: T5ForConditionalGeneration was not trained on plain text"
    )
    with pytest.raises(DataError, match=r"none\.txt"):
        Context.open(make_recipe(f"evaluation.general={tmp_path}/none.txt"), Silent())


@pytest.mark.slow
def test_a_classifier_is_timed_by_its_passes(
    make_classifier: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "TURNS", 3)
    recipe = make_classifier("evaluation.latency=true", "evaluation.batch_size=4")
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.lost.general is None
    assert result.lost.latency.tokens is None
    assert result.lost.latency.merged is not None
    assert all(line.passed for line in result.certificate)


def test_an_answer_ends_where_the_positions_do(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A table of positions has no more rows than prompts and what the recipe lets be written may take."""
    monkeypatch.setattr(latency, "TURNS", 2)
    tokenizer = tiny_tokenizer("llama")
    sizes: dict[str, int] = {"n_positions": 24, "n_embd": 8, "n_layer": 1, "n_head": 1}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    base = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ends))
    for part in (base, tokenizer):
        part.save_pretrained(tmp_path / "base")
    recipe = make_recipe(
        "data.max_input_tokens=20", "data.max_target_tokens=4", task="causal-lm",
        model=str(tmp_path / "base"), train={"max_steps": 1, "batch_size": 4, "precision": "fp32"},
        evaluation={"max_new_tokens": 4, "metrics": ["loss"], "latency": True},
    )  # fmt: skip
    transformers_logger = logging.getLogger("transformers")
    monkeypatch.setattr(transformers_logger, "propagate", True)
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.lost.latency.tokens == 4
    assert "min_new_tokens" not in caplog.text


def test_ratios_are_of_turns() -> None:
    found = latency.ratio([2.0, 3.0, 8.0, 4.0, 5.0], [1.0, 2.0, 4.0, 2.0, 5.0])
    assert found.median == 2.0
    assert 1.0 <= found.low < found.median <= found.high == 2.0
