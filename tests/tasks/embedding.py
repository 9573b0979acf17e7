"""Rows, recipes and bases for tests of vectors of texts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import deltatune as dt
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoder
from deltatune.data.load import load_data
from deltatune.models.load import load_base
from deltatune.recipe import Recipe

WORDS, NOUNS = ("bad", "fair", "good", "great"), ("books", "ships", "songs", "stars")


def pairs(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    """Queries of which noun, word and number tell the text that belongs to it."""
    return [
        {
            "query": f"{n} {WORDS[n % 4]} {NOUNS[n // 4 % 4]}",
            "positive": f"the {NOUNS[n // 4 % 4]} are {WORDS[n % 4]} {n}",
            **{name: value.format(n=n) for name, value in more.items()},
        }
        for n in range(count)
    ]


def scored(count: int = 60) -> list[dict[str, Any]]:
    """Two texts each, whose score is the number of words that they share."""
    draw, rows = random.Random(0), []
    for n in range(count):
        first, second = ([draw.choice(WORDS), draw.choice(NOUNS)] for _ in range(2))
        score = sum(a == b for a, b in zip(first, second, strict=True)) * 2.5
        rows.append(
            {"sentence1": f"{n} {' '.join(first)}", "sentence2": f"the {' '.join(second)}", "score": score}
        )
    return rows


def recipe_of(folder: Path, rows: Any = None, task: str = "embedding", **changes: Any) -> Recipe:
    given = rows or (pairs() if task == "embedding" else scored())
    data = given if isinstance(given, dict) else {"source": given, "split": {"validation": 0.2, "test": 0.3}}
    sections: dict[str, Any] = {
        "task": task,
        "model": str(folder),
        "data": data,
        "methods": ["lora"],
        "train": {"max_steps": 4, "batch_size": 8, "precision": "fp32"},
        "evaluation": {"batch_size": 8},
    }
    return dt.make_recipe(**(sections | changes))


def loaded(recipe: Recipe) -> tuple[AdaptedModel, Encoder, Any]:
    """The base without a delta, its encoder and the data."""
    base, data = load_base(recipe.model, recipe.task, None), load_data(recipe.data, recipe.task)
    model = AdaptedModel(base.model, base.new_modules, processor=base.processor, pooling=base.pooling)
    return model, Encoder(recipe.task, base.processor, recipe.data, None, base.facts), data


def units(*size: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*size, generator=torch.Generator().manual_seed(seed)), dim=-1)


def dt_tensors(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "adapter/adapter_model.safetensors")
