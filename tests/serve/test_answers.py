"""Answers equal those of `predict`, alone and mixed with others': for every task, and for every method."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import deltatune as dt
from deltatune.runs.asking import line_of
from deltatune.testing.folders import save_tiny
from tests.serve.asking import answers, opened
from tests.serve.tiny_runs import make_runs

WORDS = ("medals", "goals", "songs", "ships", "stars", "rivers", "books", "trains")
TEXTS = [f"{n} of the {WORDS[n % 8]} " + "and so on " * (n % 4) for n in range(24)]
MIXED: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"r": 2}},
    "another": {"lora": {"r": 4}},
    "prefix": {"prefix": {"n_tokens": 3}},
    "prompt": {"prompt": {"n_tokens": 2}},
    "full": {"full": {}},
}
QUICK = {"max_steps": 2, "batch_size": 4, "precision": "fp32"}


def rows_of(task: str, tmp: Path) -> Any:
    """Rows to train on."""
    if task == "image-classification":
        for number, label in itertools.product(range(6), ("dark", "light")):
            (tmp / label).mkdir(parents=True, exist_ok=True)
            shade = 20 + 9 * number if label == "dark" else 240 - 9 * number
            pixels = np.full((8, 8, 3), shade, np.uint8)
            pixels[number, :, 0] = 99
            Image.fromarray(pixels).save(tmp / label / f"{number}.png")
        return {"source": str(tmp), "split": {"validation": 0.2, "test": 0.2}}
    if task == "token-classification":
        return [{"tokens": text.split(), "tags": ["B-N"] + ["O"] * (len(text.split()) - 1)} for text in TEXTS]
    if task == "text-similarity":
        return [{"sentence1": a, "sentence2": b, "score": n / 24}
                for n, (a, b) in enumerate(zip(TEXTS, TEXTS[::-1], strict=True))]  # fmt: skip
    if task == "multi-label-classification":
        return [{"input": text, "target": list({WORDS[n % 3], WORDS[n % 2]})} for n, text in enumerate(TEXTS)]
    targets = {
        "text-regression": lambda n: str(n * 1.5),
        "text-classification": lambda n: WORDS[n % 3],
    }
    target = targets.get(task, lambda n: WORDS[n % 8])
    rows = [{"input": text, "target": target(n)} for n, text in enumerate(TEXTS)]
    if task == "conversation":
        return {"source": rows, "split": {"validation": 0.1, "test": 0.1}, "chat_template": "plain"}
    return rows


def asked_of(task: str, rows: Path) -> Sequence[Any]:
    """Inputs of different lengths, as `predict` takes them."""
    if task == "image-classification":
        return [str(rows / "dark/1.png"), str(rows / "light/3.png"), str(rows / "dark/4.png")]
    if task == "text-similarity":
        return [{"sentence1": text, "sentence2": "songs and " * n} for n, text in enumerate(TEXTS[:3], 1)]
    if task == "conversation":
        return [{"messages": [{"role": "user", "content": text}]} for text in TEXTS[:3]]
    return TEXTS[:3]


def as_sent(value: Any) -> Any:
    """An input as a request has it: a server reads no files of its own."""
    return Path(value).read_bytes() if isinstance(value, str) and value.endswith(".png") else value


def close(line: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two lines are the same, numbers to rounding; what stands for an image is not compared."""
    assert line.keys() == expected.keys()
    for key in line.keys() - {"input", "id"}:
        if isinstance(expected[key], float | list | dict) or key == "prediction":
            if key == "prediction" and line[key] == expected[key]:
                continue
            told, meant = _numbers(line[key]), _numbers(expected[key])
            assert told == pytest.approx(meant, rel=2e-3, abs=2e-5), (key, line, expected)
        else:
            assert line[key] == expected[key], key
    return True


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return [_numbers(each) for each in value.values()]
    if isinstance(value, list):
        return [number for each in value for number in np.atleast_1d(_numbers(each)).tolist()]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return float(sum(value.encode()))
    return value


def hold_against_predict(task: str, base: Path, methods: dict[str, Any], tmp: Path, **more: Any) -> None:
    rows = rows_of(task, tmp / "rows")
    recipe = {"task": task, "model": str(base), "data": rows, "train": QUICK} | more
    runs = make_runs(tmp / "runs", recipe, methods)
    inputs = asked_of(task, tmp / "rows")
    expected = {name: [line_of(p) for p in dt.predict(folder, list(inputs))] for name, folder in runs.items()}
    differ = {str(lines) for lines in expected.values()}
    assert len(differ) > len(runs) // 2, "the deltas do not differ, so that nothing could be mixed up"
    engine = opened(runs)
    try:
        asked = [(name, place) for place in range(len(inputs)) for name in runs]
        for together in (False, True):
            found = answers(engine, [(n, as_sent(inputs[p])) for n, p in asked], together=together)
            for (name, place), line in zip(asked, found, strict=True):
                assert close(line, expected[name][place]), (name, place, together)
    finally:
        engine.stop()


WRITES = {"evaluation": {"max_new_tokens": 6, "metrics": ["loss"], "primary": "loss"}}
TASKS = {
    "text-to-text": ("t5", WRITES),
    "conversation": ("llama", WRITES),
    "text-classification": ("bert", {}),
    "image-classification": ("vit", {}),
    "causal-lm": ("llama", WRITES),
    "multi-label-classification": ("bert", {}),
    "text-regression": ("bert", {}),
    "token-classification": ("bert", {}),
    "embedding": ("bert", {}),
    "text-similarity": ("bert", {}),
}
DEFAULT = ("text-to-text",)
"""What is not slow; conversations are asked for in test_engine.py."""


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=[] if task in DEFAULT else pytest.mark.slow) for task in TASKS]
)
def test_every_task(task: str, tmp_path: Path) -> None:
    kind, more = TASKS[task]
    hold_against_predict(task, save_tiny(kind, tmp_path / "base"), MIXED, tmp_path, **more)
