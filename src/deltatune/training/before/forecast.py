"""The plan of memory and time: what each entry of a recipe takes, before a weight is loaded."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from deltatune import quant
from deltatune.core.devices import computes_bfloat16, device_of, memory_left, name_of, on_gpu
from deltatune.core.method import MethodConfig
from deltatune.core.offload import place_of_rest
from deltatune.core.sites import BaseView
from deltatune.data.dataset import Dataset
from deltatune.data.encode import Encoded, Encoder
from deltatune.errors import DeltatuneError, ModelError
from deltatune.memory.base import fake_mode, stores_head
from deltatune.memory.batch import Largest, largest_micro_batch, longest_allowed
from deltatune.memory.fit import OVERHEAD, changes, fits, propose, remembering
from deltatune.memory.predict import Prediction, Setup, planned_model
from deltatune.memory.scale import computed_dtype, predict_scaled, shallow_model
from deltatune.memory.shapes import SHAPES, shape_named
from deltatune.models.labels import set_outputs
from deltatune.models.processor import load_processor
from deltatune.models.source import locate
from deltatune.models.tasks import possible_tasks, supports
from deltatune.observer import Observer, Silent
from deltatune.phrasing import listing
from deltatune.quant.stored import plain_config
from deltatune.recipe.base_sections import ModelSpec
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.sections import PARTS
from deltatune.results import ComparisonDisk, Machine, Padding, Plan, PlannedEntry, UnplannedEntry
from deltatune.tasks import TASKS
from deltatune.tasks.shapes import BatchShape
from deltatune.training.before.curve_runs import curve_runs
from deltatune.training.before.disk import Disk, disk_of, disk_of_all
from deltatune.training.before.longest_rows import new_tokens, require_positions
from deltatune.training.before.machine_speed import MachineSpeed
from deltatune.training.before.packing import padding_of
from deltatune.training.before.writing import resting_too_much, writing_too_much
from deltatune.training.given.budget import sized_for
from deltatune.training.given.context import Context, base_dtype, eager_up_to
from deltatune.training.given.course import planned_rate
from deltatune.training.given.machine import total_memory
from deltatune.training.given.readings import read_data
from deltatune.training.given.split_contexts import rows_of_seeds
from deltatune.training.given.start import settings_of

MOST_ROWS = 20_000
"""With more training rows than these the longest ones are not looked for; the recipe's limits are taken."""


@dataclass
class Planned:
    """What is known of a recipe without its base's weights."""

    recipe: Recipe
    spec: ModelSpec
    config: PreTrainedConfig
    processor: Any = None
    parts: dict[str, Encoded] = field(default_factory=dict)
    """The rows by their part; of images the training rows alone. None where there are too many."""
    untied: bool = False
    """Whether the checkpoint has output embeddings of its own."""
    dataset: Dataset | None = None
    """The rows; None where they are not read."""
    pixels: Tensor | None = None
    """The first image, as the model reads it."""

    @classmethod
    def of(
        cls, recipe: Recipe, entry: MethodEntry, datasets: Mapping[str, Dataset], *, shape: str | None
    ) -> Planned:
        """Read a model's configuration and tokenizer, and encode the data; or take a published `shape`.

        Args:
            recipe: The recipe.
            entry: Any of those on the model that read the rows in the same way.
            datasets: The rows by template; none where they are not read.
            shape: The name of a model to ask about instead.

        Raises:
            DeltatuneError: They cannot be read.
        """
        spec, data = recipe.model_of(entry), recipe.data_of(entry)
        if shape is not None:
            config = shape_named(shape)
            if not supports(config, recipe.task):
                raise ModelError(
                    f"{shape} is a model for {listing(possible_tasks(config), 'or')}, and the recipe's task "
                    f"is {recipe.task}.",
                    field="--shape",
                    remedy="Ask about a shape for this task, or give no recipe.",
                )
            return cls(recipe, spec, config)
        dataset = datasets[data.template]
        processor, facts = load_processor(spec, recipe.task)
        config = facts.config
        set_outputs(config, recipe.task, dataset.labels)
        found = cls(recipe, spec, config, processor, dataset=dataset)
        folder = Path(locate(spec).path)
        found.untied = folder.is_dir() and stores_head(folder)
        if len(dataset.train) <= MOST_ROWS:
            encoder = Encoder(recipe.task, processor, data, dataset.labels, facts, dataset.scale)
            named = PARTS if TASKS.get(recipe.task).reads == "text" else ("train",)
            rows = {part: getattr(dataset, part) for part in named}
            found.parts = {part: encoder.encode(rows[part]) for part in rows if rows[part]}
            found.pixels = encoder.collate(found.parts["train"].features[:1]).get("pixel_values")
        return found

    @property
    def encoded(self) -> Encoded | None:
        """The training rows, if they could be read."""
        return self.parts.get("train")

    def largest(self, entry: MethodEntry) -> Largest:
        """The largest micro-batch: of the first epoch, or the largest that the recipe allows."""
        if self.encoded is None:
            return Largest([], longest_allowed(self.recipe, entry, self.config), ())
        seed, task, padding = self.recipe.seeds[0], self.recipe.task, self.padding(entry)
        packed = padding is not None and padding.packed
        found = largest_micro_batch(self.encoded, task, entry.train, seed, packed=packed)
        return found.with_images(self.pixels)

    def padding(self, entry: MethodEntry) -> Padding | None:
        """What padding comes to in a run, if the rows are known and the task may pack them.

        Raises:
            TargetError: The recipe asks for packing, and this base cannot do it.
        """
        if self.encoded is None:
            return None
        return planned_padding(self._bare(entry), self.recipe, entry, self.encoded)

    def _bare(self, entry: MethodEntry) -> Setup:
        """The entry on its model and device, without its rows."""
        device = device_of(self.recipe.device)
        return setup_of(self.recipe.task, self.spec, entry, settings_of(entry), self.config, device)

    def steps(self, entry: MethodEntry) -> int | None:
        """Optimizer steps of a run, if the number of rows is known."""
        if self.encoded is None:
            return entry.train.max_steps
        return entry.train.steps(len(self.encoded.lengths))

    def setup(self, entry: MethodEntry) -> Setup:
        """The entry, ready to be predicted."""
        setup = self._bare(entry)
        setup = setup.changed(dtype=computed_dtype(setup))
        largest = self.largest(entry)
        setup = setup.changed(
            shape=largest.shape, exact=largest.step, processor=self.processor, untied=self.untied
        )
        return sized(setup, entry)


