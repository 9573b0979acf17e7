"""`plan`: the table, what does not fit, the chart, and wrong sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deltatune.results import Plan

ENTRY = {
    "name": "lora [r8]", "method": "lora", "from": None,
    "memory": {"weights": 4 * 10**9, "delta": 10**6, "gradients": 10**6, "optimizer": 2 * 10**6,
               "activations": 3 * 10**9, "logits": 0, "temporary": 5 * 10**8, "total": 7_504_000_000},
    "trained_parameters": 1234, "stored_parameters": 2468, "total_parameters": 1_000_000,
    "file_bytes": 5000, "flops": 3 * 10**12, "sites": 8,
    "micro_batch": {"rows": 8, "length": 128, "target_length": 0, "labelled": 64}, "micro_batches": 2,
    "precision": "bfloat16", "checkpointing": False, "steps": 100, "fits": False, "warnings": [],
    "disk": {"delta": 5000, "state": 10**6, "kept": 0, "predictions": 0, "other": 0,
             "left": 5000, "most": 2_005_000},
    "changes": [{"settings": {"train.micro_batch_size": 1}, "total": 5 * 10**9, "fits": True,
                 "note": "same"}],
    "proposal": {"settings": {"train.gradient_checkpointing": True}, "total": 5 * 10**9, "fits": True,
                 "step_seconds": 4.0},
}  # fmt: skip
FOUND = {
    "model": "m", "machine": {"device": "cpu", "memory_bytes": 8 * 10**9}, "limit_bytes": 8 * 10**9,
    "overhead_bytes": 2**30, "lengths": "data", "disk": {"runs": 3, "most": 5 * 10**6, "left": 15_000},
    "entries": [ENTRY, {"name": "bad", "method": "vera", "error": "targets: no such role."}],
}  # fmt: skip


def test_the_table_says_what_to_change(recipe: Path, run: Callable, fake: Callable) -> None:
    calls = fake("deltatune.training.before.forecast", "forecast", Plan.model_validate(FOUND))
    done = run("plan", recipe, "--budget-memory", "8GB", "--budget-time", "1h", "--chart", "sub/m.svg")
    assert done.code == 2, done.err  # since one entry cannot be planned
    options = calls[0].options
    assert (options["memory"], options["seconds"], options["shape"]) == (8 * 10**9, 3600, None)
    for text in (
        "lora [r8]",
        "7.50 GB",
        "2,468",
        "8 x 128, 2 per step",
        "3.00 TFLOP",
        "The budget is 8.00 GB",
    ):
        assert text in done.out
    assert "--set train.micro_batch_size=1  (same; fits)" in done.out
    assert (
        "Proposed for lora [r8], 5.00 GB and 4.0 s per step: --set train.gradient_checkpointing=true"
        in done.out
    )
    said = " ".join(done.out.split())
    assert "Disk: a run writes 2.00 MB at most. 2.00 MB of it is the state for resuming" in said
    assert "A comparison of its 3 runs writes 5.00 MB at most, and leaves" in said
    assert "bad: targets: no such role." in done.err
    chart = Path("sub/m.svg").read_text(encoding="utf-8")
    assert chart.startswith("<svg")
    assert all(text in chart for text in ("lora [r8]", "activations"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget-memory", "16 apples"), "Write 16GiB or 24GB"),
        (("--budget-time", "soon"), "Write 90s, 20min or 1h"),
        (("--shape", "llama-56b"), "Did you mean 'llama-65b'?"),
        ((), "there is nothing to plan"),
    ],
)
def test_mistakes_are_answered(run: Callable, arguments: tuple[str, ...], message: str) -> None:
    done = run("plan", *arguments)
    assert done.code == 2
    assert message in " ".join(done.err.split())


def test_a_shape_for_another_task(recipe: Path, run: Callable) -> None:
    done = run("plan", recipe, "--shape", "llama-7b")
    assert done.code == 2
    told = " ".join(done.err.split())
    assert "llama-7b is a model for causal-lm, conversation, text-classification," in told
    assert "and the recipe's task is text-to-text" in told


def test_a_shape_is_planned_without_a_recipe(run: Callable) -> None:
    methods = "methods=[{ia3: {targets: [nowhere]}}, prompt]"
    options = ("--json", "--quiet", "--budget-memory", "1TiB", "--set", methods)
    done = run("plan", "--shape", "llama-7b", *options)
    assert done.code == 2, done.err
    refused, prompt = json.loads(done.out)["entries"]
    assert "nowhere" in refused["error"]
    assert prompt["total_parameters"] == 6_738_415_616
    assert prompt["memory"]["weights"] == pytest.approx(2 * 6_738_415_616, rel=0.001)
    assert prompt["fits"]
    assert prompt["proposal"]["settings"] == {}


def test_a_closed_model_is_planned_as_an_open_one_and_said_so(run: Callable) -> None:
    options = ("--quiet", "--budget-memory", "100TiB", "--set", "methods=[bitfit]")
    done = run("plan", "--shape", "chinchilla-70b", *options)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "has 70B parameters by its paper (Hoffmann et al. 2022, Chinchilla, table 4)" in said
    assert "The plan is of a GPT-NeoX of its widths" in said
    assert "It lacks 5.37 B parameters of the model's own positions." in said


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["palm-540b", "glm-130b", "galactica-120b", "t5-11b"])
def test_a_published_model_is_planned_in_full_with_lora_and_on_four_bits(run: Callable, shape: str) -> None:
    done = run("plan", "--shape", shape, "--quiet", "--json", "--budget-memory", "100TiB")
    assert done.code == 0, done.err
    found = Plan.model_validate_json(done.out)
    full, lora, qlora = (entry.memory.total for entry in found.planned)
    assert full > 4 * lora > 6 * qlora  # of T5, the way back of a feed-forward part is not quantized
