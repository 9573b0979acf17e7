"""Deltas in Lightning's Trainer.

    model = deltatune.adapt(base, deltatune.AdaLoraConfig(target_r=4))
    delta = DeltaCallback(model, out="out/mine")
    Trainer(callbacks=[delta], max_epochs=3).fit(MyModule(model), rows)

`MyModule` holds the adapted model and calls it; its optimizer has `delta.parameters(lr=...)`. Checkpoints
leave the frozen base out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, RecipeError
from deltatune.integrations.loop import OwnLoop
from deltatune.integrations.required import require_adapted, require_one
from deltatune.results import Certificate

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise RecipeError(
        "the callback for Lightning needs the package lightning.", remedy="Install it: pip install lightning"
    ) from error

STATE = "deltatune"


class DeltaCallback(Callback):
    """Drives the delta of a model that a LightningModule holds.

    Args:
        model: With one delta attached and active (`deltatune.adapt`).
        out: Where the delta goes at the end, in `adapter/`.
        name: The delta, if it shall be checked that it is this one.
    """

    def __init__(self, model: AdaptedModel, *, out: str | Path, name: str | None = None) -> None:
        self.model, self.out = require_adapted(model), Path(out)
        self.name = require_one(model, name)
        self.loop: OwnLoop | None = None
        self._resumes: dict[str, Any] | None = None

    @property
    def certificate(self) -> Certificate | None:
        """What was proved, once training has ended."""
        return self.loop.certificate if self.loop is not None else None

    def parameters(self, lr: float) -> list[dict[str, Any]]:
        """Groups for the module's optimizer, each at the rate that the method gives it."""
        return OwnLoop(self.model, 1, self.out, self.name, 0).parameters(lr)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let checkpoints be read that have no base."""
        pl_module.strict_loading = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Lay the schedule out over the trainer's steps, and try what happens at the end.

        Raises:
            DeltatuneError: The module does not hold the model, or the trainer does what deltas cannot follow.
        """
        if not any(module is self.model for module in pl_module.modules()):
            raise AdapterError(
                f"{type(pl_module).__name__} does not hold the callback's model.",
                field="model",
                remedy="Make an attribute of it: self.model = model.",
            )
        if trainer.world_size > 1 or len(trainer.optimizers) != 1:
            raise RecipeError(
                "a delta is trained in one process, by one optimizer.",
                field="trainer",
                remedy="Set devices=1, and return one optimizer.",
            )
        steps = int(trainer.estimated_stepping_batches)
        loop = OwnLoop(self.model, steps, self.out, self.name, trainer.global_step)
        if self._resumes is not None:
            loop.take(self._resumes, "the checkpoint")
            self._resumes = None
        loop.begin()
        self.model.train()  # Lightning leaves each module in the mode that it is in
        self.loop = loop
        self._hook = trainer.optimizers[0].register_step_post_hook(self._after)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Add the penalty's gradient, before all are clipped, and act between backward and step."""
        assert self.loop is not None
        self.loop.add_penalty()
        self.loop.before_step()
        self._rates = self.loop.at_its_rates(optimizer)
        self._rates.__enter__()

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        assert self.loop is not None
        self.loop.after_step(optimizer)
        self._rates.__exit__(None, None, None)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the delta and its certificate.

        Raises:
            TrainingError: A check failed.
        """
        assert self.loop is not None
        self._hook.remove()
        self.loop.finish()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put the schedule into a checkpoint, and take the base out."""
        [path] = [name for name, module in pl_module.named_modules() if module is self.model]
        base = f"{path}.base."
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: t for key, t in weights.items() if not key.startswith(base)}
        if self.loop is not None:
            checkpoint[STATE] = self.loop.state()

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the schedule's state until training begins."""
        self._resumes = checkpoint.get(STATE)
