"""The parts of one run: what it has once it is open, and once it has begun."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from deltatune import quant
from deltatune.checkpoint.store import save_adapter
from deltatune.core.devices import to_device
from deltatune.core.model import AdaptedModel
from deltatune.data.beside_rows import BesideRows
from deltatune.errors import TrainingError
from deltatune.files import write_json
from deltatune.observer import Observer
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.results import BaseUsed, Origin, Padding
from deltatune.tasks import TASKS
from deltatune.timeline import Timeline
from deltatune.training.given.budget import Budget
from deltatune.training.given.context import Context, SharedBase
from deltatune.training.given.folder import failed_result
from deltatune.training.given.machine import PeakMemory
from deltatune.training.loop.steps import Progress
from deltatune.training.loop.trainer import Trainer
from deltatune.training.proof.certificate import Proof

REREAD = 4  # shortest training rows, on which the reloaded delta is compared; no more than a batch


@dataclass
class Run:
    """A run that is open: it holds its folder, and its adapter is in the model.

    `begin`, its training and `end` belong inside `failing`, with the adapter active.
    """

    context: Context
    recipe: Recipe
    """The run's own: of the entry alone, with all that it has of its own."""
    base: SharedBase
    model: AdaptedModel
    name: str
    """Of its adapter in the model."""
    entry: MethodEntry
    seed: int
    out: Path
    observer: Observer
    certificate: Proof
    budget: Budget | None
    origin: Origin | None
    """The saved delta that it started from."""
    resumes: bool
    """Whether there is a state to go on from."""
    started: datetime.datetime
    timeline: Timeline
    """Open while it is worked at."""
    closing: contextlib.ExitStack
    """Lets go of the folder and takes the adapter off the model."""

    def close(self) -> None:
        """Let others have the folder, and the model without the adapter."""
        self.closing.close()

    def __post_init__(self) -> None:
        self.data = self.context.data(self.entry, self.base)
        self.encoder = self.data.encoder
        self.inputs = self.data.inputs(
            self.base.fingerprint, self.base.dtype, self.origin.digest if self.origin else None
        )
        self.about_base = BaseUsed(
            name=self.base.spec.name,
            revision=self.base.spec.revision,
            dtype=self.base.dtype,
            why_dtype=self._why(),
            quantization=quant.describe(self.base.loaded.model),
            fingerprint=self.base.fingerprint,
            parameters=quant.parameter_count(self.base.loaded.model),
            head=self._head(),
        )
        self.config = self.model.configs[self.name]
        self.adapter = self.model.adapter(self.name)
        self.memory = PeakMemory(self.base.device)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """A failed certificate in the block is written down as the result.

        Raises:
            TrainingError: As the block does.
        """
        try:
            yield
        except TrainingError as error:
            if self.certificate.failed:
                failed = failed_result(self.entry, self.seed, error)
                write_json(self.out / "result.json", failed.as_dict())
            raise

    def stand_beside(self, beside: BesideRows) -> None:
        """Let its method stand beside the rows that are evaluated; those of training stay as they are."""
        self.data = self.data.with_beside(beside)
        self.encoder = self.data.encoder

    def shortest_rows(self) -> dict[str, Tensor]:
        """A batch of the shortest training rows."""
        train = self.data.encoded("train")
        shortest = sorted(range(len(train.lengths)), key=train.lengths.__getitem__)
        features = [train.features[row] for row in shortest[: min(REREAD, self.recipe.evaluation.batch_size)]]
        return to_device(self.encoder.collate(features), self.model.device)

    def write_delta(self, folder: Path) -> None:
        """Write its delta, as it is now, into a folder."""
        base = self.base
        save_adapter(self.model, self.name, folder, base_name=base.spec.name, fingerprint=base.fingerprint)

    def _why(self) -> str | None:
        """Why the base computes in its type, where the recipe leaves that to the machine."""
        if self.entry.train.precision != "auto" or self.entry.quantization is not None:
            return None
        found = self.context.automatic(self.base.spec)
        return found.why if found.dtype == self.base.dtype else "its code mixes precisions in bfloat16"

    def _head(self) -> str | None:
        """Whether a head for classes or a number is the base's own or a new one."""
        if not TASKS.get(self.recipe.task).new_head:
            return None
        return "new" if self.base.loaded.new_modules else "the base's"


@dataclass(frozen=True)
class Begun:
    """A run that is ready to be trained."""

    run: Run
    trainer: Trainer | None
    """None: its method trains nothing."""
    predicted: dict[str, int] | None
    """Bytes by part of a training step; None if nothing is trained, or memory is ample anyhow."""
    padding: Padding | None = None
    """What padding comes to in training; None if nothing is trained, or the task does not pack rows."""
    seen: Progress = field(default_factory=Progress)
    """What seeing the training rows cost a method that trains nothing."""
