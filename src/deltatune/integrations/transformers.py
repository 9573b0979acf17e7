"""Deltas in the trainers of Transformers (Trainer, Seq2SeqTrainer) and TRL (SFTTrainer, DPOTrainer).

    model = deltatune.adapt(base, deltatune.AdaLoraConfig(target_r=4))
    delta = DeltaCallback(model)
    SFTTrainer(delta.model, args, train_dataset=rows, callbacks=[delta]).train()

The delta's schedule is laid out over the steps that the trainer really makes. Checkpoints hold the delta in
our format. At the end it lies in `adapter/` of the output folder, with its certificate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments, TrainerCallback, TrainingArguments

from deltatune.core.delta import Dropout
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, RecipeError, TrainingError
from deltatune.integrations.loop import OwnLoop
from deltatune.integrations.required import require_adapted, require_one, require_rates, searches
from deltatune.integrations.trainer_model import TrainerModel
from deltatune.results import Certificate

ONE_PROCESS = "in a trainer a delta is trained in one process, on one GPU"


class DeltaCallback(TrainerCallback):
    """Drives a delta in a trainer, and is given to it together with its `model`.

    Args:
        model: With one delta attached and active (`deltatune.adapt`).
        name: The delta, if it shall be checked that it is this one.
        out: Where the delta goes at the end. Default: the trainer's output folder.

    Raises:
        AdapterError: It is no adapted model, or no delta or several are active.
    """

    def __init__(
        self, model: AdaptedModel, *, name: str | None = None, out: str | Path | None = None
    ) -> None:
        self.model = TrainerModel(require_adapted(model), require_one(model, name))
        """What the trainer gets as its model."""
        self.out = out
        self.loop: OwnLoop | None = None
        self._state: Any = None  # of the trainer's latest training

    @property
    def certificate(self) -> Certificate | None:
        """What was proved, once training has ended."""
        return self.loop.certificate if self.loop is not None else None

    def parameters(self, lr: float) -> list[dict[str, Any]]:
        """Groups for an optimizer, for methods whose parts learn at rates of their own (lora_plus).

        `optimizers=(torch.optim.AdamW(delta.parameters(lr=1e-3)), None)` gives them to a trainer.
        """
        return OwnLoop(self.model.adapted, 1, Path(), self.model.trained, 0).parameters(lr)

    def on_init_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """See that the trainer got what it needs.

        Raises:
            AdapterError: It got another model.
        """
        if given.get("model") is not self.model:
            other = isinstance(given.get("model"), TrainerModel)
            kind = "of another DeltaCallback" if other else f"a {type(given.get('model')).__name__}"
            raise AdapterError(
                f"the trainer got another model ({kind}).",
                field="model",
                remedy="Give it the callback's: Trainer(delta.model, ..., callbacks=[delta]).",
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Lay the schedule out over the trainer's steps, and try what happens at the end.

        Raises:
            DeltatuneError: The trainer does something that a delta cannot follow, or the schedule does not
                fit into its steps.
        """
        self.on_init_end(args, state, control, **given)
        self.model.loop = None  # of a training that broke off
        if state is self._state:
            raise RecipeError(
                "the trainer has this callback twice.", field="callbacks", remedy="Give it once."
            )
        self._state = state
        model = self.model
        _require_followed(args)
        loop = OwnLoop(model.adapted, state.max_steps, self._out(args), model.trained, state.global_step)
        if model.resumes is not None:
            loop.load(model.resumes)
            model.resumes = None
        if searches(loop.adapter):
            _require_plain_loss(args)
            model.calls = []
        require_rates(loop.adapter, given["optimizer"])
        if getattr(args, "disable_dropout", False):
            for module in loop.adapter.modules():
                if isinstance(module, Dropout):
                    module.p = 0.0
        loop.begin()
        self.loop = model.loop = loop

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Add the penalty's gradient, before those of the step's batches and before all are clipped."""
        if self.model.calls is not None:
            self.model.calls.clear()
        self._driven.add_penalty(getattr(given["optimizer"], "scaler", None))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Act between the backward passes and the optimizer."""
        loop = self._driven
        loop.before_step(self._loss if self.model.calls else None)
        self._rates = loop.at_its_rates(given["optimizer"])
        self._rates.__enter__()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Act behind the optimizer, while the gradients are still there."""
        self._driven.after_step(given["optimizer"])
        self._rates.__exit__(None, None, None)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Write the delta and its certificate.

        Raises:
            TrainingError: A check failed: the schedule did not run to its end, for example.
        """
        loop, self.model.loop, self.model.calls = self._driven, None, None
        try:
            loop.finish()
        except TrainingError as error:
            raise TrainingError(error.what, field=error.field, remedy=_mended(error, args, state)) from error

    @property
    def _driven(self) -> OwnLoop:
        if self.loop is None:
            raise TrainingError(
                "a step was made before training began.",
                field="callbacks",
                remedy="Give the callback to one trainer, when that is made.",
            )
        return self.loop

    def _out(self, args: Any) -> Path:
        return Path(self.out if self.out is not None else args.output_dir)

    @torch.no_grad()
    def _loss(self) -> float:
        """The loss of the step's batches anew."""
        calls = list(self.model.calls or ())
        return sum(float(self.model.adapted(**call).loss) for call in calls) / max(len(calls), 1)


def _require_followed(args: Any) -> None:
    """Refuse what a delta cannot follow.

    Raises:
        RecipeError: Several processes or GPUs, a sharded model, or a base whose numbers would be changed.
    """
    parts = max(args.world_size, args.n_gpu)
    if parts > 1 or args.deepspeed or args.fsdp:
        raise RecipeError(
            f"{ONE_PROCESS}; this trainer has {parts} of them{', or shards it' if parts == 1 else ''}.",
            field="args",
            remedy="Start it without a distributed launcher, and show it one GPU: CUDA_VISIBLE_DEVICES=0.",
        )
    if args.fp16_full_eval or args.bf16_full_eval:
        raise RecipeError(
            "fp16_full_eval and bf16_full_eval round the base's own weights.",
            field="args",
            remedy="Load the base in that precision: from_pretrained(..., dtype=torch.bfloat16).",
        )


def _require_plain_loss(args: Any) -> None:
    """Refuse a loss that is not the model's own, where a method searches by it.

    Raises:
        RecipeError: It may be another.
    """
    plain = type(args) in (TrainingArguments, Seq2SeqTrainingArguments)
    plain = plain or getattr(args, "loss_type", None) == "nll"
    if not plain or args.gradient_accumulation_steps > 1:
        raise RecipeError(
            "a method that searches judges changes by the model's own loss of one batch, which is not what "
            f"a trainer with {type(args).__name__} and {args.gradient_accumulation_steps} accumulated "
            "batches trains.",
            field="args",
            remedy="Train it with Trainer or SFTTrainer and one batch a step, or in a loop of your own.",
        )


def _mended(error: TrainingError, args: Any, state: Any) -> str | None:
    """What to do about a failed check, as this trainer has it."""
    if "final budget" not in error.what:
        return error.remedy
    if state.global_step < state.max_steps:
        return (
            f"Training stopped after {state.global_step} of {state.max_steps} steps. Let it make all, or "
            f"give it max_steps={state.global_step}, over which the schedule is then laid out."
        )
    if args.load_best_model_at_end:
        return (
            f"The best checkpoint ('{state.best_model_checkpoint}') is from before the schedule's end. Set "
            "load_best_model_at_end=False, or let the schedule end earlier."
        )
    return error.remedy
