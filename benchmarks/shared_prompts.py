"""Answers to a question score behind its prompt, computed once, or each with a prompt of its own; and beams.

SmolLM2 with a delta; questions and answers are random tokens, since what they say takes no time. Ways take
turns, and processor time is counted, which other work on the machine hardly touches.

    python benchmarks/shared_prompts.py --method lora
    python benchmarks/shared_prompts.py --method prefix --prompt 200
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from deltatune.core.model import AdaptedModel
from deltatune.evaluation.beams import read_once
from deltatune.evaluation.continuations import Asked, Continuations
from deltatune.methods import METHODS
from deltatune.models.load import load_base
from deltatune.recipe.base_sections import ModelSpec
from deltatune.training.given.machine import fast_cpu, versions

ANSWERS = 4
NEW = 12
"""Tokens that beams write."""


def measure(method: str, prompt: int, answer: int, questions: int, rounds: int) -> dict[str, Any]:
    """Seconds of the processor by way, and how far the scores are apart."""
    base = load_base(ModelSpec(name="bundled:smollm2-135m"), "causal-lm", None).model
    model, draw = AdaptedModel(base), random.Random(0)
    if method != "none":
        model.attach("a", METHODS.get(method)())
    asked: list[Asked] = []
    for _ in range(questions):
        question = draw.choices(range(100, 40000), k=draw.randint(prompt // 2, prompt))
        asked += [
            (question, draw.choices(range(100, 40000), k=draw.randint(1, answer))) for _ in range(ANSWERS)
        ]
    texts = Continuations(model, 0, 32, room=2048)
    questions_of = [ids for ids, _ in asked[::ANSWERS]]
    batch = _left_padded(questions_of[:4])
    how: dict[str, Any] = {"num_beams": 4, "max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    how["pad_token_id"] = 0
    ways: dict[str, Callable[[], Any]] = {
        "answers together": lambda: texts._together(asked),
        "answers apart": lambda: texts._apart(asked),
    }
    if model.may_drop_rows:
        ways |= {
            "beams together": lambda: model.generate(**batch, **how, **read_once(model, batch, how)),
            "beams apart": lambda: model.generate(**batch, **how),
        }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    made: dict[str, Any] = {}
    with fast_cpu():
        for _ in range(rounds):
            for way, call in ways.items():
                started = time.process_time()
                made[way] = call()
                seconds[way].append(time.process_time() - started)
    kinds = [kind for kind in ("answers", "beams") if f"{kind} apart" in seconds]
    ratios = {
        kind: [
            apart / together
            for apart, together in zip(seconds[f"{kind} apart"], seconds[f"{kind} together"], strict=True)
        ]
        for kind in kinds
    }
    pairs = list(zip(made["answers together"], made["answers apart"], strict=True))
    beams = [made.get(f"beams {way}") for way in ("together", "apart")]
    return {
        "method": method,
        "tokens": {"prompt": [prompt // 2, prompt], "answer": [1, answer], "answers": ANSWERS},
        "processor_seconds": seconds,
        "apart_over_together": {kind: statistics.median(found) for kind, found in ratios.items()},
        "scores": [min(one.likelihood for one, _ in pairs), max(one.likelihood for one, _ in pairs)],
        "largest_difference": max(abs(one.likelihood - other.likelihood) for one, other in pairs),
        "same_beams": None if beams[0] is None else bool(torch.equal(*beams)),
        "versions": versions(),
    }


def _left_padded(rows: list[Any]) -> dict[str, torch.Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + list(row) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=["none", "lora", "prefix", "prompt"], default="lora")
    parser.add_argument("--prompt", type=int, default=120, help="tokens of the longest prompt")
    parser.add_argument("--answer", type=int, default=6, help="tokens of the longest answer")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    print(json.dumps(measure(a.method, a.prompt, a.answer, a.questions, a.rounds), indent=2))


if __name__ == "__main__":
    main()
