"""The parts of a run's result."""

from __future__ import annotations

from pydantic import Field

from deltatune.files import text_sha256
from deltatune.results.record import Number, Record
from deltatune.tasks.values import Scale, Scales

BUDGET_NEAR = 0.05
"""A count that differs from the budget by a larger share is warned of."""


class Failure(Record):
    """What ended a run."""

    kind: str
    """The exception's class."""
    message: str
    """What it says, with the remedy."""


class Budget(Record):
    """What a recipe's budget comes to for one method on one base, in trained parameters."""

    asked: int | str
    """As the recipe has it: a number, or a share such as `0.5%`."""
    parameters: int
    """Parameters that the recipe asks for, heads of classifiers not counted."""
    trained: int
    """Parameters that the method trains, heads not counted."""
    size: str | None
    """The setting that was chosen, or null: the method has none and trains what it trains."""
    value: int | None
    """What it was set to."""

    @property
    def warning(self) -> str | None:
        """What a reader of the comparison has to know, if the budget is not met."""
        if self.trained == 0:  # a head alone
            return None
        if self.size is None:
            return (
                f"has no size that a budget could set: it trains {self.trained:,} parameters, "
                f"not {self.parameters:,}."
            )
        if abs(self.trained - self.parameters) > BUDGET_NEAR * self.parameters:
            return (
                f"comes no nearer to the budget of {self.parameters:,} trained parameters than "
                f"{self.trained:,} ({self.size} {self.value})."
            )
        return None


class Padding(Record):
    """What padding comes to in the first epoch of a run."""

    share: float
    """Of the tokens that a model gets if rows are padded, those that are padding: from 0 to 1."""
    packed: bool
    """Whether the rows of a micro-batch are packed into one, so that only attention sees padding."""

    @property
    def text(self) -> str:
        """For people."""
        if self.packed:
            return f"{self.share:.0%} -> 0% by packing (attention alone sees padded rows)"
        return f"{self.share:.0%} of what goes through the model"


class Origin(Record):
    """What a run started from, as its result and its resume state tell."""

    path: str
    """The folder of the delta."""
    sha256: str
    """Of the delta's tensors."""
    settings: str
    """SHA-256 of the method's settings on this base, by which the tensors act."""
    warning: str
    """What must be known of the rows that it was trained on."""

    @property
    def digest(self) -> str:
        """Of the delta: settings and tensors."""
        return text_sha256(f"{self.sha256} {self.settings}")


class BaseUsed(Record):
    """The base that a run was trained on."""

    name: str = ""
    """As the recipe has it."""
    revision: str | None = None
    """Of the Hub."""
    dtype: str | None = None
    """What it computes in, such as `float32`."""
    why_dtype: str | None = None
    """Why in this, where `train.precision` is `auto`."""
    quantization: str | None = None
    """Format of its weights, such as `nf4 double`."""
    fingerprint: str | None = None
    """SHA-256 of its weights."""
    parameters: int | None = None
    """How many it has."""
    head: str | None = None
    """Of a task with a head: `the base's` or `new`. Files of before compared labels to the letter."""


class DataUsed(Record):
    """The rows of a run."""

    fingerprint: str
    """SHA-256 of the rows in their splits, in the words of the template."""
    tokens: str | None = None
    """SHA-256 of the rows as the model reads them."""
    reading: str | None = None
    """SHA-256 of the settings by which they are read."""
    labels: list[str] | None
    """All classes, in the order of the head; null for texts and numbers."""
    scale: Scale | Scales | None = None
    """What numbers are standardised by; null for other targets."""
    pair: list[str] | None = None
    """Columns of the two texts of a row; null where it has one."""
    splitting: str | None = None
    """How texts are split into words where these have tags: `signs`, `edges` or `blanks`; null elsewhere."""
    train: int | None = None
    """Training rows."""
    validation: int | None = None
    """Validation rows."""
    test: int | None = None
    """Test rows."""
    supervised_tokens: int | None = None
    """Labels in the training rows."""
    truncated_inputs: int | None = None
    """Training rows whose input was cut."""
    truncated_targets: int | None = None
    """Training rows whose target was cut."""
    warnings: list[str]
    """What must be known of them."""


class Metrics(Record):
    """Metrics by key, over all rows of a part."""

    validation: dict[str, Number]
    """Of the state that was kept."""
    test: dict[str, Number]
    """Of the test rows, which were used once."""


