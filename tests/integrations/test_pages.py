"""The blocks of docs/how-to/own-loop.md run as they stand."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

PAGE = Path(__file__).parents[2] / "docs/how-to/own-loop.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
TEN_LINES = 2  # and what they proved
OWN = 4  # the first ones, which need no trainer


def run(blocks: list[str], llama: Any, rows: Any, tokenizer: Any) -> dict[str, Any]:
    batches = [{name: value[None] for name, value in row.items()} for row in rows[:10]]
    words = [f"a film of the {n}th day" for n in range(8)]
    names: dict[str, Any] = {
        "batches": batches,
        "rows": rows,
        "tokenizer": tokenizer,
        "texts": Dataset.from_dict({"text": words}),
        "pairs": Dataset.from_dict({"prompt": words, "chosen": words[::-1], "rejected": words}),
    }
    for block in blocks:
        names["base"] = copy.deepcopy(llama)
        on_cpu = block.replace("report_to=[]", "report_to=[], use_cpu=True")  # else TRL wants bfloat16
        exec(compile(on_cpu, str(PAGE), "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore")
def test_the_loop_of_ones_own(
    llama: Any, rows: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run(BLOCKS[:TEN_LINES], llama, rows, tokenizer)
    assert names["loop"].certificate.passed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_trainers(
    llama: Any, rows: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "again.taken" in BLOCKS[OWN - 1]
    assert run(BLOCKS, llama, rows, tokenizer)["again"].certificate.passed
    written = {path.parent.parent.name for path in Path("out").glob("*/adapter/certificate.json")}
    assert written == {
        "mine",
        "accumulated",
        "going-on",
        "accelerate",
        "trainer",
        "plus",
        "sft",
        "dpo",
        "lightning",
    }
