"""The plan of memory and time: what each entry of a recipe takes, before a weight is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from deltatune import quant
from deltatune.core.method import MethodConfig
from deltatune.core.observer import Observer, Silent
from deltatune.data.encode import Encoded, Encoder
from deltatune.data.load import load_data
from deltatune.errors import DeltatuneError
from deltatune.memory.base import fake_mode
from deltatune.memory.batch import largest_micro_batch, longest_allowed
from deltatune.memory.fit import OVERHEAD, Predict, changes, fits, propose
from deltatune.memory.predict import Prediction, Setup, planned_model
from deltatune.memory.scale import predict_scaled
from deltatune.memory.shapes import shape_named
from deltatune.memory.step import BatchShape
from deltatune.models.processor import load_processor
from deltatune.models.tasks import CLASSIFICATION
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.train.budget import sized_for
from deltatune.train.calibrate import Rates
from deltatune.train.context import base_dtype

MOST_ROWS = 20_000
"""With more training rows than these the longest ones are not looked for; the recipe's limits are taken."""


@dataclass
class Planned:
    """What is known of a recipe without its base's weights."""

    recipe: Recipe
    config: PreTrainedConfig
    processor: Any = None
    encoded: Encoded | None = None
    """The training rows, if they could be read."""
    image: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, recipe: Recipe, *, shape: str | None, observer: Observer) -> Planned:
        """Read configuration, tokenizer and data; with a `shape`, that alone.

        Raises:
            DeltatuneError: They cannot be read.
        """
        if shape is not None:
            return cls(recipe, shape_named(shape)[1])
        observer.stage("Reading the data")
        dataset = load_data(recipe.data, recipe.task)
        processor, config = load_processor(recipe.model, recipe.task)
        if dataset.labels:
            config.num_labels = len(dataset.labels)
        found = cls(recipe, config, processor)
        if len(dataset.train) <= MOST_ROWS:
            encoder = Encoder(recipe.task, processor, recipe.data, dataset.labels, config)
            found.encoded = encoder.encode(dataset.train)
            if recipe.task == "image-classification":
                pixels = encoder.collate(found.encoded.features[:1])["pixel_values"]
                found.image = (int(pixels.shape[1]), int(pixels.shape[2]), int(pixels.shape[3]))
        return found

    def shape(self, entry: MethodEntry) -> BatchShape:
        """The largest micro-batch: of the first epoch, or the largest that the recipe allows."""
        if self.encoded is None:
            return longest_allowed(self.recipe, entry.train, self.config)
        _, shape = largest_micro_batch(self.encoded, self.recipe.task, entry.train, self.recipe.seeds[0])
        return shape if self.image is None else shape.with_image(self.image)

    def steps(self, entry: MethodEntry) -> int | None:
        """Optimizer steps of a run, if the number of rows is known."""
        if self.encoded is None:
            return entry.train.max_steps
        per_epoch = math.ceil(len(self.encoded.lengths) / entry.train.batch_size)
        return min(entry.train.epochs * per_epoch, entry.train.max_steps or 2**62)

    def setup(self, entry: MethodEntry) -> Setup:
        """The entry, ready to be predicted."""
        setup = setup_of(self.recipe, entry, entry.build_config(), self.config, self.shape(entry))
        setup = setup.changed(processor=self.processor)
        if entry.budget is None:
            return setup
        with fake_mode():
            model = planned_model(setup)
            total = quant.parameter_count(model.base)
            method, _ = sized_for(setup.method, model.view, entry.budget, total)
        return setup.changed(method=method)


def setup_of(
    recipe: Recipe, entry: MethodEntry, method: MethodConfig, config: PreTrainedConfig, shape: BatchShape
) -> Setup:
    """All that the memory of an entry's step depends on."""
    train = entry.train
    return Setup(
        config=config,
        task=recipe.task,
        method=method,
        shape=shape,
        micro_batches=math.ceil(train.batch_size / (train.micro_batch_size or train.batch_size)),
        dtype=base_dtype(train.precision),
        quantization=entry.quantization,
        checkpointing=train.gradient_checkpointing,
        base_dropout=train.base_dropout,
        optimizer=train.optimizer,
        max_grad_norm=train.max_grad_norm,
        attention=recipe.model.attention,
        image_size=recipe.model.image_size,
        gpu=torch.cuda.is_available(),
    )


