"""A LoRA step over its floor, and what it keeps for the backward pass.

The floor is what no low-rank method can go below: the frozen forward pass, and the gradients of the
activations back to the lowest layer (4 N floating-point operations a token), with the output computed at
labels only. It is measured on the same base with the same batch: the embedded input requires a gradient, and
nothing else does. There are two: with the base's own code, and with what we compute in its place in training
(deltatune/core/fast/lean.py, core/fast/last_layer.py), which is faster; so a step can lie below the first.

Beside it stands a step of peft on the same base in the same precision. What is kept is the sum of the
storages that autograd saves, parameters left out, and of the logits.

    python benchmarks/floor.py --model smollm2-135m --rows 8 --length 128
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from step_optimizations import own_code, torch_loss
from torch import Tensor
from torch.nn import functional as F

from deltatune.core.devices import device_of
from deltatune.core.loss import logits_for, summed_cross_entropy
from deltatune.core.model import AdaptedModel
from deltatune.methods.lora import LoraConfig
from deltatune.models.load import load_base
from deltatune.recipe.base_sections import ModelSpec
from deltatune.tasks import TASKS as KINDS
from deltatune.training.given.context import base_dtype
from deltatune.training.given.machine import fast_cpu, versions

TASKS = {
    "t5-small": "text-to-text",
    "smollm2-135m": "causal-lm",
    "minilm": "text-classification",
    "dinov2-small": "image-classification",
}
LABELLED = 16
Step = Callable[[], tuple[Tensor, Tensor]]
"""A forward pass: logits and loss."""


def batch_of(task: str, rows: int, length: int, vocabulary: int) -> dict[str, Tensor]:
    """Random tokens, the last of which are labelled; or random images of `length` pixels a side."""
    generator = torch.Generator().manual_seed(0)
    if task == "image-classification":
        pixels = torch.randn(rows, 3, length, length, generator=generator)
        return {"pixel_values": pixels, "labels": torch.zeros(rows, dtype=torch.long)}
    ids = torch.randint(10, vocabulary - 10, (rows, length), generator=generator)
    labels = ids[:, -LABELLED:].clone()
    if task == "causal-lm":
        labels = F.pad(labels, (length - LABELLED, 0), value=-100)
    if task == "text-classification":
        labels = torch.zeros(rows, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


class Sides:
    """The steps that are compared, each on a base of its own."""

    def __init__(self, model: str, dtype: str, batch: tuple[int, int], dropout: float) -> None:
        self.task, self.spec, self.dtype = TASKS[model], ModelSpec(name=f"bundled:{model}"), dtype
        self.config = LoraConfig(r=8, targets=("all-linear",), dropout=dropout)
        self.kept: set[int] = set()
        config = self._load().model.config
        self.batch = batch_of(self.task, *batch, getattr(config, "vocab_size", 0))

    def _load(self) -> Any:
        labels = ["a", "b"] if KINDS.get(self.task).has_classes else None
        return load_base(self.spec, self.task, labels, dtype=self.dtype)

    def floor(self, *, lean: bool) -> Step:
        """Frozen forward, gradients of activations; by the base's own code, or with our lean parts."""
        base = self._load()
        model = AdaptedModel(base.model, base.new_modules).train()
        embeddings = [base.model.get_input_embeddings()]
        if isinstance(embeddings[0], torch.nn.Embedding):  # a T5's stacks have one each
            of, tokens = base.model.modules(), embeddings[0].num_embeddings
            embeddings = [m for m in of if isinstance(m, torch.nn.Embedding) and m.num_embeddings == tokens]
        for module in embeddings:
            module.register_forward_hook(lambda _module, _args, out: out.detach().requires_grad_())
        self.kept |= {p.untyped_storage().data_ptr() for p in base.model.parameters()}

        def step() -> tuple[Tensor, Tensor]:
            if lean:
                return self._ours(model)
            with own_code(model), model.fast.last_layer.whole():
                logits, targets = logits_for(model, self.batch, self.task)
            return logits, torch_loss(logits, targets)

        return step

    def ours(self) -> tuple[Step, torch.optim.Optimizer]:
        """Our LoRA on all linear layers."""
        base = self._load()
        model = AdaptedModel(base.model, base.new_modules)
        adapter = model.attach("delta", self.config)
        model.train()
        self.kept |= {p.untyped_storage().data_ptr() for p in model.parameters()}
        optimizer = torch.optim.AdamW([p for _, p in adapter.trainable()], lr=1e-3, fused=True)
        return lambda: self._ours(model), optimizer

    def _ours(self, model: AdaptedModel) -> tuple[Tensor, Tensor]:
        logits, targets = logits_for(model, self.batch, self.task)
        return logits, summed_cross_entropy(logits, targets)

    def peft(self) -> tuple[Step, torch.optim.Optimizer]:
        """peft's, on the same modules; all logits are computed, as its users' code does."""
        from peft import LoraConfig as PeftConfig
        from peft import get_peft_model

        base = self._load()
        view = AdaptedModel(base.model, base.new_modules).view
        paths = view.select(self.config.targets, self.config.kinds)
        settings = {"r": 8, "lora_alpha": 16, "lora_dropout": self.config.dropout}
        model = get_peft_model(
            base.model,
            PeftConfig(target_modules=list(paths), modules_to_save=base.new_modules or None, **settings),
        )
        model.eval()  # the base's own dropout stays off, as in the other two
        for name, module in model.named_modules():
            if name.rpartition(".")[2] == "default" and isinstance(module, torch.nn.Dropout):
                module.train()
        self.kept |= {p.untyped_storage().data_ptr() for p in model.parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3)

        def step() -> tuple[Tensor, Tensor]:
            labels = self.batch["labels"]
            inputs = self.batch if self.task == "text-to-text" else self.batch | {"labels": None}
            output = model(**inputs, **({} if KINDS.get(self.task).has_classes else {"use_cache": False}))
            if self.task == "causal-lm":
                logits, labels = output.logits[:, :-1], labels[:, 1:]
            else:
                logits = output.logits
            return output.logits, torch_loss(logits.flatten(0, -2), labels.flatten())

        return step, optimizer


