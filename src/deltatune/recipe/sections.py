"""The sections of a recipe: model, data, training and evaluation.

Every field's docstring is its documentation: it appears in the JSON Schema that editors read and in the
command line's help. Numbers are strict (`epochs: "3"` is refused), unknown keys are refused.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    field_validator,
    model_serializer,
    model_validator,
)

from deltatune.recipe.kinds import (
    LARGEST_INT,
    Bool,
    ClassName,
    Count,
    Duration,
    Format,
    Int,
    Share,
    Text,
    Weight,
)

Metric = Literal[
    "rouge1_f", "rouge1_p", "rouge1_r", "rouge2_f", "rouge2_p", "rouge2_r",
    "rougeL_f", "rougeL_p", "rougeL_r",
    "bleu", "chrf", "exact_match", "stop_rate", "repetition_rate", "mean_length",
    "accuracy", "macro_f1", "micro_f1", "mcc", "balanced_accuracy", "sensitivity", "specificity",
    "roc_auc", "average_precision", "ece", "brier", "mse", "mae", "r2", "pearson", "spearman",
    "entity_f1", "entity_precision", "entity_recall", "entity_macro_f1", "token_accuracy",
    "mrr_at_10", "recall_at_1", "recall_at_5", "recall_at_10", "triplet_accuracy",
    "loss", "perplexity",
]  # fmt: skip

IMAGE_FORMATS = ("image-folder", "npz")
CONVERSATION_FORMS = ("messages", "sharegpt", "alpaca", "prompt-completion")
"""Formats that say how rows write conversations; the format of the file is told by its name beside them."""
PARTS = ("train", "validation", "test")
HEAD_LR = 3e-3
"""The rate of new heads that a recipe without one gets; what it rests on: benchmarks/results/head_rate_*."""
TUNED = ("lr", "head_lr")
"""Fields of `train` that `tune` chooses."""
CHAT = "chat"
"""The template that stands for the tokenizer's own chat template."""

PLAIN_CHAT = "plain"
"""The chat template that stands for a built-in one."""


class Section(BaseModel):
    """What all sections share: unknown keys are refused, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    later: ClassVar[tuple[str, ...]] = ()
    """Fields that recipes written down before did not have: they are not written where they say nothing."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {key: value for key, value in content.items() if key not in self.later or value is not None}

    @classmethod
    def known_keys(cls) -> list[str]:
        """The keys that a recipe may have here."""
        return [field.alias or name for name, field in cls.model_fields.items()]


class ModelSpec(Section):
    """Which pretrained model is the base. In a recipe, a plain string means its name."""

    later = ("pooling",)

    name: Text
    """`bundled:NAME`, a local folder (`./my-model`) or the id of a model on the Hugging Face Hub."""
    revision: str | None = None
    """The Hub commit, branch or tag to use; null means the newest."""
    trust_remote_code: Bool = False
    """Whether Python code that comes with the model may run on this machine."""
    attention: Literal["sdpa", "eager"] | None = None
    """The attention implementation of the base; null: sdpa, or eager where Transformers has no other, and
    eager for training on CPUs with up to 256 tokens per row, where it is faster."""
    image_size: Annotated[int, Strict(), Field(ge=8)] | None = None
    """Edge in pixels of the squares that an image model reads; null: its own. Half the edge is a quarter of
    the work. Position embeddings are interpolated, so it must be a multiple of the model's patches."""

    pooling: Literal["mean", "cls", "last"] | None = None
    """How a vector of a text is made of its tokens' states: their mean, the first or the last. Null: as the
    base's files for Sentence Transformers say, else the mean."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class QuantizationSpec(Section):
    """How the frozen base is kept in few bits (QLoRA). In a recipe, a plain string means its format."""

    format: Literal["nf4", "fp4", "int8"] = "nf4"
    """4-bit normal floats (as QLoRA), 4-bit floats, or 8-bit integers (LLM.int8)."""
    double: Bool = True
    """Whether the scales of 4-bit blocks are quantized as well, which spares 0.37 bits per weight."""
    compute: Literal["bf16", "fp32"] = "bf16"
    """Type of activations, and of what is not quantized: embeddings, norms, the output head."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"format": value} if isinstance(value, str) else value


class SplitSpec(Section):
    """How validation and test rows are taken out of the training rows, by a seeded shuffle."""

    validation: Share | None = None
    """Share of the rows for validation; 0 for none. Null: 0.1, or none if `data.validation` is given."""
    test: Share | None = None
    """Share of the rows for the test; 0 for none. Null: 0.1, or none if `data.test` is given."""
    seed: Int = 0
    """Seed of the shuffle. It is not the training seed: all seeds of a comparison see the same split."""