def forecast(
    recipe: Recipe,
    *,
    shape: str | None = None,
    memory: int | None = None,
    seconds: float | None = None,
    calibrate: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Predict memory, size and work of every entry of a recipe.

    Args:
        recipe: The recipe.
        shape: Name of a published model to ask about instead of the recipe's; data are not read then.
        memory: Bytes to stay within; settings that do are proposed. None: what this machine has.
        seconds: Time to stay within; implies `calibrate`.
        calibrate: Measure how fast this machine computes, to estimate times.
        observer: Is told of the progress.

    Returns:
        `machine`, `limit`, `lengths` (where they come from) and `entries`.
    """
    observer = observer or Silent()
    planned = Planned.of(recipe, shape=shape, observer=observer)
    machine = this_machine()
    limit = memory or machine["memory_bytes"]
    rates = Rates() if calibrate or seconds is not None else None
    entries = []
    for entry in recipe.methods:
        observer.stage(f"Predicting {entry.name}")
        try:
            found = _entry(planned, entry, limit, rates, asked=memory is not None, seconds=seconds)
        except DeltatuneError as error:
            found = {"name": entry.name, "method": entry.method, "error": str(error)}
        entries.append(found)
    return {
        "model": shape or recipe.model.name,
        "machine": machine,
        "limit_bytes": limit,
        "overhead_bytes": OVERHEAD,
        "lengths": "limits" if planned.encoded is None else "data",
        "entries": entries,
    }


def _entry(
    planned: Planned,
    entry: MethodEntry,
    limit: int,
    rates: Rates | None,
    *,
    asked: bool,
    seconds: float | None,
) -> dict[str, Any]:
    setup = planned.setup(entry)
    predict = _remembering()
    found = predict(setup)
    steps = planned.steps(entry) if setup.method.trains else 0
    result = {
        "name": entry.name,
        "method": entry.method,
        **described(setup, found),
        "steps": steps,
        "fits": fits(found.memory.total, limit),
    }
    if rates is not None and setup.method.trains:
        step = found.flops / rates.of(setup)
        result |= {"step_seconds": step, "seconds": None if steps is None else step * steps}
        if seconds is not None:
            result["steps_in_time"] = int(seconds / step)
    if not result["fits"]:
        result["changes"] = [change.as_dict() for change in changes(setup, limit, predict)]
    if asked or not result["fits"]:
        proposal = propose(setup, limit, predict)
        result["proposal"] = proposal and proposal.as_dict()
    return result


def _remembering() -> Predict:
    """Predictions of one entry, each setup once."""
    known: dict[Any, Prediction] = {}

    def find(setup: Setup) -> Prediction:
        bits = setup.quantization and setup.quantization.model_dump_json()
        key = (setup.shape, setup.micro_batches, setup.dtype, bits, setup.checkpointing)
        if key not in known:
            known[key] = predict_scaled(setup)
        return known[key]

    return find


def described(setup: Setup, found: Prediction) -> dict[str, Any]:
    """A prediction and what it is of, for JSON."""
    shape = setup.shape
    return {
        "memory": found.memory.as_dict(),
        "trained_parameters": found.trained_parameters,
        "stored_parameters": found.stored_parameters,
        "total_parameters": found.total_parameters,
        "file_bytes": found.file_bytes,
        "flops": found.flops,
        "sites": found.sites,
        "micro_batch": {
            "rows": shape.rows,
            "length": shape.length,
            "target_length": shape.target_length,
            "labelled": shape.labelled,
        },
        "micro_batches": setup.micro_batches,
        "precision": setup.quantization.format if setup.quantization else setup.dtype,
        "checkpointing": setup.checkpointing,
    }


def this_machine() -> dict[str, Any]:
    """What training would run on, and the memory that it has."""
    if torch.cuda.is_available():
        _, total = torch.cuda.mem_get_info()
        return {"device": torch.cuda.get_device_name(), "memory_bytes": int(total)}
    return {"device": "cpu", "memory_bytes": _memory_of_cpu()}


def _memory_of_cpu() -> int:
    """RAM of the machine, or the limit of the container if that is lower."""
    found = []
    for path, scale in (("/proc/meminfo", 1024), ("/sys/fs/cgroup/memory.max", 1)):
        try:
            words = Path(path).read_text(encoding="utf-8").replace("MemTotal:", "").split()
        except OSError:
            continue
        if words and words[0].isdecimal():
            found.append(int(words[0]) * scale)
    return min(found, default=0) or 8 * 2**30


def shape_recipe(name: str) -> Mapping[str, Any]:
    """A recipe for a published shape: full fine-tuning, LoRA and QLoRA, a row of 512 tokens at a time.

    Raises:
        ModelError: There is no such shape.
    """
    task, _ = shape_named(name)
    target = "target" if task not in CLASSIFICATION else "label"
    lora = {"lora": {"r": 16, "targets": ["all-linear"]}}
    return {
        "task": task,
        "model": name,
        "data": {
            "train": "unread.jsonl", "columns": {"input": "input", "target": target},
            "split": {"validation": 0.1, "test": 0.1}, "max_input_tokens": 448, "max_target_tokens": 64,
        },
        "methods": [
            "full",
            lora,
            lora | {"name": "qlora", "quantization": "nf4", "train": {"precision": "auto"}},
        ],
        "train": {"batch_size": 1, "precision": "bf16", "gradient_checkpointing": True},
    }  # fmt: skip
