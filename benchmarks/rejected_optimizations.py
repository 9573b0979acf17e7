"""What could be spared by things that were not built: the reasons why, as numbers.

- Packing rows without padding: the tokens of our bucketed batches, padding included, over the rows' own.
- One flat buffer for the optimizer: fused AdamW over the tensors of LoRA, and over one tensor of their size.
- Scoring while the next batch is generated: time for scoring over time for generating.
- Taking rows out of a batch that have ended: a decoding step's time with all rows over that with an eighth.
- Lean parts and eager attention in evaluation: without over with.
- Products of LoRA's narrow matrices computed as their transposes: without over with, forward and backward.
- torch.compile over each layer, of dynamic shapes: seconds of the first step, and steps without over with.

    python benchmarks/rejected_optimizations.py --model t5-small
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
from epochs import BATCH, MODELS, content_of
from floor import TASKS, batch_of
from torch import Tensor

from deltatune.core.devices import device_of
from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.core.sites import stacks
from deltatune.data.batches import batches
from deltatune.evaluation import Job, generate
from deltatune.evaluation.kinds.texts import row_losses
from deltatune.evaluation.metrics import text_metrics
from deltatune.methods.lora import LoraConfig
from deltatune.models.load import load_base
from deltatune.observer import Silent
from deltatune.recipe import parse_recipe
from deltatune.recipe.base_sections import ModelSpec
from deltatune.training import Context
from deltatune.training.given.context import base_dtype
from deltatune.training.given.machine import fast_cpu, versions

ROWS, TEST_ROWS, NEW_TOKENS, EPOCHS = 1000, 64, 24, 3
LORA = {"lora": {"r": 8, "targets": ["all-linear"]}}


def seconds(function: Callable[[], Any]) -> float:
    """Of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def ratio(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> float:
    """Median of one's time over the other's, in alternation after a round that warms up."""
    found = [seconds(one) / seconds(other) for _ in range(rounds + 1)]
    return statistics.median(found[1:])


def padding(lengths: list[int]) -> float:
    """Tokens of the batches over tokens of the rows."""
    padded = sum(
        max(lengths[row] for row in rows) * len(rows)
        for epoch in range(EPOCHS)
        for rows in batches(lengths, BATCH, 0, epoch)
    )
    return padded / (EPOCHS * sum(lengths))


def flat_optimizer(parameters: list[Tensor], rounds: int) -> dict[str, float]:
    """Milliseconds of an update."""
    found = {}
    flat = torch.zeros(sum(parameter.numel() for parameter in parameters))
    for name, tensors in (("each tensor", parameters), ("one tensor", [flat])):
        own = [torch.zeros_like(tensor, requires_grad=True) for tensor in tensors]
        optimizer = torch.optim.AdamW(own, fused=True)
        for tensor in own:
            tensor.grad = torch.ones_like(tensor)
        optimizer.step()
        found[name] = 1000 * statistics.median(seconds(optimizer.step) for _ in range(rounds))
    return found


def narrow(rows: int, d_in: int, d_out: int, rounds: int) -> float:
    """The products of a LoRA of rank 8 as they are, over those whose long side comes last."""
    x, y, grad = torch.randn(rows, d_in), torch.zeros(rows, d_out), torch.randn(rows, d_out)
    a, b = torch.randn(8, d_in), torch.randn(d_out, 8)

    def products(low: Tensor, grad_low: Tensor) -> list[Tensor]:
        return [y.addmm_(low, b.mT), grad_low @ a, grad_low.mT @ x, low.mT @ grad]

    return ratio(
        lambda: products(x @ a.mT, grad @ b),
        lambda: products((a @ x.mT).mT, (b.mT @ grad.mT).mT),
        rounds,
    )


def lean(model: AdaptedModel, run: Callable[[], Any]) -> None:
    """Run with what training has."""
    with model.fast.lean.on(), model._hooks.attention.eager():
        run()


def compiled(name: str, rounds: int) -> dict[str, Any]:
    """Training steps of LoRA without dropout, whose random numbers torch.compile does not take."""
    steps: list[Callable[[Any], None]] = []
    for compile_layers in (False, True):
        base = load_base(
            ModelSpec(name=f"bundled:{name}"), TASKS[name], None, dtype=base_dtype("auto", device_of())
        )
        model = AdaptedModel(base.model, base.new_modules)
        adapter = model.attach("delta", LoraConfig(r=8, targets=("all-linear",), dropout=0.0))
        model.train()
        if compile_layers:
            for stack in stacks(base.model).values():
                for layer in stack:
                    layer.compile(dynamic=True)
        steps.append(step_of(model, [p for _, p in adapter.trainable()], TASKS[name]))
    plain, fused = steps
    sizes = [batch_of(TASKS[name], BATCH, length, base.model.config.vocab_size) for length in (128, 96, 176)]
    plain(sizes[0])
    first = seconds(lambda: fused(sizes[0]))
    for batch in sizes:  # other lengths may be compiled anew
        plain(batch)
        fused(batch)
    found = {}
    for batch in sizes:
        length = batch["input_ids"].shape[1]
        found[length] = ratio(lambda b=batch: plain(b), lambda b=batch: fused(b), rounds * 2)
    return {"seconds_of_first_step": first, "without_over_with_by_length": found}


def step_of(model: AdaptedModel, parameters: list[Tensor], task: str) -> Callable[[Any], None]:
    """A training step as a function of the batch."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step(batch: Any) -> None:
        summed_loss(model, batch, task).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Measure all of it on one model."""
    content = content_of(name, [LORA], epochs=1, test=TEST_ROWS, rows=ROWS)
    context = Context.open(parse_recipe(content), Silent())
    [entry] = context.recipe.methods
    base = context.base(entry)
    data, model = context.data(entry, base), base.adapted()
    adapter = model.attach("delta", entry.build_config())
    model.eval()
    test, encoder = data.encoded("test"), data.encoder
    targets = [row.target for row in data.dataset.test]

    def write(rows: int) -> list[Any]:
        few = type(test)(test.features[:rows], test.lengths[:rows], test.report)
        few_rows = dict(generate(model, few, encoder, batch_size=TEST_ROWS, max_new_tokens=NEW_TOKENS))
        return [few_rows[row] for row in range(rows)]

    def lose() -> Any:
        return row_losses(Job(model, test, encoder))

    with fast_cpu():
        written = write(TEST_ROWS)
        text_metrics(written[:2], targets[:2], ["rouge", "bleu"])  # imports them
        generating = seconds(lambda: write(TEST_ROWS))
        return {
            "model": name,
            "tokens_with_padding_over_without": padding(data.encoded("train").lengths),
            "optimizer_milliseconds": flat_optimizer([p for _, p in adapter.trainable()], rounds * 5),
            "scoring_over_generating": seconds(lambda: text_metrics(written, targets, ["rouge", "bleu"]))
            / generating,
            "all_rows_over_an_eighth": ratio(lambda: write(TEST_ROWS), lambda: write(TEST_ROWS // 8), rounds),
            "evaluation_own_over_lean": ratio(lose, lambda: lean(model, lose), rounds),
            "narrow_as_they_are_over_transposed": {
                f"{rows} x {d_in} to {d_out}": narrow(rows, d_in, d_out, rounds * 5)
                for rows, d_in, d_out in ((1024, 576, 1536), (1024, 1536, 576), (2048, 512, 384))
            },
            "compiled_layers": compiled(name, rounds),
            "rounds": rounds,
            "versions": versions(),
        }


def main() -> None:
    """Measure one model and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=[m for m in MODELS if m != "minilm"], default="t5-small")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here as well")
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.model, arguments.rounds), indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
