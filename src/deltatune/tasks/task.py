"""What a task says about itself, and what it is given to work with.

Everything else asks a task, and none asks which task it is. A task is made of small functions that tasks
share (tokens.py, classes.py) and of what is its own. It never imports what uses it: what it works with is
given to it, the `Tools` of an encoder and the `Model`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from deltatune.tasks.shapes import BatchShape

if TYPE_CHECKING:
    from torch import Tensor

Feature = dict[str, Any]
"""One encoded row; its keys are the task's own affair, but for `input_ids`, which text has."""
OTHERS = "others"
"""The key of a feature's features with its other references as targets, where a row has several."""


def each_reference(features: Iterable[Feature]) -> list[Feature]:
    """Each feature, behind it those of its other references: as many sequences as there are references."""
    return [each for feature in features for each in (feature, *feature.get(OTHERS, ()))]


ANSWER = "answer"
"""The key of a feature's answer as ids, where a method knows it without asking the model."""
UNTIL = "until"
"""The key of a text that ends what is written behind a feature's prompt, beside the end tokens."""


Cuts = tuple[bool, bool]
"""Whether a row's input and its target were truncated."""
AUTO = "auto"
"""The name of a task's own loss in a recipe."""
IGNORED = -100
"""The label that torch's cross-entropy leaves out."""

INPUT, TARGET, NEW = "data.max_input_tokens", "data.max_target_tokens", "evaluation.max_new_tokens"
"""The settings that bound how many positions of a model a row takes."""


class Shot(NamedTuple):
    """A training row that stands before another in its prompt, to show what is to be done."""

    input: str
    """As a model reads it, with the template applied."""
    target: str


class Row(Protocol):
    """One example, as `deltatune.data.Row`."""

    @property
    def id(self) -> str:
        """Names the row in messages."""

    @property
    def input(self) -> Any:
        """The text that the model reads, with the template applied; or an image."""

    @property
    def pair(self) -> str | None:
        """The second text, where the model reads two."""

    @property
    def target(self) -> str:
        """The text to produce, or the label's name; empty if there is none."""

    @property
    def group(self) -> str | None:
        """Rows of one group belong together, unless equal inputs alone do."""

    @property
    def references(self) -> tuple[str, ...]:
        """All texts that are right, where there are several; `target` is the first."""

    @property
    def negatives(self) -> tuple[str, ...]:
        """Texts that the input shall not be near to, beside the target."""

    @property
    def conversation(self) -> Any:
        """What was said, as `deltatune.data.rows.Conversation`, where the task is about that."""

    @property
    def words(self) -> Any:
        """The words and their tags, as `deltatune.data.rows.Words`, where the task is about these."""

    @property
    def source(self) -> str | None:
        """The text of the input column, where a template makes another of it."""

    @property
    def shots(self) -> tuple[Shot, ...]:
        """Training rows that are shown before it, where its task can write them (`Task.shows_rows`)."""


class Tools(Protocol):
    """What an encoder (`deltatune.data.encode.Encoder`) has for its task."""

    spec: Any
    """The recipe's data section: limits, columns."""
    labels: list[str] | None
    """The classes in the order of the model's outputs."""
    scale: Any
    """Mean and spread of the training rows' numbers (`deltatune.tasks.values.Scale`); None of other rows."""

    @property
    def class_index(self) -> Mapping[str, int]:
        """Each class's place in that order."""

    @property
    def tokens(self) -> Any:
        """The tokenizer, as `deltatune.data.tokens.TextTokens`."""

    @property
    def pixels(self) -> Any:
        """The image processor, as `deltatune.data.pixels.Pixels`."""

    @property
    def chats(self) -> Any:
        """What writes conversations, as `deltatune.data.chat.Chats`."""

    @property
    def chat(self) -> bool:
        """Whether inputs go through the tokenizer's chat template."""

    @property
    def plain(self) -> bool:
        """Whether rows have no target, and the text itself is what is learned."""


