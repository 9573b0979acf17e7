"""Steps of several runs together against the same steps in turn: when training at once pays.

    python benchmarks/multi_run_step.py --model bundled:t5-small --task text-to-text --length 128

Runs of LoRA (rank 8 on all linear layers) over one base, on random rows of one length. The two ways take
turns; the median of each is printed, and their ratio. Loss, clipping and optimizer of each run are its
own in both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from deltatune.core.loss import logits_for
from deltatune.core.model import AdaptedModel
from deltatune.methods.lora import LoraConfig
from deltatune.models.load import load_base
from deltatune.recipe.base_sections import ModelSpec
from deltatune.training.given.machine import fast_cpu

TARGETS = 16
"""Labelled tokens of a row."""


class Runs:
    """Runs over one base, each with its rows."""

    def __init__(self, arguments: argparse.Namespace, batch: int) -> None:
        classes = ["a", "b"] if "classification" in arguments.task else []
        loaded = load_base(
            ModelSpec(name=arguments.model), arguments.task, classes, dtype=arguments.precision,
            quantization=None,
        )  # fmt: skip
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AdaptedModel(loaded.model, loaded.new_modules, processor=loaded.processor)
        torch.nn.Module.to(loaded.model, device)
        self.names = [f"run{index}" for index in range(arguments.runs)]
        self.parameters = {}
        for seed, name in enumerate(self.names):
            adapter = self.model.attach(name, LoraConfig(r=8, targets=("all-linear",)), seed=seed)
            self.parameters[name] = [p for _, p in adapter.trainable()]
        self.optimizers = {n: torch.optim.AdamW(p, lr=1e-3, fused=True) for n, p in self.parameters.items()}
        self.slices = {n: slice(at * batch, (at + 1) * batch) for at, n in enumerate(self.names)}
        self.rows, self.task = batch * arguments.runs, arguments.task
        ids = torch.randint(10, loaded.model.config.vocab_size - 10, (self.rows, arguments.length))
        if classes:
            labels = torch.zeros(self.rows, dtype=torch.long)
        elif self.task == "text-to-text":
            labels = ids[:, :TARGETS]
        else:
            labels = ids.clone()
            labels[:, :-TARGETS] = -100
        batch_ = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        self.batch = {key: value.to(device) for key, value in batch_.items()}
        self.model.train()

    def in_turn(self) -> None:
        """A step of each run."""
        for name, rows in self.slices.items():
            with self.model.using(name):
                own = {key: value[rows] for key, value in self.batch.items()}
                logits, targets = logits_for(self.model, own, self.task)
                functional.cross_entropy(logits.float(), targets).backward()
            self._update(name)

    def together(self) -> None:
        """The same steps with one pass."""
        with self.model.routing(self.slices, self.rows):
            logits, targets = logits_for(self.model, self.batch, self.task)
            parts = zip(logits.chunk(len(self.names)), targets.chunk(len(self.names)), strict=True)
            losses = [functional.cross_entropy(own.float(), wanted) for own, wanted in parts]
            torch.stack(losses).sum().backward()
        for name in self.names:
            self._update(name)

    def _update(self, name: str) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters[name], 1.0)
        self.optimizers[name].step()
        self.optimizers[name].zero_grad()


def timed(step: Callable[[], None]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="bundled:minilm")
    parser.add_argument("--task", default="text-classification")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    with fast_cpu():
        for batch in arguments.batches:
            runs = Runs(arguments, batch)
            for warm in (runs.in_turn, runs.together):
                warm()
            times = [(timed(runs.in_turn), timed(runs.together)) for _ in range(arguments.rounds)]
            turn, together = (statistics.median(column) for column in zip(*times, strict=True))
            print(
                f"{arguments.model} {arguments.precision}, {arguments.runs} runs of {batch} x "
                f"{arguments.length} tokens: in turn {turn:.3f} s, together {together:.3f} s, "
                f"{turn / together:.2f} times as fast",
                flush=True,
            )


if __name__ == "__main__":
    main()
