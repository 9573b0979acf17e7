"""A made-up comparison on disk: five methods, one of which failed, and texts that try to break the page."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from deltatune.comparison.statistics import bootstrap_interval, pairwise, shared_ranks, tie_matrix

HOSTILE = '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)>'
METHODS = {  # name: (method, true mean, parameters, seconds)
    "untuned": ("untuned", 0.31, 0, 0.0),
    "lora r8": ("lora", 0.615, 688_128, 96.0),
    "adalora": ("adalora", 0.612, 1_032_360, 121.0),
    "prefix (encoder, decoder and cross-attention)": ("prefix", 0.575, 614_400, 88.0),
    "prompt": ("prompt", 0.0, 51_200, 0.0),
}
RANKS = {"q": [True] * 3 + [False], "v": [True] + [False] * 3}  # of each layer, of 4
TITLES = [
    "List of Bulgarian footballers",
    "1998 in film",
    "Élan vital",
    "قائمة الأفلام",
    HOSTILE,
    "Rivers of Peru",
]
FAILURE = {"kind": "TargetError", "message": f"targets: nothing matches {HOSTILE!r}."}
TEXT_KEYS = [
    "rouge1_f",
    "rouge2_f",
    "rouge1_p",
    "rouge1_r",
    "bleu",
    "chrf",
    "exact_match",
    "stop_rate",
    "loss",
]


def write_comparison(folder: Path, *, seeds: tuple[int, ...] = (0, 1), rows: int = 60) -> Path:
    """Write all files of a comparison into `folder`."""
    random = np.random.default_rng(7)
    hard = random.normal(0, 0.12, rows)
    scores: dict[str, np.ndarray] = {}
    board_rows = []
    for name, (method, mean, parameters, seconds) in METHODS.items():
        failed = method == "prompt"
        runs = [f"runs/{method}-s{seed}" for seed in seeds]
        values = np.clip(mean + hard + random.normal(0, 0.05, (len(seeds), rows)), 0, 1)
        cost = {
            "trained_parameters": parameters, "trained_share": parameters / 76_961_152,
            "stored_parameters": parameters, "total_parameters": 76_961_152,
            "peak_memory_bytes": 1_420_000_000 + 300 * parameters, "memory_kind": "rss",
            "step_memory_bytes": 380_000_000 + 40 * parameters if parameters else None,
            "train_seconds": seconds, "evaluation_seconds": 14.2, "tokens_per_second": 3200.0,
            "file_bytes": parameters * 4 + 900, "steps": 400, "epochs": 4.0,
        }  # fmt: skip
        for seed, run, each in zip(seeds, runs, values, strict=True):
            _write_run(folder / run, name, method, seed, each, cost, failed=failed)
        row: dict[str, Any] = {
            "rank": None, "name": name, "method": method, "status": "failed" if failed else "done",
            "error": FAILURE if failed else None,
            "seeds": list(seeds), "runs": runs, "metrics": {}, "interval": None, "cost": {},
        }  # fmt: skip
        if not failed:
            scores[name] = values
            row["metrics"] = {"rougeL_f": float(values.mean())} | _others(values.mean())
            row["interval"] = list(bootstrap_interval(values, resamples=500))
            row["cost"] = cost
        board_rows.append(row)
    pairs = pairwise(scores, resamples=1000)
    names = list(scores)
    ranks = dict(
        zip(names, shared_ranks([scores[n].mean() for n in names], tie_matrix(names, pairs)), strict=True)
    )
    for row in board_rows:
        row["rank"] = ranks.get(row["name"])
    board = {
        "schema": 1, "task": "text-to-text", "model": "bundled:t5-small", "primary_metric": "rougeL_f",
        "higher_is_better": True, "rows": board_rows, "pairs": [pair.as_dict() for pair in pairs],
        "created": "2026-11-23T22:00:00+00:00", "recipe": {"task": "text-to-text"},
        "data": {"fingerprint": "cd" * 32, "labels": None, "test": rows, "warnings": []},
    }  # fmt: skip
    board["warnings"] = [f"3 of {rows} test rows have the same input as a training row ({HOSTILE})."]
    (folder / "leaderboard.json").write_text(json.dumps(board))
    (folder / "recipe.yaml").write_text(f"task: text-to-text\nmodel: bundled:t5-small\n# {HOSTILE}\n")
    return folder


def _others(level: float) -> dict[str, float]:
    return {key: float(level * (60 if key in {"bleu", "chrf"} else 1)) for key in TEXT_KEYS} | {
        "mean_length": 7.25
    }


def _write_run(  # noqa: PLR0917
    folder: Path, name: str, method: str, seed: int, scores: np.ndarray, cost: dict[str, Any], *, failed: bool
) -> None:
    folder.mkdir(parents=True)
    error = {"kind": "TargetError", "message": "nothing matches"} if failed else None
    result = {
        "schema": 1, "status": "failed" if failed else "done", "error": error, "name": name, "method": method,
        "config": {"r": 8, "targets": ["query", "value"]} if "lora" in method else {}, "seed": seed,
        "model": {"name": "bundled:t5-small", "fingerprint": "ab" * 32, "parameters": 76_961_152},
        "data": {
            "fingerprint": "cd" * 32, "labels": None, "train": 1800, "validation": 200, "test": len(scores),
            "warnings": [],
        },
        "metrics": {"validation": {}, "test": {"rougeL_f": float(scores.mean())}}, "cost": cost,
        "signatures": {"bleu": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"},
        "certificate": [
            {"check": "base unchanged", "passed": True, "detail": "hash ab12"},
            {"check": "every tap fired", "passed": not failed, "detail": f"48 sites {HOSTILE}"},
        ],
        "started": "2026-11-23T22:00:00+00:00", "finished": "2026-11-23T22:03:00+00:00",
        "selected": {"step": 400, "by": "loss", "stopped_early": False},
        "versions": {"deltatune": "0.1.0", "torch": "2.13.0"}, "git": {"commit": "f" * 40, "dirty": False},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    if failed:
        return
    if method == "adalora":
        pattern = {f"encoder.block.{i}.layer.0.SelfAttention.{m}": RANKS[m] for i in range(2) for m in RANKS}
        (folder / "adapter").mkdir()
        (folder / "adapter" / "deltatune.json").write_text(json.dumps({"config": {"rank_pattern": pattern}}))
    random = np.random.default_rng(seed)
    if method != "untuned":
        lines = []
        for step in range(1, 401):
            loss = 0.9 + 3 * np.exp(-step / 60) + random.normal(0, 0.12) + (method == "prefix") * 0.3
            lines.append(
                {"step": step, "epoch": step / 100, "loss": loss, "lr": 1e-3, "tokens": 900, "seconds": 0.2}
            )
            if step % 100 == 0:
                lines.append({"step": step, "epoch": step / 100, "validation": {"loss": loss + 0.1}})
        text = "\n".join(map(json.dumps, lines)) + '\n{"step": 401, "lo'  # killed while writing
        (folder / "metrics.jsonl").write_text(text)
    predictions = []
    for index, score in enumerate(scores):
        title = TITLES[index % len(TITLES)]
        looping = method == "untuned"
        answer = "Bulgaria " * 30 if looping else title if index % 3 else f"{title} \x07(2)"
        predictions.append(
            {
                "id": f"table-{index}",
                "input": f"title: 0 Country: {HOSTILE}, Cost: 42$, " + "1 Country: Peru, " * 40,
                "reference": title,
                "prediction": answer,
                "stopped": not looping,
                "scores": {"rougeL_f": float(score), "exact_match": float(answer == title)},
            }
        )
    (folder / "predictions.jsonl").write_text("\n".join(map(json.dumps, predictions)))


def write_models(folder: Path) -> Path:
    """Write a comparison whose methods differ in their base."""
    write_comparison(folder)
    path = folder / "leaderboard.json"
    board = json.loads(path.read_text())
    board["models"] = ["bundled:t5-small", "facebook/bart-base"]
    for row in board["rows"]:
        bart = row["method"] in ("adalora", "prompt")
        row["model"] = board["models"][bart]
        if bart and row["cost"]:
            row["cost"]["total_parameters"] = 139_420_416
        for run in row["runs"] if bart else ():
            result = json.loads((folder / run / "result.json").read_text())
            result["model"] = {"name": row["model"], "fingerprint": "ef" * 32, "parameters": 139_420_416}
            (folder / run / "result.json").write_text(json.dumps(result))
    path.write_text(json.dumps(board))
    return folder


def write_grid(folder: Path) -> Path:
    """Write a comparison of LoRA alone, over targets and ranks, one of which failed."""
    targets = {"qv": ["query", "value"], "all": ["query", "key", "value", "output"]}
    entries, rows = [], []
    for i, (short, modules) in enumerate(targets.items()):
        for j, r in enumerate((16, 4, 8)):
            name, failed = f"lora {short} r{r}", (short, r) == ("all", 16)
            entries.append({"lora": {"r": r, "alpha": 2.0 * r, "targets": modules}, "name": name})
            score = 0.5 + 0.05 * i + 0.01 * j
            rows.append(
                {
                    "rank": None if failed else 1 if i else 3, "name": name, "method": "lora",
                    "status": "failed" if failed else "done", "error": FAILURE if failed else None,
                    "seeds": [0], "runs": [], "metrics": {"accuracy": score} if not failed else None,
                    "interval": [score - 0.02, score + 0.02] if not failed else None,
                    "cost": {
                        "trained_parameters": r * 43_008 * (i + 1), "train_seconds": 60.0 + r,
                        "file_bytes": r * 43_008 * 4 * (i + 1), "peak_memory_bytes": 1e9 + 4e6 * r,
                        "evaluation_seconds": 5.0,
                    } if not failed else None,
                }
            )  # fmt: skip
    scores = {row["name"]: row["metrics"]["accuracy"] for row in rows if row["metrics"]}
    pairs = [
        {
            "a": a, "b": b, "difference": scores[a] - scores[b], "low": scores[a] - scores[b] - 0.02,
            "high": scores[a] - scores[b] + 0.02, "p": 0.7 if a[:6] == b[:6] else 0.0003,
            "tie": a[:6] == b[:6],
        }
        for a, b in combinations(scores, 2)
    ]  # fmt: skip
    board = {
        "schema": 1, "task": "image-classification", "model": "bundled:dinov2", "primary_metric": "accuracy",
        "higher_is_better": True, "rows": rows, "pairs": pairs, "created": "2026-11-23T22:00:00+00:00",
        "recipe": {"methods": entries},
        "data": {"fingerprint": "cd" * 32, "labels": [], "test": 100, "warnings": []},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "leaderboard.json").write_text(json.dumps(board))
    return folder
