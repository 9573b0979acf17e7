"""What each optimization of a training step is worth: steps with all of them, and with each switched off.

The first batches of an epoch take turns in one process, on the same rows. A share is the time without the
optimization over the time with it. The losses of the first step show that the result is the same: to the
rounding of the precision, and apart from dropout masks.

    python benchmarks/step_optimizations.py --model t5-small
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from epochs import BATCH, MODELS, recipe_of
from torch import Tensor
from torch.nn import functional as F

from deltatune.core.delta import Dropout
from deltatune.core.devices import HOST, computes_bfloat16
from deltatune.core.loss import count_targets, summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.data.batches import batches
from deltatune.methods.lora import LoraDelta
from deltatune.observer import Silent
from deltatune.training import Context
from deltatune.training.given.machine import fast_cpu, versions

Off = Callable[[AdaptedModel], contextlib.AbstractContextManager[Any]]


def plain_product(delta: LoraDelta, x: Tensor, y: Tensor) -> Tensor:
    """LoRA's update as tensor operations."""
    low = F.linear(delta.dropout(x), delta.lora_A.weight.to(x.dtype)) * delta.scale
    return y + F.linear(low, delta.lora_B.weight.to(x.dtype))


def torch_dropout(dropout: Dropout, x: Tensor) -> Tensor | None:
    """Masks from torch's Bernoulli sampler."""
    if not dropout.training:
        return None
    return torch.empty(x.shape, dtype=torch.int8).bernoulli_(1 - dropout.p).neg_()


