"""What a step and a token may wait for: the host is to stay ahead of the GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gpu_shaped import pretended
from tests.gpu_shaped.step_waits import METHOD_NAMES, TASKS, of_step, of_token, table

STEP = {("tolist", "training/loop/clip.py"): 1}
"""The loss and the norm, read together."""
BESIDES = {"diff_pruning": {("local_scalar_dense", "methods/diff_pruning.py"): 1}}
"""Its expected density, which is logged with every step."""
QUICK = ("lora", "prefix", "prompt")


def _by_file(waits: Any) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for (kind, where), count in waits.items():
        key = kind, where.partition(":")[0]
        found[key] = found.get(key, 0) + count
    return found


def _methods() -> list[Any]:
    return [pytest.param(m, marks=() if m in QUICK else pytest.mark.slow) for m in METHOD_NAMES]


@pytest.mark.parametrize("method", _methods())
@pytest.mark.parametrize("architecture", TASKS)
def test_a_step_waits_once(counting: pretended.Gpu, architecture: str, method: str) -> None:
    assert _by_file(of_step(counting, architecture, method)) == STEP | BESIDES.get(method, {})


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_so_it_does_without_padding(counting: pretended.Gpu, architecture: str) -> None:
    assert _by_file(of_step(counting, architecture, "prefix", full=True)) == STEP


@pytest.mark.parametrize("method", _methods())
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_token_waits_for_the_stop_check_alone(
    counting: pretended.Gpu, architecture: str, method: str
) -> None:
    [(key, count)] = _by_file(of_token(counting, architecture, method)).items()
    assert (key[0], count) == ("is_nonzero", 1)


@pytest.mark.slow
def test_the_page_has_the_table(counting: pretended.Gpu) -> None:
    page = Path(__file__).parents[2].joinpath("docs/how-to/gpu.md").read_text(encoding="utf-8")
    for line in table(counting):
        assert line in page
