"""The section about training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, Strict, field_validator, model_validator

from deltatune.recipe.kinds import LARGEST_INT, Bool, ClassName, Count, Duration, Share, Text, Weight
from deltatune.recipe.rates import AUTO, Course, auto_rate, why
from deltatune.recipe.section import Section

if TYPE_CHECKING:
    from deltatune.core.method import MethodConfig

Kernels = Literal["triton", "liger", "cut-cross-entropy"]
"""As in `deltatune.core.fast.kernels`."""
HEAD_LR = 3e-3
"""The rate of new heads that a recipe without one gets; what it rests on: benchmarks/results/head_rate_*."""
TUNED = ("lr", "head_lr")
"""Fields of `train` that `tune` chooses."""


class TrainSpec(Section):
    """How deltas are trained. An entry under `methods` may override any field for itself."""

    later = ("class_weights", "loss", "offload", "kernels", "compile")

    epochs: Count = 3
    """Passes over the training rows."""
    max_steps: Count | None = None
    """Stop after so many optimizer steps, even within an epoch; schedules are laid out for it."""
    batch_size: Count = 16
    """Rows to an optimizer step."""
    micro_batch_size: Count | None = None
    """Rows that go through the model at once; gradients add up to `batch_size`. Null: `batch_size`."""
    auto_micro_batch: Bool = False
    """Where a GPU's memory runs out, halve the micro-batch, repeat the step, and go on so. The result is that
    of the smaller `micro_batch_size` from this step on: the same to rounding, but for masks of dropout."""
    lr: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] | Literal["auto"] | None = "auto"
    """Peak learning rate of AdamW. `auto`: the method's own, raised in short runs (`deltatune.recipe.rates`).
    Null: the method's own at any number of steps, as in versions up to 0.1."""
    head_lr: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] | Literal["lr"] | None = None
    """Peak learning rate of a classifier's new head, which every method trains besides: of its own, so that
    no comparison measures it. Null: 0.003. `lr`: each method's, as in versions up to 0.1."""
    optimizer: Literal["adamw", "adamw-8bit", "adamw-paged"] = "adamw"
    """AdamW, or on GPUs one that keeps its moments in 8 bits, or in memory that can move to the host."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: Share = 0.06
    """Share of the steps during which the learning rate rises."""
    weight_decay: Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)] = 0.0
    """AdamW's decoupled weight decay."""
    loss: Text = "auto"
    """What is minimised: the task's own loss, or `mae` in a task about numbers (the absolute error)."""
    class_weights: Literal["balanced"] | dict[ClassName, Weight] | None = None
    """What a training row of each class counts for in the loss: `balanced` (all rows / (classes x rows of the
    class)), or `{NAME: WEIGHT}`, 1 for the others. A step's loss is divided by the weights of its rows."""
    max_grad_norm: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] | None = 1.0
    """Gradients are scaled down to this norm; null for no clipping."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the frozen base; what is trained is always fp32. `auto`: bf16 where the GPU, or without
    one the CPU, has instructions for it, else fp32. There is no fp16: T5 overflows in it."""
    base_dropout: Bool = False
    """Whether the frozen base keeps its own dropout while training."""
    gradient_checkpointing: Bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    offload: Literal["cpu", "disk"] | None = None
    """Where the frozen base's layers rest, so that memory holds one at a time: `cpu`, in memory of the host,
    for a GPU; `disk`, in the model's files, for a GPU or none. The same result, slower."""
    bucket_by_length: Bool = True
    """Put rows of similar length in a batch, which saves padding."""
    cache_trunk: Bool = True
    """Keep the outputs of the layers below the lowest delta from one epoch to the next, in memory or in a
    temporary file, where there are such layers, several epochs and room. The same result to rounding."""
    compile: Bool | Literal["auto"] | None = None
    """Whether torch.compile makes graphs of the base's layers for the steps of a run: the same to rounding,
    after a minute or more of compiling. Batches are padded to few lengths for it. Where it does not work, the
    run goes on without and says why. `auto`: on GPUs, in runs of 500 steps and more. Null: false. `on` and
    `off` are understood as well."""
    shard: Bool = False
    """Spread the layers of the base over the processes that a launcher started; each holds a part of them."""
    deterministic: Bool = False
    """On a GPU, take kernels that add in the same order each time, where there are such: slower."""
    kernels: Annotated[list[Kernels], Field(min_length=1)] | None = None
    """Kernels for Nvidia's GPUs that compute parts of a step in another way, the same to rounding: `triton`
    (dropout and the low-rank update), `liger` (norms, gated products, rotations of positions),
    `cut-cross-entropy` (output head and loss). Null: none. They need the extra `kernels`; none has been
    measured on a GPU yet."""
    early_stopping: Count | None = None
    """Stop after so many evaluations without a better validation result; null to go on."""
    evaluate_every: Literal["epoch"] | Count = "epoch"
    """When to evaluate on the validation rows: `epoch`, or a number of steps."""
    checkpoint_every: Literal["epoch"] | Count | Duration = "epoch"
    """When to write a checkpoint to resume from: `epoch`, a number of steps, or a time such as `10min`, `30s`
    or `1h`. There is never more than one: the next takes its place."""
    keep_checkpoints: Annotated[int, Strict(), Field(ge=0, le=LARGEST_INT)] = 0
    """Keep the deltas of so many of the latest checkpoints besides, in `checkpoints/step-N` of the run.
    Each can be loaded, merged, or be the `from` of another run. Resuming takes the state, not these."""
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = Field(default=[])
    """Where to log besides metrics.jsonl; each needs its package."""

    @field_validator("compile", mode="before")
    @classmethod
    def _in_words(cls, value: Any) -> Any:
        return {"on": True, "off": False}.get(value, value) if isinstance(value, str) else value

    @field_validator("precision", mode="before")
    @classmethod
    def _no_fp16(cls, value: Any) -> Any:
        if value in ("fp16", "float16", "half"):
            raise ValueError(
                "fp16 is not offered: T5 and other models trained in bfloat16 overflow in it and give NaN. "
                "Use bf16 or fp32."
            )
        return value

    @field_validator("kernels", mode="before")
    @classmethod
    def _one_or_off(cls, value: Any) -> Any:
        # YAML reads a bare `off` as false
        return None if value in ("off", False) else [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _micro_within_batch(self) -> TrainSpec:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size ({self.micro_batch_size}) must not exceed batch_size ({self.batch_size})."
            )
        return self

    def peak_lr(self, method: MethodConfig, course: Course) -> float:
        """The peak learning rate of a method in a run of this course."""
        if self.lr == AUTO:
            return auto_rate(method, course)
        return method.default_lr if self.lr is None else self.lr

    def lr_because(self, method: MethodConfig, course: Course) -> str | None:
        """Where the peak learning rate comes from, if the recipe does not name it, and it is what trains."""
        return why(method, course) if self.lr == AUTO and method.rate == "lr" else None

    def peak_head_lr(self, method: MethodConfig, course: Course) -> float:
        """The peak learning rate of a new head beside this method."""
        if self.head_lr == "lr":
            return self.peak_lr(method, course)
        return HEAD_LR if self.head_lr is None else self.head_lr

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps to a pass over so many training rows."""
        return math.ceil(rows / self.batch_size)

    def validates_every(self, rows: int) -> int:
        """Optimizer steps from one look at the validation rows to the next."""
        return self.steps_per_epoch(rows) if self.evaluate_every == "epoch" else self.evaluate_every

    def steps(self, rows: int) -> int:
        """Optimizer steps of a run on so many training rows."""
        steps = self.epochs * self.steps_per_epoch(rows)
        return steps if self.max_steps is None else min(steps, self.max_steps)
