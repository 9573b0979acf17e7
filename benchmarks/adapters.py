"""What a trained LoRA costs when it is used: saving, loading, switching and merging, ours beside peft's.

One base in float32 for each side, LoRA on all linear layers with numbers that are not zero; the sides take
turns. Loading is into a base in memory that has other adapters: deltatune checks the tensors' checksum and
the base's structure then. Merging gives a new model: peft merges into its own base, so that is copied first.

    python benchmarks/adapters.py --model t5-small
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from floor import TASKS

from deltatune.core.model import AdaptedModel
from deltatune.methods.lora import LoraConfig
from deltatune.models.load import load_base
from deltatune.recipe.base_sections import ModelSpec
from deltatune.training.given.machine import fast_cpu, versions

Actions = dict[str, Callable[[], Any]]
SWITCHES = 100
RANK, ALPHA = 8, 16.0


def load(model: str) -> Any:
    """A base, in float32."""
    return load_base(ModelSpec(name=f"bundled:{model}"), TASKS[model], None, dtype="float32").model


@torch.no_grad()
def scatter(parameters: Any) -> None:
    """Numbers as training may leave them."""
    for parameter in parameters:
        parameter.normal_(std=0.02)


def ours(name: str, folder: Path) -> Actions:
    """Deltatune's."""
    model = AdaptedModel(load(name))
    for adapter in ("a", "b"):
        scatter(p for _, p in model.attach(adapter, LoraConfig(r=RANK, targets=("all-linear",))).trainable())

    def switch() -> None:
        for _ in range(SWITCHES // 2):
            model.use("a")
            model.use("b")

    def load_back() -> None:
        model.load(folder / "ours", "c")
        model.detach("c")
        model.use("a")

    return {
        "save": lambda: model.save(folder / "ours", "a"),
        "load": load_back,
        "switch": switch,
        "merge": lambda: model.merged("a"),
    }


def theirs(name: str, folder: Path) -> Actions:
    """Peft's."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    base = load(name)
    paths = AdaptedModel(base).view.select(("all-linear",), LoraConfig().kinds)
    config = PeftConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(paths))
    model = get_peft_model(base, config, adapter_name="a")
    model.add_adapter("b", config)
    scatter(p for key, p in model.named_parameters() if "lora_" in key)

    def switch() -> None:
        for _ in range(SWITCHES // 2):
            model.set_adapter("a")
            model.set_adapter("b")

    def load_back() -> None:
        model.load_adapter(str(folder / "theirs" / "a"), "c")
        model.delete_adapter("c")
        model.set_adapter("a")

    return {
        "save": lambda: model.save_pretrained(str(folder / "theirs"), selected_adapters=["a"]),
        "load": load_back,
        "switch": switch,
        "merge": lambda: copy.deepcopy(model).merge_and_unload(adapter_names=["a"]),
    }


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of every action on either side, and peft's over ours."""
    with tempfile.TemporaryDirectory() as scratch, fast_cpu():
        folder = Path(scratch)
        sides = {"ours": ours(name, folder), "peft": theirs(name, folder)}
        found: dict[str, dict[str, list[float]]] = {
            action: {side: [] for side in sides} for action in sides["ours"]
        }
        for index in range(rounds + 1):
            for action, times in found.items():
                for side, actions in sides.items():
                    started = time.perf_counter()
                    actions[action]()
                    spent = 1000 * (time.perf_counter() - started)
                    if index:
                        times[side].append(spent / (SWITCHES if action == "switch" else 1))
    return {
        "model": name,
        "milliseconds": {
            action: {side: statistics.median(values) for side, values in times.items()}
            for action, times in found.items()
        },
        "peft_over_ours": {
            action: statistics.median(p / o for p, o in zip(times["peft"], times["ours"], strict=True))
            for action, times in found.items()
        },
        "rounds": rounds,
        "versions": versions(),
    }


def main() -> None:
    """Measure one model and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("t5-small", "smollm2-135m"), default="t5-small")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here as well")
    arguments = parser.parse_args()
    text = json.dumps(measure(arguments.model, arguments.rounds), indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