class ColumnsSpec(Section):
    """Which columns of the data mean what."""

    later = ("pair", "negative")

    input: Text = "auto"
    """The column that the model reads. `auto`: the format's own (`table`, `sentence`, `image`) or `input`; of
    pairs also `premise`, `sentence1` and the like."""
    pair: Text | None = None
    """Of classification and regression of texts: the column of a second text, which the model reads as its
    tokenizer writes pairs. Null: none, unless `input` is `auto` and the columns are named as pairs commonly
    are (`premise` and `hypothesis`, `sentence1` and `sentence2`). A template that names this column writes
    both into one text instead."""
    target: Text | Annotated[tuple[Text, ...], Field(min_length=1)] | None = "auto"
    """The column to produce: a text, or the label of a classification. `auto`: the format's own (`title`,
    `label`), else `target`. A list, in tasks whose rows have several targets: a column for each. Null, in
    tasks that can learn plain text: there is none, the model learns the input itself."""
    negative: Text | tuple[Text, ...] | None = None
    """Of embedding: the column, or columns, of texts that the input shall not be near to. Null: `negative`,
    `negative_1` and so on, where rows have them; `[]`: none."""
    id: Text | None = None
    """The column that names a row in messages and predictions. Null: the row's number."""

    @property
    def negatives(self) -> tuple[str, ...]:
        """Names of the columns of texts that the input shall not be near to, as far as they are named."""
        return (self.negative,) if isinstance(self.negative, str) else self.negative or ()

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the columns to produce; none if there is no target."""
        return (
            self.target if isinstance(self.target, tuple) else () if self.target is None else (self.target,)
        )


class LimitSpec(Section):
    """Use at most so many rows of a part: the first N of a seeded shuffle; a larger limit adds rows."""

    train: Count | None = None
    """Largest number of training rows."""
    validation: Count | None = None
    """Largest number of validation rows."""
    test: Count | None = None
    """Largest number of test rows."""


class Reading(Section):
    """How a row becomes what a model reads.

    Entries of one comparison may differ in it: the words around an input are a part of a method, as a prompt
    is. The rows themselves, and what is to be produced from them, are the same for all.
    """

    model_config = ConfigDict(revalidate_instances="subclass-instances")  # a DataSpec is more than this

    template: Text = "{input}"
    """Text that the model reads, with `{column}` for a column of the row and `{input}` for the input column;
    write `{{` for a brace. `chat`: the tokenizer's chat template, with the input as user turn."""
    max_input_tokens: Annotated[int, Strict(), Field(ge=4)] = 512
    """Longer inputs are truncated, and counted: on the right, or on the left for prompts of
    decoder-only models."""
    max_target_tokens: Annotated[int, Strict(), Field(ge=2)] = 64
    """Longer targets are truncated, and counted. The end token has its place within the limit."""