class PausedMetrics(Record):
    """Metrics of a run that is not at its end."""

    validation: dict[str, Number] = Field(default_factory=dict)
    """Of the best state so far, by key."""


class Cost(Record):
    """What a run cost."""

    trained_parameters: int
    """Parameters that got gradients, heads included."""
    stored_parameters: int
    """Numbers in the saved delta."""
    total_parameters: int
    """Of the base."""
    trained_share: float
    """Trained parameters by those of the base."""
    peak_memory_bytes: int | None
    """Of the process (`memory_kind` rss) or the GPU's allocator (cuda); null if runs were trained at once."""
    memory_kind: str | None = None
    """How the peak was measured."""
    raced: int = 1
    """Most runs that made a step together, this one included."""
    joined: bool = False
    """Whether other processes could be at the same comparison; those on one machine share its time."""
    processes: int = 1
    """That made the run together; times are those of the first, and so is the memory, which each takes."""
    race_peak_memory_bytes: int | None = None
    """Peak of all runs that were trained at once."""
    train_seconds: float
    """Time in training steps; of runs that were trained at once, the share by tokens."""
    energy_joules: float | None = None
    """Energy of the same time, of all of what `energy_of` names, whatever else ran on it; null where no
    counter can be read, and of runs that several processes made."""
    energy_of: str | None = None
    """Whose counters it is of: sockets, their memory, a GPU."""
    evaluation_seconds: float
    """Time of evaluating the test rows."""
    tokens_per_second: float | None = None
    """In training, padding not counted."""
    file_bytes: int
    """Size of the delta's tensors on disk; 0 if nothing is stored."""
    steps: int
    """Optimizer steps."""
    micro_batch_size: int | None = None
    """Rows that went through the model at once."""
    epochs: float
    """Passes over the training rows."""


class PausedCost(Record):
    """What a run that is not at its end has cost so far."""

    train_seconds: float
    """Time in training steps."""
    peak_memory_bytes: Number
    """Peak so far."""
    steps: int
    """Optimizer steps done."""
    planned_steps: int
    """Steps of the whole run."""


STEP_PARTS = ("weights", "delta", "gradients", "optimizer", "activations", "logits", "temporary")


class StepBytes(Record):
    """Bytes of tensors at the peak of a training step, by what they are for."""

    weights: int = 0
    """Weights of the frozen base."""
    delta: int = 0
    """What is trained."""
    gradients: int = 0
    """Its gradients."""
    optimizer: int = 0
    """The optimizer's moments."""
    activations: int = 0
    """Kept for the backward pass."""
    logits: int = 0
    """The logits and what the loss makes of them."""
    temporary: int = 0
    """What operations hold for a moment."""
    total: int = 0
    """Their sum."""
    kind: str | None = None
    """`tensors`, of what was measured."""
    allocator: int | None = None
    """What CUDA's allocator had given at most."""

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part."""
        return {name: getattr(self, name) for name in STEP_PARTS}


class StepMemory(Record):
    """The memory of the step with the first epoch's largest micro-batch."""

    predicted: StepBytes | None = None
    """Before the run; null if nothing is trained, micro-batches became smaller than asked for, or memory was
    so ample that nothing hung on it (`deltatune plan` predicts always)."""
    measured: StepBytes | None = None
    """In the run; null if nothing was trained."""

    @property
    def known(self) -> int:
        """Bytes in all, as measured, else as predicted; 0 if not known."""
        return (self.measured or self.predicted or StepBytes()).total


class Selected(Record):
    """The step whose state was kept."""

    step: int | None = None
    """Its number."""
    by: str
    """The key by which validation rows chose."""
    value: Number | None = None
    """Of a run that is not at its end: the best value so far."""
    stopped_early: bool = False
    """Whether early stopping ended the training."""


class PausedSelection(Selected):
    """The best step so far."""

    value: Number | None
    """Its value of `by`; null if nothing was judged yet."""


class Rates(Record):
    """Peak learning rates."""

    lr: float | None = None
    """Of the delta."""
    because: str | None = None
    """Where that comes from; null if the recipe names it, or leaves it to the method alone."""
    head_lr: float | None = None
    """Of a new head."""


class GitState(Record):
    """The repository of the working directory."""

    commit: str
    """Its commit."""
    dirty: bool
    """Whether there were changes that are not in it."""
