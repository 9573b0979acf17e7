"""Rows that are longer than the model's positions are refused before anything is trained."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from deltatune.errors import DataError
from deltatune.evaluation import Prediction
from deltatune.observer import Silent
from deltatune.recipe import Recipe
from deltatune.runs import evaluate_run, predict
from deltatune.runs.use import Failed
from deltatune.testing.tiny_tokenizers import Kind, tiny_tokenizer
from deltatune.training import run
from deltatune.training.before.forecast import forecast
from deltatune.training.before.preview import preview

Make = Callable[..., Recipe]
POSITIONS = 64


def gpt2(**ids: int) -> Any:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": POSITIONS}
    return GPT2LMHeadModel(GPT2Config(**sizes, **ids, bos_token_id=0, eos_token_id=0))


def bart(**ids: int) -> Any:
    parts = ("encoder", "decoder")
    sizes = {f"{part}_{name}": 2 for part in parts for name in ("layers", "attention_heads", "ffn_dim")}
    return BartForConditionalGeneration(
        BartConfig(d_model=16, max_position_embeddings=POSITIONS, pad_token_id=1, **sizes, **ids)
    )


def bert(**ids: int) -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertModel(BertConfig(**sizes, **ids, max_position_embeddings=POSITIONS))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models with 64 positions, by task."""
    made: dict[str, tuple[Kind, Callable[..., Any]]] = {
        "causal-lm": ("gpt2", gpt2),
        "text-to-text": ("bart", bart),
        "text-classification": ("bert", bert),
    }
    found = {}
    for task, (kind, build) in made.items():
        found[task] = tmp_path_factory.mktemp(task)
        tokenizer = tiny_tokenizer(kind)
        torch.manual_seed(0)
        build(vocab_size=len(tokenizer)).save_pretrained(found[task])
        tokenizer.save_pretrained(found[task])
    return found


@pytest.fixture
def long_rows(tmp_path: Path) -> Path:
    """Rows whose inputs have up to about 54 tokens, and targets of a few."""
    path = tmp_path / "long.jsonl"
    lines = [f'{{"text": "{"xq" * (3 + i % 24)}", "title": "{"zj" * (1 + i % 4)}"}}' for i in range(48)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def small(make_recipe: Make, folder: Path, task: str, rows: Path, method: Any, *overrides: str) -> Recipe:
    recipe = make_recipe(
        "train.max_steps=1", "evaluation.max_new_tokens=4", *overrides, task=task, model=str(folder),
        methods=[method],
        data={
            "source": str(rows), "columns": {"input": "text", "target": "title"},
            "split": {"validation": 0.2, "test": 0.2}, "max_target_tokens": 16,
        },
    )  # fmt: skip
    return recipe


TOO_LONG = pytest.mark.parametrize(
    ("task", "method", "override", "said"),
    [
        ("causal-lm", "untuned", "evaluation.max_new_tokens=30", "that may be generated"),
        ("causal-lm", {"prefix": {"n_tokens": 20}}, "train.lr=0.1", "20 of the method's own tokens"),
        ("causal-lm", {"prompt": {"n_tokens": 20}}, "train.lr=0.1", "20 of the method's own tokens"),
        ("text-to-text", "lora", "evaluation.max_new_tokens=65", "65 that may be generated"),
        ("text-to-text", {"prompt": {"n_tokens": 20}}, "train.lr=0.1", "20 of the method's own tokens"),
        (
            "text-classification",
            {"prompt": {"n_tokens": 20}},
            "train.lr=0.1",
            "20 of the method's own tokens",
        ),
    ],
)


@TOO_LONG
def test_rows_beyond_the_positions_are_refused_with_what_would_fit(  # noqa: PLR0917
    make_recipe: Make, tmp_path: Path, folders: dict[str, Path], long_rows: Path, task: str, method: Any,
    override: str, said: str,
) -> None:  # fmt: skip
    recipe = small(make_recipe, folders[task], task, long_rows, method, override)
    with pytest.raises(
        DataError, match=f"the longest row of the train.* data takes .*{said}.* has 64"
    ) as raised:
        run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir()), "nothing was begun"
    # what the message proposes works
    [setting, value] = re.findall(r"Set (\S+) to (\d+) at most", raised.value.remedy)[0]
    recipe = small(make_recipe, folders[task], task, long_rows, method, override, f"{setting}={value}")
    run(recipe, recipe.methods[0], 0, tmp_path / "run")


@TOO_LONG
def test_check_and_plan_say_so_without_the_weights(  # noqa: PLR0917
    make_recipe: Make, tmp_path: Path, folders: dict[str, Path], long_rows: Path, task: str, method: Any,
    override: str, said: str,
) -> None:  # fmt: skip
    bare = Path(shutil.copytree(folders[task], tmp_path / "bare"))
    (bare / "model.safetensors").unlink()
    recipe = small(make_recipe, bare, task, long_rows, method, override)
    message = f"the longest row of the train.* data takes .*{said}.* has 64"
    with pytest.raises(DataError, match=message) as raised:
        preview(recipe)
    [entry] = forecast(recipe).unplanned
    assert entry.error == str(raised.value)
    [setting, value] = re.findall(r"Set (\S+) to (\d+) at most", raised.value.remedy or "")[0]
    recipe = small(make_recipe, bare, task, long_rows, method, override, f"{setting}={value}")
    assert preview(recipe).models
    assert not forecast(recipe).unplanned


def test_check_names_the_entry_whose_prompt_is_too_long(
    make_recipe: Make, folders: dict[str, Path], long_rows: Path
) -> None:
    recipe = small(make_recipe, folders["causal-lm"], "causal-lm", long_rows, "lora")
    long = make_recipe(**recipe.dump() | {"methods": ["lora", {"prompt": {"n_tokens": 20}}]})
    assert preview(recipe).models
    with pytest.raises(DataError, match=r"has 64 \(entry prompt\)"):
        preview(long)


def test_a_text_that_leaves_no_room_is_refused_by_predict(
    make_recipe: Make, tmp_path: Path, folders: dict[str, Path], long_rows: Path
) -> None:
    recipe = small(make_recipe, folders["causal-lm"], "causal-lm", long_rows, "lora")
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert evaluate_run(tmp_path / "run")
    assert [p.id for p in predict(tmp_path / "run", ["xq" * 10])] == ["0"]
    short, long = predict(tmp_path / "run", ["xq", "xq" * 40])
    assert isinstance(short, Prediction)
    assert isinstance(long, Failed)
    assert "the longest row of the given data takes" in long.error


def test_rows_beyond_the_length_of_training_are_warned_of(
    make_recipe: Make, tmp_path: Path, llama_folder: Path
) -> None:
    rows = tmp_path / "long.jsonl"
    lines = [f'{{"text": "{"xq" * (120 + i)}", "title": "zj"}}' for i in range(20)]
    rows.write_text("\n".join(lines), encoding="utf-8")
    warned: list[str] = []

    class Listening(Silent):
        def warn(self, text: str) -> None:
            warned.append(text)

    recipe = small(make_recipe, llama_folder, "causal-lm", rows, "untuned")
    run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=Listening())
    assert any("LlamaForCausalLM was trained with 256" in text for text in warned)
    before = list(warned)
    warned.clear()
    assert not forecast(recipe, observer=Listening()).unplanned
    assert any("LlamaForCausalLM was trained with 256" in text for text in warned)
    assert set(warned) <= set(preview(recipe).warnings) & set(before)