class DataSpec(Reading):
    """Where the rows come from and how a row becomes an input and a target."""

    later = ("train_on", "chat_template", "separator", "packing")

    source: Text | None = None
    """One file, folder, `hub:ID[#CONFIG][@REVISION]` or `bundled:NAME`. Its own train, validation and test
    parts are used if it has them; otherwise `split` makes them. Excludes `train`, `validation`, `test`."""
    train: Text | None = None
    """File of training rows, instead of `source`."""
    validation: Text | None = None
    """File of validation rows, used to select models. Without it they are taken from `train` by `split`."""
    test: Text | None = None
    """File of test rows, never used to select anything. Without it they are taken from `train` by `split`."""
    split: SplitSpec | None = None
    """How parts that have no file of their own are taken from the training rows."""
    format: Format = "auto"
    """Format of the files; `auto` goes by the name: the suffix, or what a folder contains. Of conversations,
    how rows write them (`messages`, `sharegpt`, `alpaca`, `prompt-completion`), which `auto` tells by their
    columns."""
    delimiter: Annotated[str, Field(pattern=r'^[^\r\n"]$')] | None = None
    r"""The character between the cells of csv, tsv and tables, such as `;` or `"\t"`. Null: the one by which
    every row has as many cells as the header, among comma, semicolon, tab and bar."""
    encoding: Text | None = None
    """Encoding of text files by its name in Python, such as `cp1252` or `utf-16-le`. Null: what a byte order
    mark tells, else UTF-8."""
    columns: ColumnsSpec = ColumnsSpec()
    """Which columns mean what."""
    target_template: Text | None = None
    """Text that the model shall produce, as `template`, with `{target}` for the target column. Null: the
    target itself. In decoder-only models, its tokens directly follow the prompt's: begin with a space where
    one is needed."""
    separator: Text | None = None
    """What stands between the labels of a row that has several in one text, such as `;`. Null: a comma,
    semicolon or bar, whichever is there."""
    limit: LimitSpec = LimitSpec()
    """Use fewer rows."""
    train_on: Literal["assistant", "last_assistant", "all"] | None = None
    """What is learned of a conversation: every answer of the assistant, the last one, or all that is said.
    Null: every answer."""
    chat_template: Text | None = None
    """The template that writes a conversation, in place of the tokenizer's own: a file with a Jinja template,
    the template itself, or `plain` (User: ... Assistant: ...) for models that have none."""

    packing: Bool | Literal["auto"] | None = None
    """Whether the rows of a micro-batch stand behind each other in one, so that no padding is computed; none
    sees another, and a step is made of the same rows. For decoders. Null, or `auto`: on CPUs, if at least a
    tenth of an epoch would be padding."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        try:
            b"ab".decode(value or "utf-8")
        except UnicodeError:
            return value  # it is an encoding, though not of these bytes
        except (LookupError, ValueError) as error:
            raise ValueError("is no encoding of text that Python knows; use utf-8, cp1252, ...") from error
        return value

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


class TrainSpec(Section):
    """How deltas are trained. An entry under `methods` may override any field for itself."""

    later = ("class_weights", "loss")

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
    lr: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] | None = None
    """Peak learning rate of AdamW. Null: the method's default."""
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
    bucket_by_length: Bool = True
    """Put rows of similar length in a batch, which saves padding."""
    cache_trunk: Bool = True
    """Keep the outputs of the layers below the lowest delta from one epoch to the next, in memory or in a
    temporary file, where there are such layers, several epochs and room. The same result to rounding."""
    deterministic: Bool = False
    """On a GPU, take kernels that add in the same order each time, where there are such: slower."""
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

    @field_validator("precision", mode="before")
    @classmethod
    def _no_fp16(cls, value: Any) -> Any:
        if value in ("fp16", "float16", "half"):
            raise ValueError(
                "fp16 is not offered: T5 and other models trained in bfloat16 overflow in it and give NaN. "
                "Use bf16 or fp32."
            )
        return value

    @model_validator(mode="after")
    def _micro_within_batch(self) -> TrainSpec:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size ({self.micro_batch_size}) must not exceed batch_size ({self.batch_size})."
            )
        return self

    def peak_lr(self, default: float) -> float:
        """The peak learning rate of a method with this default."""
        return self.lr or default

    def peak_head_lr(self, default: float) -> float:
        """The peak learning rate of a new head beside a method with this default."""
        if self.head_lr == "lr":
            return self.peak_lr(default)
        return HEAD_LR if self.head_lr is None else self.head_lr

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps to a pass over so many training rows."""
        return math.ceil(rows / self.batch_size)

    def steps(self, rows: int) -> int:
        """Optimizer steps of a run on so many training rows."""
        steps = self.epochs * self.steps_per_epoch(rows)
        return steps if self.max_steps is None else min(steps, self.max_steps)


class Decoding(Section):
    """How text is generated. Entries of one comparison may differ in it, not in what judges the text."""

    model_config = ConfigDict(revalidate_instances="subclass-instances")

    max_new_tokens: Count = 64
    """Generation stops here if the model does not end its text itself."""
    num_beams: Count = 1
    """Beams of the search; 1 is greedy."""


class EvaluationSpec(Decoding):
    """What is measured, and how text is generated for it. The test rows are used once, at the end."""

    later = ("positive", "tasks")

    metrics: Literal["auto"] | Annotated[list[Metric | Literal["rouge"]], Field(min_length=1)] = "auto"
    """Metrics to report, `rouge` meaning all of its kinds; `auto`: all that fit the task."""
    primary: Literal["auto"] | Metric = "auto"
    """The metric that ranks a comparison; `auto`: rougeL_f, accuracy for classification, micro_f1 for
    several labels per row, mse for regression."""
    select_by: Metric = "loss"
    """The validation metric that selects the best checkpoint and stops early."""
    positive: ClassName | None = None
    """Of two classes the positive one, for sensitivity, specificity and average precision. Null: the second,
    in the order of numbers or names."""
    tasks: Annotated[list[Text], Field(min_length=1)] | None = None
    """Task files of lm-evaluation-harness, or folders of them, with local data: at the end of a run they are
    scored on the base alone and with the delta. For decoders. Code that they name is not run."""
    batch_size: Count = 32
    """Rows that are evaluated at once."""
