"""The sections about data and evaluation; training and the base have files of their own.

Every field's docstring is its documentation: it appears in the JSON Schema that editors read and in the
command line's help. Numbers are strict (`epochs: "3"` is refused), unknown keys are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict, field_validator, model_validator

from deltatune.recipe.kinds import Bool, ClassName, Count, Format, Int, Share, Text
from deltatune.recipe.section import Section

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
BUNDLED_TEXT = "bundled"
"""The general text that comes along."""
CHAT = "chat"
"""The template that stands for the tokenizer's own chat template."""

PLAIN_CHAT = "plain"
"""The chat template that stands for a built-in one."""


class SplitSpec(Section):
    """How validation and test rows are taken out of the training rows, by a seeded shuffle."""

    later = ("keep_similar",)

    validation: Share | None = None
    """Share of the rows for validation; 0 for none. Null: 0.1, or none if `data.validation` is given."""
    test: Share | None = None
    """Share of the rows for the test; 0 for none. Null: 0.1, or none if `data.test` is given."""
    keep_similar: Bool | None = None
    """Whether rows of nearly the same input belong together, as those of one `columns.group` do: all are in
    one part, and count as one example. Null: no; they are warned of."""
    seed: Int = 0
    """Seed of the shuffle. It is not the training seed: all seeds of a comparison see the same split,
    unless `splits` draws one for each: this is the seed of the first, and others count on from it."""


class ColumnsSpec(Section):
    """Which columns of the data mean what."""

    later = ("pair", "negative", "group")

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
    group: Text | None = None
    """The column that says which rows belong together: a patient, a document, an author. `split` puts all
    rows of a group into one part, and statistics count them as one example. Null: rows of one input are."""
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


class SubsetSpec(Section):
    """A part of the training rows: what the runs of a `curve` train on."""

    rows: Count
    """How many. About each class's share of them is of that class, and one row at least, where that can be;
    rows of one group are all there or none. With the same seed, a larger number adds rows."""
    seed: Int = 0
    """Of the draw."""


class LimitSpec(Section):
    """Use at most so many rows of a part: the first N of a seeded shuffle; a larger limit adds rows."""

    later = ("subset",)

    train: Count | None = None
    """Largest number of training rows."""
    validation: Count | None = None
    """Largest number of validation rows."""
    test: Count | None = None
    """Largest number of test rows."""
    subset: SubsetSpec | None = None
    """Of the training rows that are left, train on a part: `{rows: 50, seed: 0}`."""


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


class Decoding(Section):
    """How text is generated. Entries of one comparison may differ in it, not in what judges the text."""

    model_config = ConfigDict(revalidate_instances="subclass-instances")

    max_new_tokens: Count = 64
    """Generation stops here if the model does not end its text itself."""
    num_beams: Count = 1
    """Beams of the search; 1 is greedy."""


class EvaluationSpec(Decoding):
    """What is measured, and how text is generated for it. The test rows are used once, at the end."""

    later = ("positive", "tasks", "general", "latency")

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
    general: Text | None = None
    """Text on which forgetting is measured: its loss on the base alone and with the delta, at the end of a
    run. `bundled`: 70 short texts that come along; or a text file (blank lines part documents), or rows with
    a column `text`. For decoders, and encoder-decoders like T5. Null: it is not measured."""
    latency: Bool | None = None
    """Whether answers to a few test rows are timed at the end of a run: of the base alone, with the delta,
    and with the delta folded into the weights, where it can be. Null: no."""
    batch_size: Count = 32
    """Rows that are evaluated at once."""
