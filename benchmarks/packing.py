"""A training step on conversations of many lengths: rows packed into one, against padded rows.

LoRA on all linear layers. The batches are those of a run, at random and by length; both ways compute each of
them in turn, forward and backward, in one process. It prints the share of padding, floating-point operations
of matrix products, the seconds of both ways (of each batch the best of three turns), and their ratios batch
by batch.

    python benchmarks/packing.py --batches 6
    python benchmarks/packing.py --widths     # four layers of SmolLM2's widths, batches of given lengths

Seconds are of the processor, on one thread, so that what else the machine does matters less.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM

from deltatune.core.loss import summed_loss
from deltatune.core.model import AdaptedModel
from deltatune.data.batches import batches, padding_share
from deltatune.data.bundled import review_chats
from deltatune.memory.shapes import llama
from deltatune.methods import METHODS
from deltatune.observer import Silent
from deltatune.recipe import parse_recipe
from deltatune.training import Context
from deltatune.training.given.attach import attach
from deltatune.training.given.machine import fast_cpu, versions

MODEL = "bundled:smollm2-135m"
CHATS, BATCH = 200, 4
WAYS = {"padded": False, "packed": True}
LENGTHS = (
    [128, 127, 127, 126], [128, 122, 118, 114], [128, 115, 109, 109], [128, 100, 90, 90], [128, 60, 50, 40],
    [300, 270, 250, 240], [300, 120, 100, 80],
)  # fmt: skip


def chats() -> list[dict[str, Any]]:
    """Conversations of 1 to 8 turns about film reviews; a few are long, most are short."""
    generator = random.Random(0)
    pool = [row for row in review_chats() if len(row["messages"]) >= 2]
    made = []
    while len(made) < CHATS:
        turns = min(8, 1 + int(generator.expovariate(0.7)))
        messages: list[Any] = []
        while len(messages) < 2 * turns:
            messages += [m for m in generator.choice(pool)["messages"] if m["role"] != "system"]
        made.append({"messages": messages[: 2 * turns]})
    return made


def step(model: AdaptedModel, batch: dict[str, Tensor], *, packed: bool) -> float:
    """Seconds of a forward and a backward pass."""
    model.zero_grad()
    started = time.process_time()
    with model.fast.packing.use(packed):
        summed_loss(model, batch, "conversation").backward()
    return time.process_time() - started


def by_widths() -> list[dict[str, Any]]:
    """Both ways on random weights and tokens, by the lengths of a batch; of nine turns the second best."""
    torch.manual_seed(0)
    config = llama(576, 1536, 4, 9, num_key_value_heads=3, vocab_size=4096)
    model = AdaptedModel(LlamaForCausalLM(config).eval())
    model.attach("a", METHODS.get("lora")(targets=("all-linear",)))
    model.train()
    found = []
    for lengths in LENGTHS:
        longest = max(lengths)
        places = torch.arange(longest)
        mask = (places < torch.tensor(lengths)[:, None]).long()
        ids = torch.randint(3, 4096, mask.shape) * mask
        read = (mask == 0) | (places < torch.tensor(lengths)[:, None] // 2)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(read, -100)}
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(9):
            for way, packed in list(WAYS.items())[:: 1 if turn % 2 else -1]:
                taken[way].append(step(model, batch, packed=packed))
        seconds = {way: sorted(times)[1] for way, times in taken.items()}
        padding = padding_share([*lengths], [[*range(len(lengths))]], len(lengths))
        ratio = seconds["packed"] / seconds["padded"]
        found.append({"lengths": lengths, "padding": padding, "seconds": seconds, "ratio": ratio})
    return found


def flops(model: AdaptedModel, batch: dict[str, Tensor], *, packed: bool) -> int:
    """Floating-point operations of a step's matrix products."""
    with FlopCounterMode(display=False) as counter:
        step(model, batch, packed=packed)
    return int(counter.get_total_flops())


def measure(rows: list[Any], lengths: list[int], model: AdaptedModel, encoder: Any, *, by_length: bool,
            count: int) -> dict[str, Any]:  # fmt: skip
    """Both ways in turn on the first batches of an epoch."""
    whole = batches(lengths, BATCH, 0, 0, by_length)
    order = whole[:count]
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    work = dict.fromkeys(WAYS, 0)
    by_batch = []
    for number, indices in enumerate(order):
        batch = encoder.collate([rows[index] for index in indices])
        ways = list(WAYS.items())
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(3):
            for way, packed in ways if (turn + number) % 2 else ways[::-1]:
                taken[way].append(step(model, batch, packed=packed))
        best = {way: min(times) for way, times in taken.items()}
        for way, packed in WAYS.items():
            seconds[way].append(best[way])
            work[way] += flops(model, batch, packed=packed)
        padding = padding_share(lengths, [indices], BATCH)
        by_batch.append({"padding": round(padding, 4), "ratio": round(best["packed"] / best["padded"], 4)})
    return {
        "by_length": by_length,
        "padding_of_the_epoch": padding_share(lengths, whole, BATCH),
        "padding": padding_share(lengths, order, BATCH),
        "tokens": sum(lengths[index] for indices in order for index in indices),
        "seconds": {way: sum(times) for way, times in seconds.items()},
        "flops": work,
        "flops_ratio": work["packed"] / work["padded"],
        "ratio": sum(seconds["packed"]) / sum(seconds["padded"]),
        "median_ratio": statistics.median(entry["ratio"] for entry in by_batch),
        "batches": by_batch,
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--method", default="lora")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here as well")
    parser.add_argument("--widths", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.widths:
        with fast_cpu():
            print(json.dumps(by_widths(), indent=2))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "chats.jsonl"
        file.write_text("\n".join(map(json.dumps, chats())), encoding="utf-8")
        targets = {"targets": ["all-linear"]} if arguments.method == "lora" else {}
        recipe = parse_recipe({
            "task": "conversation", "model": MODEL, "methods": [{arguments.method: targets}],
            "data": {"source": str(file), "split": {"validation": 0, "test": 0.02}, "max_input_tokens": 512},
            "train": {"batch_size": BATCH, "precision": arguments.precision},
        })  # fmt: skip
        context, [entry] = Context.open(recipe, Silent()), recipe.methods
        base = context.base(entry)
        model = base.adapted()
        attach(context, entry, base, model, name="run", seed=0)
        data = context.data(entry, base)
        train = data.encoded("train")
        model.train()
        with fast_cpu():
            found = [
                measure(train.features, train.lengths, model, data.encoder, by_length=by_length,
                        count=arguments.batches)
                for by_length in (False, True)
            ]  # fmt: skip
    content = {
        "model": MODEL, "method": arguments.method, "precision": arguments.precision, "batch": BATCH,
        "lengths": {"median": statistics.median(train.lengths), "longest": max(train.lengths)},
        "processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
        "found": found, "versions": versions(),
    }  # fmt: skip
    text = json.dumps(content, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