def sized(setup: Setup, entry: MethodEntry) -> Setup:
    """The setup with the size that the entry's budget, if it has one, comes to.

    Raises:
        RecipeError: The budget is smaller than the method can be.
    """
    if entry.budget is None:
        return setup
    with fake_mode():
        model = planned_model(setup)
        total = quant.parameter_count(model.base)
        method, _ = sized_for(setup.method, model.view, entry.budget, total)
    return setup.changed(method=method)


def setup_of(  # noqa: PLR0917
    task: str,
    spec: ModelSpec,
    entry: MethodEntry,
    method: MethodConfig,
    config: PreTrainedConfig,
    device: torch.device,
) -> Setup:
    """All that the memory of an entry's step depends on, but the sizes of its batch."""
    train = entry.train
    return Setup(
        config=plain_config(config) if spec.dequantize else config,
        task=task,
        method=method,
        shape=BatchShape(1),
        micro_batches=math.ceil(train.batch_size / (train.micro_batch_size or train.batch_size)),
        dtype=base_dtype(train.precision, device),
        quantization=entry.quantization,
        offload=place_of_rest(train.offload, device) is not None,
        checkpointing=train.gradient_checkpointing,
        base_dropout=train.base_dropout,
        optimizer=train.optimizer,
        max_grad_norm=train.max_grad_norm,
        attention=spec.anywhere.attention,  # what kernels of GPUs keep is what SDPA keeps
        eager_up_to=eager_up_to(spec, device),
        image_size=spec.image_size,
        trust_remote_code=spec.trust_remote_code,
        device=device.type,
    )


def forecast(
    recipe: Recipe,
    *,
    shape: str | None = None,
    memory: int | None = None,
    seconds: float | None = None,
    calibrate: bool = False,
    processes: int = 2,
    observer: Observer | None = None,
) -> Plan:
    """Predict memory, size and work of every entry of a recipe.

    Args:
        recipe: The recipe.
        shape: Name of a published model to ask about instead of the recipe's; data are not read then.
        memory: Bytes to stay within; settings that do are proposed. None: what this machine has.
        seconds: Time to stay within; implies `calibrate`.
        calibrate: Measure how fast this machine computes, to estimate times.
        processes: How many share the base of an entry with `train.shard`; the memory is that of each. On a
            CPU they share the machine's.
        observer: Is told of the progress.

    Returns:
        The plan. An entry that cannot be planned, or whose rows are longer than the base's positions, is
        an `UnplannedEntry`.
    """
    observer = observer or Silent()
    datasets: dict[str, Dataset] = {}
    if shape is None:
        observer.stage("Reading the data")
        datasets = read_data(recipe)
    known: dict[Hashable, Planned] = {}
    machine = this_machine(device_of(recipe.device))
    limit = memory or machine.memory_bytes
    machine_is_shared = not on_gpu(device_of(recipe.device))
    rates = MachineSpeed() if calibrate or seconds is not None else None
    entries: list[PlannedEntry | UnplannedEntry] = []
    disks, warnings = [], dict[str, None]()
    for entry in recipe.methods:
        observer.stage(f"Predicting {entry.name}")
        key = recipe.model_of(entry), recipe.data_of(entry)
        try:
            if key not in known:
                known[key] = Planned.of(recipe, entry, datasets, shape=shape)
            several = processes if entry.train.shard else 1
            share = limit // (several if memory is None and machine_is_shared else 1)
            planned, disk = _entry(
                known[key], entry, share, rates, asked=memory is not None, seconds=seconds, processes=several
            )
            entries.append(planned)
            disks.append((entry, disk))
            warnings |= dict.fromkeys(planned.warnings)
        except DeltatuneError as error:
            entries.append(UnplannedEntry(name=entry.name, method=entry.method, error=str(error)))
        except (RuntimeError, ValueError, AssertionError) as error:  # code that looks at what tensors hold
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            why = (
                f"the code of {recipe.model_of(entry).name} does not run on tensors without data ({reason})."
            )
            entries.append(UnplannedEntry(name=entry.name, method=entry.method, error=why))
    for warning in warnings:
        observer.warn(warning)
    rows = rows_of_seeds(Context(recipe, observer, dict(datasets))) if recipe.curve and datasets else []
    curve = curve_runs(recipe, rows, [entry for entry in entries if isinstance(entry, PlannedEntry)])
    return Plan(
        model=shape or recipe.model.name,
        shape=SHAPES[shape].said(shape) if shape and shape in SHAPES else None,
        machine=machine,
        limit_bytes=limit,
        overhead_bytes=OVERHEAD,
        lengths="data" if any(planned.encoded for planned in known.values()) else "limits",
        disk=ComparisonDisk.model_validate(disk_of_all(recipe, disks, curve)),
        entries=entries,
        curve=curve,
    )


