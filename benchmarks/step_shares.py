"""What a training step spends its time on: matrix products, and the rest by operation.

The steps of an epoch's first batches, LoRA on all linear layers with dropout, by torch's profiler. Shares are
of the time that operations take themselves; what Python and NumPy do between them (masks are drawn there) is
in `processor_seconds` alone. That is of steps without the profiler, and other work on the machine moves it
less than the shares, whose clock is the wall's. The losses are printed, by which two versions can be compared
to the bit.

    python benchmarks/step_shares.py --model t5-small --precision fp32
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from epochs import MODELS, content_of
from torch.profiler import ProfilerActivity, profile

from deltatune.core.loss import summed_loss
from deltatune.data.batches import batches
from deltatune.observer import Silent
from deltatune.recipe import parse_recipe
from deltatune.training import Context
from deltatune.training.given.machine import fast_cpu, versions

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "addmm_", "baddbmm_", "mkldnn_", "flash_attention")
STEPS, BATCH = 3, 8


def measure(model: str, precision: str, shown: int) -> dict[str, Any]:
    """Profile a few steps of a model."""
    lora = {"r": 8, "dropout": 0.05, "targets": ["all-linear"]}
    content = content_of(model, [{"lora": lora}], epochs=1, test=8, rows=64)
    content["train"]["precision"] = precision
    recipe = parse_recipe(content)
    context, [entry] = Context.open(recipe, Silent()), recipe.methods
    base = context.base(entry)
    data = context.data(entry, base)
    train, adapted = data.encoded("train"), base.adapted()
    adapter = adapted.attach("lora", entry.build_config(), seed=0)
    order = batches(train.lengths, BATCH, 0, 0, True)[: STEPS + 1]
    losses = []

    def step(rows: list[int]) -> None:
        adapter.clock.tick += 1
        batch = data.encoder.collate([train.features[row] for row in rows])
        loss = summed_loss(adapted, batch, recipe.task)
        loss.backward()
        losses.append(loss.item())
        for _, parameter in adapter.trainable():
            parameter.grad = None

    with fast_cpu():
        adapted.train()
        step(order[0])  # warms up
        worked = time.process_time()
        for rows in order[1:]:
            step(rows)
        worked = time.process_time() - worked
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for rows in order[1:]:
                step(rows)
    own = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in found.key_averages()}
    total = sum(own.values())
    products = sum(time for name, time in own.items() if any(word in name for word in PRODUCTS))
    most = sorted(own, key=lambda name: own[name], reverse=True)[:shown]
    return {
        "model": model,
        "precision": base.dtype,
        "processor_seconds": worked / STEPS,
        "seconds_per_step": total / 1e6 / STEPS,
        "products": products / total,
        "operations": {name: round(own[name] / total, 4) for name in most},
        "losses": losses,
        "versions": versions(),
    }


def main() -> None:
    """Profile one model and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="t5-small")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--shown", type=int, default=16, help="operations to show")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.model, arguments.precision, arguments.shown), indent=2))


if __name__ == "__main__":
    main()
