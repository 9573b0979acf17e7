"""The prompts of serve_load.py, and peft's answers to them."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOPICS = ("rivers", "ships", "stars", "songs", "books", "trains", "goals", "medals")
PROMPTS = [
    f"Write a line about {topic} and {other}." for topic in TOPICS for other in TOPICS if topic != other
]
NEW = 16
"""Tokens of an answer."""


def summary(times: list[float], spent: float, failed: int = 0) -> dict[str, Any]:
    """Requests a second, and latency in seconds."""
    ordered = sorted(times)
    return {
        "requests": len(times),
        "failed": failed,
        "per_second": len(times) / spent,
        "p50": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
    }


class Peft:
    """peft with all adapters loaded: set_adapter, then generate for one request, behind a lock."""

    def __init__(self, model: str, folders: Sequence[Path]) -> None:
        import torch
        from peft import PeftModel

        from deltatune.models.load import load_base
        from deltatune.recipe import ModelSpec

        base = load_base(ModelSpec(name=model), "causal-lm", None)
        self._torch, self._tokenizer = torch, base.processor
        self._model = PeftModel.from_pretrained(base.model, str(folders[0] / "adapter"), folders[0].name)
        for folder in folders[1:]:
            self._model.load_adapter(str(folder / "adapter"), folder.name)
        self._model.eval()
        self._lock = threading.Lock()

    def ask(self, name: str, prompt: str) -> str:
        with self._lock, self._torch.inference_mode():
            self._model.set_adapter(name)
            inputs = self._tokenizer(prompt, return_tensors="pt")
            written = self._model.generate(**inputs, max_new_tokens=NEW, do_sample=False,
                                           pad_token_id=self._tokenizer.pad_token_id)  # fmt: skip
        new = written[0, inputs["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(new, skip_special_tokens=True))

    def load(self, names: Sequence[str], clients: int, seconds: float) -> dict[str, Any]:
        times: list[float] = []
        draw = random.Random(0)
        self.ask(names[0], PROMPTS[0])
        started = time.perf_counter()

        def client() -> None:
            while time.perf_counter() - started < seconds:
                begun = time.perf_counter()
                self.ask(draw.choice(names), draw.choice(PROMPTS))
                times.append(time.perf_counter() - begun)

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return summary(times, time.perf_counter() - started)
