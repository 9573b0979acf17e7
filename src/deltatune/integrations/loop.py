"""A training loop of one's own: what it calls, so that a method's schedule runs and the result is proved.

    model = deltatune.adapt(base, deltatune.AdaLoraConfig(target_r=4))
    with deltatune.own_loop(model, steps=len(batches), out="out/mine") as loop:
        optimizer = torch.optim.AdamW(loop.parameters(lr=5e-3))
        for batch in batches:
            model(**batch).loss.backward()
            loop.step(optimizer)

The method's penalty enters as its gradient, once a step of the optimizer and before gradients are clipped.
So it has the same weight whatever the loss is and in however many parts it is accumulated.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from deltatune.checkpoint.inspection import CERTIFICATE
from deltatune.checkpoint.rehearsal import rehearse_saving
from deltatune.checkpoint.resume import load_state, save_state
from deltatune.checkpoint.saved import TENSORS
from deltatune.checkpoint.store import save_adapter
from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, TrainingError
from deltatune.files import make_folder, sha256
from deltatune.integrations.required import (
    require_adapted,
    require_one,
    require_rates,
    require_same,
    searches,
)
from deltatune.integrations.sample import KEPT, Sample
from deltatune.models.fingerprint import fingerprint
from deltatune.results import Certificate
from deltatune.training.loop.state import adapter_state, load_adapter_state, state_explained, state_lines
from deltatune.training.proof.certificate import Proof, snapshot

ADAPTER = "adapter"


def own_loop(
    model: AdaptedModel, *, steps: int, out: str | Path, name: str | None = None, done: int = 0
) -> OwnLoop:
    """Train the delta of `model` in a loop of one's own, within a `with` block.

    At its start the method lays its schedule out, and saving is tried. At its end the delta is written to
    `out/adapter`, with what was proved of it in `out/certificate.json`.

    Args:
        model: With the delta attached and active (`deltatune.adapt`).
        steps: Steps of the optimizer that the loop will make in all; schedules are laid out over them.
        out: The folder to write to.
        name: Which delta; needed if several are active.
        done: Steps made before, of a loop that goes on (`OwnLoop.load`).

    Raises:
        DeltatuneError: No delta or several are active, there is nothing to train, or the schedule does not
            fit into so few steps.
        TrainingError: At the end: the schedule did not run to its end, the base was altered, or the delta
            does not read back.
    """
    return OwnLoop(model, steps, Path(out), name, done)


class OwnLoop:
    """What a training loop tells a delta. Made by `own_loop`; integrations call its parts one by one.

    Attributes:
        certificate: What was proved, once the block has ended.
        taken: Steps of the optimizer so far.
        numbers: What the method reported of the latest step, such as its rank budget.
    """

    def __init__(self, model: AdaptedModel, steps: int, out: Path, name: str | None, done: int) -> None:
        self.model, self.steps, self.out = require_adapted(model), steps, out
        self.name = require_one(model, name)
        self.adapter: Adapter = model.adapter(self.name)
        self.taken = done
        self.numbers: dict[str, float] = {}
        self.certificate: Certificate | None = None
        config = model.configs[self.name]
        about = {"name": self.name, "method": config.name, "seed": self.adapter.clock.seed}
        self.proof = Proof(out / CERTIFICATE, about)
        self.fingerprint: str | None = None
        self._learned = self._begun = False
        self._tick = self.adapter.clock.tick
        self._sample = Sample(model)

    def begin(self) -> None:
        """Lay the schedule out, try to save, and note what the base is.

        Raises:
            DeltatuneError: As of `own_loop`.
        """
        if self.steps < 1:
            raise TrainingError(f"{self.steps} steps are none.", field="steps", remedy="Make one or more.")
        if self.taken >= self.steps:
            raise TrainingError(
                f"{self.taken} of {self.steps} steps are made already, so none is left.",
                field="steps",
                remedy="Go on from an earlier state, or announce more steps. A trainer's last checkpoint "
                "holds the delta: AdaptedModel(base).load(checkpoint).",
            )
        make_folder(self.out, field="out")
        self.adapter.start(self.steps)
        self.proof.targets(self.model, self.name)
        rehearse_saving(self.model, self.name, self.out)
        with self.model.using():
            before = fingerprint(self.model.base)
        if self.fingerprint is not None and self.fingerprint != before:
            raise AdapterError(
                "this base is not the one that the loop began with: its hash differs.",
                remedy="Load the same weights, in the same precision.",
            )
        self.fingerprint = before
        self._begun = True
        self._before, self._fired = snapshot(self.adapter), self.model.fired()
        self._sample.listen()

    def parameters(self, lr: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer, each at the rate that its method gives it (LoRA+'s B, gates).

        Args:
            lr: The rate of whatever has no rate of its own.
        """
        grouped: dict[float, dict[str, Any]] = {}
        for name, parameter in self.adapter.trainable():
            factor = self.adapter.lr_factor(name)
            group = {"params": [], "lr": lr * factor, "factor": factor, "first": name}
            grouped.setdefault(factor, group)["params"].append(parameter)
        return list(grouped.values())

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        max_grad_norm: float | None = None,
        loss: Callable[[], float] | None = None,
    ) -> None:
        """Make one step of the optimizer with the gradients that there are, and clear them.

        Args:
            optimizer: Over `parameters`; one that Accelerate has prepared is right too.
            max_grad_norm: Largest norm of all gradients; None for no clipping.
            loss: Gives the loss of the step's rows anew, without gradients; only methods that search need it.

        Raises:
            TrainingError: There were steps enough, no gradients are there, the model was not called, or the
                delta does not learn.
        """
        if all(parameter.grad is None for _, parameter in self.adapter.trainable()):
            raise TrainingError(
                "no part of the delta has a gradient.",
                field="optimizer",
                remedy="Call backward() of the loss before each step, and zero_grad() nowhere: step does.",
            )
        self.add_penalty(getattr(optimizer, "scaler", None))
        if max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_([p for _, p in self.adapter.trainable()], max_grad_norm)
        self.before_step(loss)
        with self.at_its_rates(optimizer):
            optimizer.step()
        self.after_step(optimizer)
        optimizer.zero_grad(set_to_none=True)

    def add_penalty(self, scaler: Any = None) -> None:
        """Add the gradient of the method's penalty to those of the parameters, once for each step.

        Args:
            scaler: Of gradients in float16, by which they are larger at this time.
        """
        penalty = self.adapter.penalty()
        if penalty is not None:
            (penalty if scaler is None else scaler.scale(penalty)).backward()

    def before_step(self, loss: Callable[[], float] | None = None) -> None:
        """Act between the backward pass and the optimizer.

        Raises:
            TrainingError: There were steps enough, training has not begun, or the method needs the loss.
        """
        self._require_begun()
        if self.taken >= self.steps:
            raise TrainingError(
                f"step {self.taken + 1} is one more than the {self.steps} that were announced.",
                field="steps",
                remedy="Announce all: rows / (batch * accumulated batches), rounded up, for each epoch.",
            )
        if searches(self.adapter) and loss is None:
            raise TrainingError(
                f"{self.proof.about['method']} tries changes in every step and judges them by the loss.",
                field="loss",
                remedy="Give step(optimizer, loss=...), which computes the loss of the step's rows anew.",
            )
        if loss is not None:
            self.adapter.before_step(self.taken + 1, loss)

    @contextlib.contextmanager
    def at_its_rates(self, optimizer: Any) -> Iterator[None]:
        """Within the block each group has the rate that its method gives it now.

        Raises:
            TrainingError: Parts learn at rates of their own, and the optimizer does not know.
        """
        require_rates(self.adapter, optimizer)
        given = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            if "factor" in group:
                group["lr"] *= self.adapter.lr_factor(group["first"]) / group["factor"]
        try:
            yield
        finally:
            for group, lr in zip(optimizer.param_groups, given, strict=True):
                group["lr"] = lr

    def after_step(self, optimizer: Any) -> None:
        """Act behind the optimizer, while the gradients are still there; the first time, check the delta.

        Raises:
            TrainingError: A part of it was not reached, got no gradient or did not change.
        """
        self.taken += 1
        if self.adapter.clock.tick == self._tick:
            raise TrainingError(
                "the model was not called in training mode since the last step.",
                field="model",
                remedy="Call the AdaptedModel itself, after model.train(), and not its base.",
            )
        self._tick = self.adapter.clock.tick
        if getattr(optimizer, "step_was_skipped", False):  # gradients overflowed in float16
            return
        self.numbers = self.adapter.after_step(self.taken)
        rates = [group["lr"] for group in optimizer.param_groups]
        if not self._learned and all(float(rate) > 0 for rate in rates):  # a warm-up may begin with 0
            self.proof.taps_fired(self.model, self._fired)
            self.proof.learned(self.adapter, self._before, self._sample.loss)
            self._learned = True

    def state(self) -> dict[str, Any]:
        """All that a loop needs to go on from here: a tree of tensors, numbers and texts."""
        return {
            "method": self.proof.about["method"],
            "settings": self.model.configs[self.name].model_dump(mode="json"),
            "step": self.taken,
            "steps": self.steps,
            "base": self.fingerprint,
            "learned": self._learned,
            "adapter": adapter_state(self.adapter),
            "certificate": [line.as_dict() for line in self.proof.lines],
        }

    def take(self, state: dict[str, Any], where: str | Path) -> None:
        """Take up what `state` gave, the number of steps taken among it.

        Args:
            state: As `state` gave it.
            where: The folder or file that it comes from, for messages.

        Raises:
            AdapterError: It is of another method, settings or base, or lacks a part.
        """
        config = self.model.configs[self.name]
        require_same(config, state, where)
        with state_explained(Path(where)):
            if state["steps"] != self.steps and type(self.adapter).start is not Adapter.start:
                warnings.warn(
                    f"the schedule of {config.name} was laid out over {state['steps']} steps, and is now "
                    f"over {self.steps}.",
                    stacklevel=2,
                )
            load_adapter_state(self.adapter, state["adapter"], self.model.device)
            self.proof.take(state_lines(state["certificate"], Path(where)))
            self.taken, self._learned = state["step"], state["learned"]
            self._tick, self.fingerprint = self.adapter.clock.tick, state["base"]

    def save(self, folder: str | Path) -> None:
        """Write `state` to a folder; `load` takes it up."""
        save_state(Path(folder), self.state())

    def load(self, folder: str | Path) -> None:
        """Take up what `save` wrote.

        Raises:
            AdapterError: It is damaged, or as of `take`.
        """
        self.take(load_state(Path(folder)), folder)

    def finish(self) -> None:
        """Check that the schedule ended where it promises, write the delta, and prove what was written.

        Raises:
            TrainingError: A check failed; `certificate.json` says which.
        """
        model, folder, training = self.model, self.out / ADAPTER, self.model.training
        self._require_begun()
        self._sample.close()
        assert self.fingerprint is not None
        model.eval()
        try:
            self.proof.finite(self.adapter)
            self.proof.final_budget(self.adapter)
            save_adapter(model, self.name, folder, fingerprint=self.fingerprint)
            self.proof.about["delta"] = {"sha256": sha256(folder / TENSORS)}
            with model.using(self.name):
                self.proof.reads_back(model, self.name, folder, self._sample.logits, KEPT, self.fingerprint)
            with model.using():
                after = fingerprint(model.base)
            self.proof.base_unchanged(self.fingerprint, after)
            self.proof.write(folder / CERTIFICATE)
            self.certificate = self.proof.certificate
        finally:
            model.train(training)

    def _require_begun(self) -> None:
        if not self._begun:
            raise TrainingError(
                "training has not begun.",
                field="steps",
                remedy="Make steps in `with deltatune.own_loop(...) as loop:`, or call begin() first.",
            )

    def __enter__(self) -> Self:
        self.begin()
        self.model.train()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self._sample.close()