@contextlib.contextmanager
def all_logits(model: AdaptedModel) -> Iterator[None]:
    """Logits at all positions; those without a label are left out afterwards."""

    def labelled(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []

        @contextlib.contextmanager
        def select(keep: Tensor) -> Iterator[None]:
            kept.append(keep)
            yield

        with mock.patch.object(model.fast.head, "select", select):
            logits, targets = AdaptedModel.labelled_logits(model, batch)
        return logits[kept[0]], targets

    with mock.patch.object(model, "labelled_logits", labelled):
        yield


@contextlib.contextmanager
def sdpa(model: AdaptedModel) -> Iterator[None]:
    """Attention by SDPA."""
    before, model.fast.eager_up_to = model.fast.eager_up_to, 0
    yield
    model.fast.eager_up_to = before


@contextlib.contextmanager
def own_code(model: AdaptedModel) -> Iterator[None]:
    """The base's own norms, gated products, GELU and eager attention."""
    with (
        mock.patch.object(model.fast.lean, "on", contextlib.nullcontext),
        mock.patch("deltatune.core.fast.lean_attention._attends_plainly", return_value=False),
    ):
        yield


@contextlib.contextmanager
def base_dropout(model: AdaptedModel) -> Iterator[None]:
    """The dropout of the base."""
    model.base_dropout = True
    model.train()
    yield
    model.base_dropout = False
    model.train()


@contextlib.contextmanager
def input_apart(model: AdaptedModel) -> Iterator[None]:
    """What sites with one input make of it, made by each for itself."""
    for name in model.active:
        model.adapter(name).cut(True)
    yield
    for name in model.active:
        model.adapter(name).cut(False)


def torch_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of all logits at once."""
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def nothing(_model: AdaptedModel) -> contextlib.AbstractContextManager[Any]:
    """All optimizations on."""
    return contextlib.nullcontext()


IN_BFLOAT16, BUCKETED, FUSED = "base in bfloat16", "rows bucketed by length", "fused AdamW"
SWITCHES: dict[str, Off] = {
    IN_BFLOAT16: nothing,
    BUCKETED: nothing,
    FUSED: nothing,
    "lean norms, products and attention": own_code,
    "matrix products for attention, not SDPA": sdpa,
    "output at labels only": all_logits,
    "last layer where it is read": lambda model: model.fast.last_layer.whole(),
    "base's dropout off": base_dropout,
    "low-rank update as one function": lambda _: mock.patch.object(LoraDelta, "forward", plain_product),
    "input of several sites read once": input_apart,
    "loss in pieces": lambda _: mock.patch("deltatune.core.loss.summed_cross_entropy", torch_loss),
    "fast dropout masks": lambda _: mock.patch.object(Dropout, "keep", torch_dropout),
}


class Side:
    """A model in one precision, and an optimizer."""

    def __init__(self, context: Context, precision: str, batches: int, *, fused: bool = True) -> None:
        entry = context.recipe.methods[0]
        train = entry.train.model_copy(update={"precision": precision})
        self.batches = batches
        self.base = context.base(entry.model_copy(update={"train": train}))
        self.data, self.task = context.data(entry, self.base), context.recipe.task
        self.model = self.base.adapted()
        self.config = entry.build_config()
        self.adapter = self.model.attach("delta", self.config, seed=0)
        self.start = {name: value.clone() for name, value in self.adapter.state_dict().items()}
        self.model.detach("delta")
        self.optimizer = torch.optim.AdamW(
            [p for _, p in self.adapter.trainable()], lr=1e-3, fused=fused or None
        )

    def epoch(self, off: Off, *, bucket: bool = True) -> tuple[float, float]:
        """(seconds a token, loss of the first step) of an epoch's first batches."""
        encoded, encoder = self.data.encoded("train"), self.data.encoder
        order = batches(encoded.lengths, BATCH, 0, 0, bucket)[: self.batches]
        model = self.model
        self.adapter.load_state_dict(self.start)  # so that losses can be compared
        model._hooks.hang("delta", self.adapter)
        model.adapters["delta"], model.configs["delta"] = self.adapter, self.config
        model.use("delta")
        model.train()
        first = None
        with off(model):
            started = time.perf_counter()
            for rows in order:
                batch = encoder.collate([encoded.features[row] for row in rows])
                loss = summed_loss(model, batch, self.task) / count_targets(batch, self.task)
                loss.backward()
                first = float(loss.detach()) if first is None else first
                torch.nn.utils.clip_grad_norm_([p for _, p in self.adapter.trainable()], 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            tokens = sum(encoded.lengths[row] for rows in order for row in rows)
            seconds = (time.perf_counter() - started) / tokens
        model.detach("delta")
        assert first is not None
        return seconds, first


def measure(model: str, dropout: float, rounds: int, steps: int, only: str | None = None) -> dict[str, Any]:
    """Time `steps` steps without each, or `only` one, beside all of them; a round more warms up."""
    recipe = recipe_of(model, "all-linear", dropout)
    context = Context.open(recipe, Silent())
    names = [name for name in SWITCHES if only in (None, name)]
    if not computes_bfloat16(HOST):
        names = [name for name in names if name != IN_BFLOAT16]
    sides = {"": Side(context, "auto", steps), FUSED: Side(context, "auto", steps, fused=False)}
    if IN_BFLOAT16 in names:
        sides[IN_BFLOAT16] = Side(context, "fp32", steps)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, tuple[float, float]] = {}
    with fast_cpu():
        for index in range(rounds + 1):
            for name in names:
                side = sides.get(name, sides[""])
                own, own_loss = sides[""].epoch(nothing)
                without, loss = side.epoch(SWITCHES[name], bucket=name != BUCKETED)
                losses[name] = own_loss, loss
                if index:
                    ratios[name].append(without / own)
    return {
        "model": model,
        "dropout": dropout,
        "rows": steps * BATCH,
        "first_loss_with_and_without": losses,
        "ratios": ratios,
        "without_over_with": {name: statistics.median(values) for name, values in ratios.items()},
        "versions": versions(HOST),
    }


def main() -> None:
    """Measure one model and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="t5-small")
    parser.add_argument("--dropout", type=float, default=0.05, help="of the LoRA input")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="of a turn")
    parser.add_argument("--only", choices=SWITCHES, help="one of them")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here as well")
    arguments = parser.parse_args()
    found = measure(arguments.model, arguments.dropout, arguments.rounds, arguments.steps, arguments.only)
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