def _slow_in_bfloat16(setup: Setup) -> bool:
    """Whether a processor has instructions for bfloat16, and float32 is taken since it is faster."""
    device, half = torch.device(setup.device), setup.changed(dtype="bfloat16")
    if on_gpu(device) or not computes_bfloat16(device) or base_dtype("auto", device) == "bfloat16":
        return False
    return computed_dtype(half) == "bfloat16"


def _entry(
    planned: Planned,
    entry: MethodEntry,
    limit: int,
    rates: MachineSpeed | None,
    *,
    asked: bool,
    seconds: float | None,
    processes: int,
) -> tuple[PlannedEntry, Disk]:
    setup = planned.setup(entry).changed(processes=processes)
    predict = remembering(predict_scaled)
    found = predict(setup)
    warnings = require_positions(found.room, setup.task, planned.parts, new_tokens(planned.recipe))
    warnings += writing_too_much(planned.recipe, planned.parts, setup, found, limit)
    warnings += resting_too_much(entry, setup, found)
    steps = planned.steps(entry) if setup.method.trains else 0
    disk = disk_of(
        planned.recipe, entry, setup, found, dataset=planned.dataset,
        lengths=None if planned.encoded is None else planned.encoded.lengths, steps=steps,
    )  # fmt: skip
    result: dict[str, Any] = {
        "name": entry.name,
        "method": entry.method,
        "from": entry.start,
        **described(setup, found),
        "steps": steps,
        **planned_rate(entry, setup, steps),
        "disk": disk.as_dict(),
        "fits": fits(found.memory.total, limit),
        "warnings": warnings,
        "padding": planned.padding(entry) if setup.method.trains else None,
    }
    if entry.train.precision == "auto" and entry.quantization is None and _slow_in_bfloat16(setup):
        result["bf16_bytes"] = predict(setup.changed(dtype="bfloat16")).memory.total
    clock = rates if setup.method.trains else None
    share = planned.largest(entry).share
    if clock is not None:
        step = share * found.flops / clock.of(setup)
        result |= {"step_seconds": step, "seconds": None if steps is None else step * steps}
        if seconds is not None:
            result["steps_in_time"] = int(seconds / step)
    if not result["fits"]:
        result["changes"] = [change.as_dict() for change in changes(setup, limit, predict)]
    if asked or seconds is not None or not result["fits"]:
        proposal = propose(setup, limit, predict)
        result["proposal"] = proposal and proposal.as_dict()
        if clock is not None and proposal is not None and proposal.setup is not None:
            step = share * predict(proposal.setup).flops / clock.of(proposal.setup)
            result["proposal"] |= {"step_seconds": step}
            if steps is not None and seconds is not None and step < seconds < step * steps:
                result["proposal"]["settings"] |= {"train.max_steps": int(seconds / step)}
    return PlannedEntry.model_validate(result), disk


def planned_padding(setup: Setup, recipe: Recipe, entry: MethodEntry, encoded: Encoded) -> Padding | None:
    """What padding comes to in a run of the entry on rows that are encoded; as `padding_of`."""

    def view() -> BaseView:
        with fake_mode():
            return shallow_model(setup).view

    return padding_of(
        recipe.task, recipe.data, entry.train, lengths=encoded.lengths, view=view, seed=recipe.seeds[0]
    )


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
        "precision": setup.precision,
        "checkpointing": setup.checkpointing,
        "processes": setup.processes,
    }


def this_machine(device: torch.device) -> Machine:
    """What training would run on, and the memory that it has; of a GPU, what other processes leave of it."""
    memory = memory_left(device) if on_gpu(device) else total_memory()
    return Machine(device=name_of(device), memory_bytes=memory)
