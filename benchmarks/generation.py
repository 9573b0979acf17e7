"""Generating for test rows: rows leave the batch once they have ended, or all go on to the last one's end.

The base generates greedily, untuned; the ways take turns, and what they wrote is compared.

    python benchmarks/generation.py --model t5-small
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any
from unittest import mock

from epochs import MODELS, content_of

from deltatune.core.model import AdaptedModel
from deltatune.evaluation import Generation, generate
from deltatune.observer import Silent
from deltatune.recipe import parse_recipe
from deltatune.training import Context
from deltatune.training.given.machine import versions

ROWS = 96


def measure(name: str, batch_size: int, new_tokens: int, rounds: int) -> dict[str, Any]:
    """Time both ways in turn."""
    recipe = parse_recipe(content_of(name, ["untuned"], epochs=1, test=ROWS))
    context, [entry] = Context.open(recipe, Silent()), recipe.methods
    base = context.base(entry)
    model, data = base.adapted(), context.data(entry, base)
    encoded = data.encoded("test")
    seconds: dict[str, list[float]] = {"leaving": [], "staying": []}
    written: dict[str, dict[int, Generation]] = {}
    for _ in range(rounds):
        for way, of in seconds.items():
            with mock.patch.object(AdaptedModel, "may_drop_rows", way == "leaving"):
                started = time.perf_counter()
                found = generate(
                    model, encoded, data.encoder, batch_size=batch_size, max_new_tokens=new_tokens
                )
                written[way] = dict(found)
                of.append(time.perf_counter() - started)
    both = [(written["leaving"][row], written["staying"][row]) for row in range(len(encoded.lengths))]
    return {
        "model": name,
        "rows": len(both),
        "batch_size": batch_size,
        "max_new_tokens": new_tokens,
        "tokens": statistics.mean(one.tokens for one, _ in both),
        "stopped": sum(one.stopped for one, _ in both),
        "same": sum(one == other for one, other in both),
        "seconds": seconds,
        "ratio": statistics.median(
            staying / leaving for staying, leaving in zip(seconds["staying"], seconds["leaving"], strict=True)
        ),
        "versions": versions(),
    }


def main() -> None:
    """Measure one model and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=[name for name in MODELS if name != "minilm"], default="t5-small")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    print(json.dumps(measure(a.model, a.batch_size, a.new_tokens, a.rounds), indent=2))


if __name__ == "__main__":
    main()