class Model(Protocol):
    """A base with the adapters that act, as `deltatune.AdaptedModel`."""

    def class_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits [rows, classes] of a model with a head for classes."""

    def labelled_logits(
        self, batch: dict[str, Tensor], states: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [n, vocabulary] at the labels of a language model, and these [n], row after row."""

    def text_vectors(self, batch: dict[str, Tensor]) -> Tensor:
        """Unit vectors [rows, texts, width] of texts whose `input_ids` are [rows, texts, length]."""


class Fidelity(Protocol):
    """What a tokenizer cannot write, gathered over rows, as `deltatune.data.fidelity.Fidelity`."""

    left_out: Any
    """Conversations of which the chat template leaves something out."""
    joined: Any
    """Pairs of texts of which nothing tells where the second begins."""

    def look_at_input(self, row: Any, text: str, ids: list[int], tokens: Any) -> None:
        """Take an input into account."""

    def look_at_target(self, row: Any, text: str, ids: list[int], tokens: Any, *, cut: bool) -> None:
        """Take a target into account."""

    def look_at_words(self, row: Any, count: int, lost: Sequence[str], cut: int) -> None:
        """Take words into account that have no token, or lie beyond the limit."""


class Task(Protocol):
    """All that is particular to a task. Whoever writes one derives from this, for the defaults below."""

    name: ClassVar[str]
    """What a recipe calls it."""
    title: ClassVar[str]
    """What the model learns, in a few words."""
    when: ClassVar[str]
    """What it is for."""
    rows: ClassVar[str]
    """Which columns it needs, and which formats bring them."""
    example: ClassVar[str]
    """A recipe in a few lines of YAML."""

    # The base
    auto_class: ClassVar[str]
    """The class of Transformers that loads a base for it, such as `AutoModelForCausalLM`."""
    needs: ClassVar[str] = ""
    """The kind of base, for messages: `an encoder-decoder`; empty if it goes without saying."""
    peft_type: ClassVar[str | None] = None
    """What peft calls it (`task_type`)."""
    pipeline: ClassVar[str | None] = None
    """What the Hub calls it (`pipeline_tag`); it has no name of its own for every task."""
    embeds: ClassVar[bool] = False
    """Whether the base gives vectors of texts, by pooling its tokens' states (`model.pooling`)."""
    new_head: ClassVar[bool] = False
    """Whether the base gets a head that its checkpoint may lack, and that every method trains besides."""

    # The rows
    reads: ClassVar[Literal["text", "images"]] = "text"
    """What a model reads of a row."""
    has_classes: ClassVar[bool] = False
    """Whether a row's target is the name of one of the data's classes; or each word's, as of `tags_words`."""
    has_label_sets: ClassVar[bool] = False
    """Of a task with classes: whether a row may have any number of them, and not just one."""
    has_values: ClassVar[bool] = False
    """Whether a row's target is a number, which the model tells in standard deviations from their mean."""
    several_targets: ClassVar[bool] = False
    """Whether `data.columns.target` may name several columns."""
    plain_text: ClassVar[bool] = False
    """Whether rows may lack a target (`data.columns.target: null`), so that the text itself is learned."""
    several_references: ClassVar[bool] = False
    """Whether several texts may be right for one input."""
    pairs: ClassVar[bool] = False
    """Whether a row may have a second text (`data.columns.pair`), which the tokenizer writes beside it."""
    finds_targets: ClassVar[bool] = False
    """Whether a row's target is a text that its input shall be near to, and may have others beside it that it
    shall not (`data.columns.negative`)."""
    has_scores: ClassVar[bool] = False
    """Whether a row's target is a number of which the order among rows is learned."""
    chat: ClassVar[bool] = False
    """Whether inputs may go through the tokenizer's chat template."""
    conversations: ClassVar[bool] = False
    """Whether a row is a conversation, which a chat template writes as a whole."""
    packs: ClassVar[bool] = False
    """Whether the rows of a batch may stand behind each other in one (`core/fast/packing.py`)."""
    tags_words: ClassVar[bool] = False
    """Whether it is words that have targets: tags, which are the data's classes."""
    shows_rows: ClassVar[bool] = False
    """Whether training rows may stand before a row in what is read (`Row.shots`)."""
    unit: ClassVar[str] = "tokens"
    """What training's speed is counted in."""

    # The recipe
    formats: ClassVar[tuple[str, ...] | None] = None
    """Formats of files that it can read; None: all but those of images."""
    senseless: ClassVar[Mapping[str, str]] = {}
    """Fields of a recipe that must stay at their defaults, each with the reason (`{task}`: its name)."""
    without_effect: ClassVar[tuple[str, ...]] = ()
    """Fields that change nothing, so that entries that differ in them alone would be the same."""

    # What is learned and measured
    writes_text: ClassVar[bool] = False
    """Whether the model answers by writing text, token by token."""
    continues: ClassVar[bool] = False
    """Whether what it writes stands behind the input in one sequence, whose first token nothing predicts."""
    scored_as: ClassVar[str] = "text"
    """The kind of its answers, which says how they are given and scored: `text`, `classes`, `values`, or
    another that is registered (`deltatune.evaluation.kinds`)."""
    metrics: ClassVar[tuple[str, ...]]
    """Metrics that `evaluation.metrics: auto` means."""
    more_metrics: ClassVar[tuple[str, ...]] = ()
    """Metrics that a recipe may name besides."""
    losses: ClassVar[tuple[str, ...]] = ("loss",)
    """Metrics that are made of losses."""
    other_losses: ClassVar[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {}
    """Losses that a recipe may choose for training (`train.loss`), by name; each takes and gives what `loss`
    does. Evaluations measure the task's own."""
    spans_rows: ClassVar[bool] = False
    """Whether the loss of a row depends on the others of its step, as that of in-batch negatives does."""
    primary: ClassVar[str]
    """The metric that decides a comparison unless the recipe says otherwise."""

    @property
    def weighs_classes(self) -> bool:
        """Whether a row can count by its class (`train.class_weights`): its loss is cross-entropy."""
        return self.has_classes and type(self).loss is Task.loss

    def supports(self, config: Any, known: bool) -> bool:
        """Whether a base of this configuration (Transformers') can do it.

        Args:
            config: The configuration.
            known: Whether Transformers has a class for it in `auto_class`.
        """
        return known

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """Make a feature of a row.

        Args:
            row: The row.
            tools: Tokenizer or image processor, limits and classes.
            supervised: Whether a target is needed; False for prediction.

        Raises:
            DataError: The row has nothing to learn from, or cannot be read.
        """
        ...

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Make a batch for training or for the loss, padded on the right; `labels` where rows have them."""
        ...

    def collate_prompts(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Make a batch to write texts from; only tasks that write are asked.

        Raises:
            DataError: A row has no prompt.
        """
        return {}

    def length(self, feature: Feature) -> int:
        """Tokens that a model works on, inputs and targets; 1 for an image."""
        return len(feature.get("input_ids", (0,)))

    def supervised(self, feature: Feature) -> int:
        """Targets of the row that the loss is summed over."""
        return 1

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """What a model is taught: the row's tokens as text, each with whether it is supervised."""
        ...

    def look(self, found: Fidelity, row: Row, feature: Feature, cuts: Cuts, tools: Tools) -> None:
        """Look at what the tokenizer cannot write of a row, if there is one."""
        return None

    def count(self, labels: Tensor) -> Tensor:
        """Targets of each row of a batch's labels, [rows]: what the loss is summed over."""
        return labels.new_ones(len(labels))

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the loss of a batch is computed from: (outputs [n, ...], targets [n, ...]), row after row."""
        ...

    def outputs(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """All that a model gives for a batch without labels, by which two ways to compute it are compared."""
        found: Tensor = model(**batch).logits
        return found

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """The loss of what `logits` gave, summed over its rows; None: cross-entropy with class indices."""
        return None

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """Sizes of the batch that `collate` makes. Images: the rows alone."""
        ...

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """Sizes of a batch in which every row is as long as the recipe's data section allows."""
        ...

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """A batch of zeros of these sizes."""
        ...

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """Positions of the base that the longest rows take.

        Args:
            features: The rows.
            new: Tokens that are written behind each row at most.

        Returns:
            For each thing that must fit: the stack (`input` or `decoder`), and positions by the setting that
            bounds them.
        """
        ...
