"""What `doctor` finds out about a machine."""

from __future__ import annotations

from deltatune.results.record import Record


class Speed(Record):
    """Matrix products of 1024 x 1024, the best of a few."""

    float32: float
    """Floating-point operations a second, in float32 as training computes it."""
    bfloat16: float
    """The same in bfloat16."""


class Extra(Record):
    """A part of deltatune that needs packages of its own."""

    name: str
    """As in `pip install "deltatune[NAME]"`."""
    serves: str
    """What it is for."""
    missing: list[str]
    """Packages that are not there, or too old, with the versions that are needed."""


class Advice(Record):
    """Something that could be better, and one command or setting that mends it."""

    what: str
    """What is found."""
    remedy: str
    """What mends it."""


class Diagnosis(Record):
    """What a machine can do."""

    processor: str
    """Its name."""
    cores: int
    """Of the machine."""
    physical: int | None = None
    """Those that are cores of their own, and no second thread of one; null if the system does not say it."""
    granted: int
    """Of all, those that this process may use."""
    threads: int
    """With which training would compute."""
    threads_gain: float | None = None
    """How many times as fast they are as one; null for one, and if that was not measured."""
    bfloat16: bool
    """Whether the GPU, or without one the processor, has instructions for products of bfloat16."""
    precision: str
    """What `train.precision: auto` means here."""
    why_precision: str = ""
    """Why."""
    gpus: list[str]
    """Names of GPUs that torch can use."""
    memory_bytes: int
    """RAM of the machine, or of the container's limit."""
    free_memory_bytes: int
    """RAM that can still be taken."""
    gpu_memory_bytes: int | None
    """Of the first GPU."""
    free_disk_bytes: int
    """Where the command runs."""
    cache: str
    """Folder of converted models."""
    offline: bool
    """Whether the Hugging Face Hub is switched off."""
    versions: dict[str, str]
    """Of everything that numbers depend on."""
    extras: list[Extra]
    """Parts that need packages of their own."""
    speed: Speed | None
    """How fast it computes; null if that was not asked for."""
    advice: list[Advice]
    """What could be better."""
