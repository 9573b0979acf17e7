"""What the sections of gpu.py share: shapes of models, rows, timed steps, and where findings go."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from deltatune.core.devices import memory_left, on_gpu, release_memory, synchronize, to_device
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.methods import METHODS
from deltatune.training.loop.clip import clipped

TASKS = {
    "t5": "text-to-text",
    "llama": "causal-lm",
    "bert": "text-classification",
    "vit": "image-classification",
}
SHAPES = {
    "0.1B": (576, 1536, 30, 9, 3, 49152),
    "1B": (2048, 8192, 16, 32, 8, 128256),
    "3B": (3072, 8192, 28, 24, 8, 128256),
    "8B": (4096, 14336, 32, 32, 8, 128256),
}
"""Hidden size, width of the feed-forward part, layers, heads, heads of keys, vocabulary: Llama's."""
LORA = {"r": 8, "targets": ("all-linear",)}


@dataclass
class Bench:
    """Where findings go, and what they are measured on."""

    device: torch.device
    out: Path
    dry: bool
    section: str = ""

    def say(self, **found: Any) -> None:
        """Write a finding down."""
        line = json.dumps({"section": self.section, **found}, default=str)
        print(line, flush=True)
        with (self.out / "gpu.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def shapes(self, *names: str) -> Iterator[str]:
        """Those that fit into the device's memory in bfloat16, with room for a step."""
        for name in names[:1] if self.dry else names:
            h, f, n, _, _, v = SHAPES[name]
            weights = 2 * (n * (3 * h * f + 3 * h * h) + v * h)
            if on_gpu(self.device) and 1.5 * weights > memory_left(self.device):
                self.say(of=name, left_out="it does not fit")
                continue
            yield name

    def base(self, name: str, dtype: torch.dtype = torch.bfloat16) -> Any:
        """A Llama of this shape with random weights, on the device."""
        h, f, n, heads, kv, v = SHAPES[name] if not self.dry else (32, 64, 2, 4, 2, 300)
        config = LlamaConfig(
            vocab_size=v, hidden_size=h, intermediate_size=f, num_hidden_layers=n, num_attention_heads=heads,
            num_key_value_heads=kv, max_position_embeddings=4096, tie_word_embeddings=True,
        )  # fmt: skip
        with torch.device(self.device):
            return LlamaForCausalLM._from_config(config, dtype=dtype)

    def adapted(self, name: str, method: str = "lora", **config: Any) -> tuple[AdaptedModel, Any]:
        """The same with an adapter, in training."""
        model = AdaptedModel(self.base(name))
        adapter = model.attach("a", METHODS.get(method)(**(config or LORA)))
        return model.train(), adapter

    def rows(self, n: int, length: int, labelled: int, *, ragged: bool = False) -> dict[str, Tensor]:
        """A batch on the host; the end of each row has labels."""
        n, length, labelled = (
            (min(n, 4), min(length, 24), min(labelled, 6)) if self.dry else (n, length, labelled)
        )
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(5, 250, (n, length), generator=generator)
        mask, labels = torch.ones_like(ids), ids.clone()
        labels[:, :-labelled] = -100
        if ragged:
            mask[::2, -length // 4 :] = 0
            labels[:, length // 2] = ids[:, length // 2]
            labels[mask == 0] = -100
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def timed(self, step: Callable[[], Any], times: int = 8) -> float:
        """Milliseconds of the median call, after three that warm up."""
        for _ in range(1 if self.dry else 3):
            step()
        seconds = []
        for _ in range(1 if self.dry else times):
            synchronize(self.device)
            started = time.perf_counter()
            step()
            synchronize(self.device)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds) * 1e3

    def stepping(self, model: AdaptedModel, adapter: Any, batch: dict[str, Tensor]) -> Callable[[], Any]:
        """A step as the trainer makes it."""
        parameters = [p for _, p in adapter.trainable()]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

        def step() -> None:
            loss = summed_loss(model, to_device(batch, self.device), "causal-lm") / 100
            loss.backward()
            clipped([loss.detach()], parameters, 1.0, step=1, lr=1e-4)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step


def clear(bench: Bench) -> None:
    """Let go of what is no longer used."""
    gc.collect()
    release_memory(bench.device)
