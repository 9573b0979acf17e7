"""A run does not depend on the order in which Python keeps sets, which differs from process to process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """
task: text-classification
model: {model}
data:
  source: {rows}
  columns: {{input: text, target: title}}
  split: {{validation: 0.2, test: 0.2}}
methods: [lora]
train: {{epochs: 2, lr: 0.01, batch_size: 8, precision: fp32}}
"""


@pytest.mark.slow
def test_three_hash_seeds_give_one_run(t5_folder: Path, tmp_path: Path) -> None:
    labels = ["1", "01", "2", "02", "3"]
    rows = [{"text": f"{n} of the {n % 5} songs", "title": labels[n % 5]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=t5_folder, rows=tmp_path / "rows.jsonl"))
    outcomes = []
    for seed in ("1", "2", "3"):
        out = tmp_path / seed
        subprocess.run(
            [sys.executable, "-m", "deltatune", "train", str(recipe), "--out", str(out), "--quiet"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        result = json.loads((out / "result.json").read_text())
        losses = [
            {key: value for key, value in json.loads(line).items() if "loss" in key}
            for line in (out / "metrics.jsonl").read_text().splitlines()
        ]
        predictions = (out / "predictions.jsonl").read_text()
        outcomes.append((result["data"]["labels"], result["metrics"], losses, predictions))
    assert outcomes[0] == outcomes[1] == outcomes[2]
