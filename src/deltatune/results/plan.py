"""What `plan` predicts, before a weight is loaded."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from deltatune.results.parts import Padding, StepBytes
from deltatune.results.record import Record


class Machine(Record):
    """What training would run on."""

    device: str
    """`cpu`, or the name of the GPU."""
    memory_bytes: int
    """The memory that it has."""


class MicroBatch(Record):
    """Sizes of the largest micro-batch."""

    rows: int
    """Rows that go through the model at once."""
    length: int
    """Tokens of the longest input, of a causal model with its target; 0 for images."""
    target_length: int
    """Tokens of the longest target of an encoder-decoder model, else 0."""
    labelled: int
    """Predictions that the loss is summed over."""


class RunDisk(Record):
    """Bytes that one run writes."""

    delta: int
    """The saved delta."""
    state: int
    """All from which an interrupted run goes on."""
    kept: int
    """The outputs of frozen layers, if memory is too short for them."""
    checkpoints: int = 0
    """The deltas of checkpoints that are kept."""
    predictions: int
    """Predictions of the test rows."""
    other: int
    """The log and the small files."""
    left: int
    """When the run is finished."""
    most: int
    """At any time: two states, for the moment in which one is replaced."""


class ComparisonDisk(Record):
    """Bytes that all runs of a recipe write."""

    runs: int
    """How many runs it has at most."""
    most: int
    """Bytes at any time."""
    left: int
    """Bytes at its end."""


class Change(Record):
    """Other settings, and what a step takes with them."""

    settings: dict[str, Any]
    """Dotted field of the recipe -> value, as `--set` takes them."""
    total: int
    """Bytes of tensors at the peak of a step."""
    fits: bool
    """Whether that fits."""
    note: str = ""
    """What it means for the result and for time, in words."""
    step_seconds: float | None = None
    """Seconds of a mean step; left out if times were not asked for."""


class PlannedEntry(Record):
    """What an entry of a recipe takes."""

    name: str
    """Its label in the recipe."""
    method: str
    """Its method."""
    start: str | None = Field(default=None, alias="from")
    """The saved delta that it starts from."""
    memory: StepBytes
    """Bytes of tensors at the peak of a training step."""
    trained_parameters: int
    """Parameters that get gradients, heads included."""
    stored_parameters: int
    """Numbers in the saved delta."""
    total_parameters: int
    """Of the base."""
    file_bytes: int
    """Size of the saved delta, about."""
    flops: int
    """Floating-point operations of an optimizer step."""
    sites: int
    """Parts of the delta."""
    micro_batch: MicroBatch
    """The largest one."""
    micro_batches: int
    """So many make an optimizer step."""
    precision: str
    """What the base's weights are kept in, such as `float32` or `nf4`."""
    checkpointing: bool
    """Whether activations are computed again in the backward pass."""
    processes: int = 1
    """How many hold the base together (train.shard); the memory is that of each."""
    bf16_bytes: int | None = None
    """What a step would take with `train.precision: bf16`, where `auto` means float32 though the processor
    has instructions for bfloat16; else left out."""
    steps: int | None
    """Optimizer steps of a run; null if the number of rows is not known."""
    lr: float | None = None
    """Peak learning rate of a run; null where nothing is trained, or the number of steps is not known."""
    lr_because: str | None = None
    """Where it comes from; null if the recipe names it."""
    disk: RunDisk
    """What a run writes."""
    fits: bool
    """Whether a step's tensors and the overhead stay within the limit."""
    warnings: list[str]
    """What must be known of the lengths of its rows."""
    padding: Padding | None = None
    """What padding comes to; null of tasks that do not pack rows, and where the rows are not known."""
    step_seconds: float | None = None
    """Seconds of a mean step; left out if times were not asked for, or nothing is trained."""
    seconds: float | None = None
    """Seconds of training, without evaluation."""
    steps_in_time: int | None = None
    """Steps that fit into the time that was given."""
    changes: list[Change] | None = None
    """Of an entry that does not fit: single changes with their effects."""
    proposal: Change | None = None
    """Settings that stay within what was given; null if nothing does, or none were asked for."""


class UnplannedEntry(Record):
    """An entry that cannot be planned."""

    name: str
    """Its label in the recipe."""
    method: str
    """Its method."""
    error: str
    """Why, with the remedy."""


class PlannedCurve(Record):
    """The further runs of a recipe's curves."""

    runs: int
    """How many, all seeds counted."""
    steps: int | None
    """Optimizer steps of all of them; null if the number of rows is not known."""
    entries: list[str] | None = None
    """Whose curves are drawn; null: that of one, which the ranking decides."""
    seconds: float | None = None
    """Seconds of training; null if times were not asked for."""


class Plan(Record):
    """What every entry of a recipe takes."""

    model: str
    """Name of the first base, or of the published model that was asked about."""
    shape: str | None = None
    """Of a published model: where its widths are printed, and what stands for it where it is closed."""
    machine: Machine
    """What training would run on."""
    limit_bytes: int
    """Bytes to stay within."""
    overhead_bytes: int
    """Those of them that are for what is no tensor."""
    lengths: str
    """Where sizes come from: `data`, or the recipe's `limits`."""
    disk: ComparisonDisk
    """What all runs write."""
    entries: list[PlannedEntry | UnplannedEntry]
    """The recipe's entries in their order."""
    curve: PlannedCurve | None = None
    """What its curves take besides; null without any."""

    @property
    def planned(self) -> list[PlannedEntry]:
        """Entries that can be planned."""
        return [entry for entry in self.entries if isinstance(entry, PlannedEntry)]

    @property
    def unplanned(self) -> list[UnplannedEntry]:
        """Entries that cannot."""
        return [entry for entry in self.entries if isinstance(entry, UnplannedEntry)]
