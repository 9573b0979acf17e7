"""The measurements that wait for a GPU run through, on the CPU and with tiny shapes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, which finds its sections beside itself."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("gpu")


@pytest.mark.slow
def test_every_section_runs(tmp_path: Path, gpu: Any) -> None:
    gpu.main(["--out", str(tmp_path), "--dry-run"])
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if "error" in line] == []
    assert [line["section"] for line in lines if line.get("finished")] == list(gpu.SECTIONS)
    assert all(line["same"] for line in lines if "same" in line)


def test_what_is_measured_is_not_measured_again(tmp_path: Path, gpu: Any) -> None:
    gpu.main(["--out", str(tmp_path), "--dry-run", "env"])
    gpu.main(["--out", str(tmp_path), "--dry-run", "--minutes", "0"])
    found = (tmp_path / "gpu.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["section"] for line in found} == {"env"}
