"""Several base models in one comparison: each with its own tokenizer, its weights loaded once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from deltatune.comparison.runner import compare
from deltatune.errors import RecipeError
from deltatune.observer import Silent
from deltatune.recipe import Recipe, load_recipe
from deltatune.report import render
from deltatune.runs import evaluate_run
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from deltatune.training import Context, plan
from deltatune.training.before.preview import preview
from deltatune.training.given import context

Make = Callable[..., Recipe]


@pytest.fixture(scope="session")
def bart_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny BART whose tokenizer has other special tokens than T5's."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bart"
    tokenizer = tiny_tokenizer("bart")
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=128,
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def both(make_recipe: Make, t5_folder: Path, bart_folder: Path) -> Make:
    """Build the tiny recipe on T5 and BART."""

    def make(*overrides: str, **sections: Any) -> Recipe:
        return make_recipe(*overrides, **{"model": [str(t5_folder), str(bart_folder)]} | sections)

    return make


class Stages(Silent):
    """Remembers what was done."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, text: str) -> None:
        self.stages.append(text)


def test_each_entry_runs_on_each_model_with_its_own_tokenizer(
    both: Make, bart_folder: Path, tmp_path: Path
) -> None:
    methods = ["untuned", "lora", {"adalora": {}, "model": str(bart_folder), "name": "adalora"}]
    watched = Stages()
    board = compare(both(methods=methods), tmp_path / "out", observer=watched)
    short = Path(both().models[0].name).name
    names = [f"untuned {short}", "untuned tiny-bart", f"lora {short}", "lora tiny-bart", "adalora"]
    rows = {row.name: row for row in board.rows}
    assert sorted(rows) == sorted(names)
    assert all(row.status == "done" and row.rank >= 1 for row in board.rows)
    assert len(board.pairs) == 10
    assert board.models == [both().models[0].name, str(bart_folder)]
    loads = [stage for stage in watched.stages if stage.startswith("Loading")]
    assert loads == [f"Loading {name}" for name in board.models]  # each once, though entries alternate
    results = {
        name: json.loads((tmp_path / "out" / row.runs[0] / "result.json").read_text(encoding="utf-8"))
        for name, row in rows.items()
    }
    for name in names:
        wanted = str(bart_folder) if "bart" in name or name == "adalora" else board.models[0]
        assert rows[name].model == results[name]["model"]["name"] == wanted
    totals = {row.model: row.cost.total_parameters for row in board.rows}
    assert len(set(totals.values())) == 2
    # A run knows its own base: it is loaded again, with the tokenizer that made its predictions.
    run = tmp_path / "out" / rows["adalora"].runs[0]
    own = load_recipe(run / "recipe.yaml")
    assert (own.model.name, own.methods[0].model) == (str(bart_folder), None)
    again = evaluate_run(run)
    assert again == pytest.approx(results["adalora"]["metrics"]["test"], rel=1e-5, abs=1e-5)
    for form in ("html", "md", "csv", "json"):
        assert "tiny-bart" in render(tmp_path / "out", form)


def test_a_run_among_models_is_the_run_alone(
    both: Make, make_recipe: Make, bart_folder: Path, tmp_path: Path
) -> None:
    together = compare(both(), tmp_path / "both")
    alone = compare(make_recipe(model=str(bart_folder)), tmp_path / "alone")
    [row] = [row for row in together.rows if row.model == str(bart_folder)]
    assert row.metrics == alone.rows[0].metrics
    assert row.interval == alone.rows[0].interval


def test_of_one_model_at_a_time_anything_is_kept(both: Make) -> None:
    recipe = both()
    shared = Context.open(recipe, Silent())
    one, other = recipe.methods
    first, second = (shared.base(entry) for entry in recipe.methods)
    assert shared.base(other) is second
    assert shared.data(other, second).encoder.tokens.pad_id == 1
    assert shared.base(one) is not first  # it was let go
    assert shared.data(one, shared.base(one)).encoder.tokens.pad_id == 0


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_tokens_of_different_tokenizers_are_no_common_measure(
    both: Make, tmp_path: Path, metric: str
) -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.primary.*mean over tokens.*rougeL_f"):
        compare(both(f"evaluation.primary={metric}"), tmp_path / "out")
    assert not list(tmp_path.glob("out/runs/*"))


def test_halving_across_models_needs_a_common_measure(both: Make, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.select_by.*among: entry"):
        compare(both("halving={among: all}"), tmp_path / "out")


def test_models_of_one_tokenizer_are_ranked_by_loss(
    make_recipe: Make, t5_folder: Path, tmp_path: Path
) -> None:
    models = [str(t5_folder), {"name": str(t5_folder), "attention": "eager"}]
    board = compare(make_recipe("evaluation.primary=loss", model=models), tmp_path / "out")
    assert [row.rank for row in board.rows] == [1, 1]
    assert {row.name.endswith(" attention=eager") for row in board.rows} == {True, False}


def test_models_do_not_compete_in_halving(both: Make, tmp_path: Path) -> None:
    recipe = both(
        "halving={factor: 2}", "train.evaluate_every=2", methods=[{"lora": {}, "grid": {"r": [2, 4]}}]
    )
    board = compare(recipe, tmp_path / "out")
    assert [row.model for row in board.rows].count(recipe.models[0].name) == 1
    assert len(board.rows) == len(board.halving.stopped) == 2


def test_check_and_plan_look_at_every_model(both: Make, bart_folder: Path, monkeypatch: Any) -> None:
    recipe = both("data.max_input_tokens=24")
    found = preview(recipe, samples=1)
    assert [one.model for one in found.models] == [spec.name for spec in recipe.models]
    ends = [one.samples[0].tokens[-1].text for one in found.models]
    assert ends == ["</s>", "</s>"]
    starts = [one.samples[0].tokens[0].text for one in found.models]
    assert starts[1] == "<s>" != starts[0]
    assert any(f"of {bart_folder} and are cut off" in warning for warning in found.warnings)
    loaded: list[str] = []
    load_base = context.load_base
    monkeypatch.setattr(
        context, "load_base", lambda spec, *a, **k: loaded.append(spec.name) or load_base(spec, *a, **k)
    )
    planned = [plan(recipe, entry, 0) for entry in recipe.methods]
    assert [one["model"] for one in planned] == loaded == [spec.name for spec in recipe.models]