def once(step: Step, optimizer: torch.optim.Optimizer | None) -> float:
    """Seconds of one training step."""
    started = time.perf_counter()
    _, loss = step()
    loss.backward()
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def kept_bytes(step: Step, parameters: set[int]) -> int:
    """Bytes of the storages that autograd saves in a forward pass, and of the logits."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits, loss = step()
        storage = logits.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    loss.backward()
    return sum(storages.values())


def measure(model: str, dtype: str, batch: tuple[int, int], dropout: float, rounds: int) -> dict[str, Any]:
    """Alternate the steps; medians and ratios."""
    with fast_cpu():
        sides = Sides(model, dtype, batch, dropout)
        steps: dict[str, tuple[Step, torch.optim.Optimizer | None]] = {
            "floor": (sides.floor(lean=False), None), "lean_floor": (sides.floor(lean=True), None),
            "ours": sides.ours(), "peft": sides.peft(),
        }  # fmt: skip
        kept = {name: kept_bytes(step, sides.kept) for name, (step, _) in steps.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for index in range(rounds + 2):
            for name, (step, optimizer) in steps.items():
                found = once(step, optimizer)
                if index >= 2:
                    seconds[name].append(found)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "model": model,
        "dtype": dtype,
        "rows": batch[0],
        "length": batch[1],
        "dropout": dropout,
        "seconds": seconds,
        "median_seconds": medians,
        **{
            f"{name}_over_{floor}": statistics.median(
                own / least for own, least in zip(seconds[name], seconds[floor], strict=True)
            )
            for name in ("ours", "peft")
            for floor in ("floor", "lean_floor")
        },
        "kept_bytes": kept,
        "kept_ours_over_peft": kept["ours"] / kept["peft"],
        "versions": versions(),
    }


def main() -> None:
    """Measure one model and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=TASKS, default="smollm2-135m")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default=base_dtype("auto", device_of()),
        help="default: what we take",
    )
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument(
        "--length", type=int, default=128, help="tokens of a row, or pixels of an image's side"
    )
    parser.add_argument("--dropout", type=float, default=0.0, help="of the LoRA input")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here as well")
    a = parser.parse_args()
    text = json.dumps(measure(a.model, a.dtype, (a.rows, a.length), a.dropout, a.rounds), indent=2)
    print(text)
    if a.out:
        a.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
