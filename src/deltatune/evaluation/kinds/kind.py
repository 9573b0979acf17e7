"""What a kind of answer is, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

from deltatune.core.ahead import Ahead
from deltatune.core.devices import to_device
from deltatune.core.ranks import ranks
from deltatune.evaluation.interfaces import (
    BatchEncoder,
    EncodedRows,
    Model,
    Progress,
    longest_first,
)
from deltatune.evaluation.loss import RowLoss
from deltatune.evaluation.metrics import Scores
from deltatune.results import Span
from deltatune.tasks.task import Feature, Row

T = TypeVar("T")
Cut = Callable[[Sequence[int], int], list[list[int]]]
"""Makes batches of row numbers, of (lengths of the rows, rows of a batch at most)."""


class Answer(NamedTuple):
    """What a model makes of a row, as predictions.jsonl has it."""

    text: str
    """The text, the name of the class, the labels, the number as it is written, or the tags of the words."""
    stopped: bool | None = None
    """Whether the model ended the text itself; None where it writes none."""
    tokens: int = 0
    """How many it wrote."""
    probabilities: dict[str, float] | None = None
    """Of each class, or of the most probable ones."""
    spans: list[Span] | None = None
    """The entities that tags mean."""
    words: list[tuple[int, int]] | None = None
    """Where each tagged word starts and ends in the input."""
    nearest: tuple[str, ...] | None = None
    """Of a search, the texts that are nearest to the row's."""
    vector: list[float] | None = None
    """Of a text alone."""


class Scored(NamedTuple):
    """Answers to rows, and what they are worth."""

    answers: Sequence[Answer]
    references: Sequence[str]
    """What each is held against, as predictions.jsonl has it."""
    scores: Scores
    losses: Sequence[RowLoss] = ()
    """One a row; none if no loss is asked for."""
    means: dict[str, float] | None = None
    """Metrics that are made of the losses, by key."""
    several: Sequence[Sequence[str]] = ()
    """All references of each row, of which `references` has the first; none where each row has one."""


class MeanLoss(NamedTuple):
    """The loss of rows with targets."""

    values: dict[str, float]
    """`loss` and `tokens`, the number of targets that it is the mean of; and what else follows from the same
    pass."""
    rows: Sequence[RowLoss]
    """What each row adds to it; none where the loss is one of all rows."""


@dataclass(frozen=True)
class Job:
    """An evaluation or a prediction: a model on encoded rows."""

    model: Model
    encoded: EncodedRows
    encoder: BatchEncoder
    batch_size: int = 32
    progress: Progress | None = None
    threshold: float | None = None
    """The probability from which on a label is given, where a row may have several; None: one half."""

    def each(self, work: Callable[[Sequence[int], dict[str, Tensor]], Iterable[T]]) -> list[T]:
        """Let batches go through the model, the longest rows first.

        Args:
            work: Is given the numbers of a batch's rows, and the batch on the model's device; gives something
                of each of them.

        Returns:
            What it gave, in the order of the rows.
        """
        with Ahead(self._collated, self.model.device) as ahead:
            turns = ahead.in_turn(self._parts(longest_first))
            return self.each_part(lambda rows: work(rows, to_device(next(turns)[1], self.model.device)))

    def each_part(self, work: Callable[[Sequence[int]], Iterable[T]], cut: Cut = longest_first) -> list[T]:
        """The same for work that makes batches of its own: it is given numbers of rows.

        Where several processes make a run, each takes a share of the batches, and has the whole at the end.

        Args:
            work: As of `each`, without the batch.
            cut: How rows are put into batches.
        """
        shares = ranks().gather(self._share(work, self._parts(cut)))
        made = {row: value for share in shares for row, value in share.items()}
        return [made[row] for row in range(len(self.encoded.lengths))]

    def _share(
        self, work: Callable[[Sequence[int]], Iterable[T]], parts: Sequence[Sequence[int]]
    ) -> dict[int, T]:
        made: dict[int, T] = {}
        done, total = 0, sum(map(len, parts))
        for rows in parts:  # of a part that keeps others company another process gives the same
            made.update(zip(rows, work(rows), strict=True))
            done += len(rows)
            if self.progress:
                self.progress(done, total)
        return made

    def _parts(self, cut: Cut) -> list[list[int]]:
        """The numbers of the rows of each batch that this process takes."""
        parts = cut(self.encoded.lengths, self.batch_size)
        shares = ranks().shares(len(parts), even=self.model.is_sharded)
        return [parts[place] for place, _ in shares]

    def batch(self, features: list[Feature]) -> dict[str, Tensor]:
        """A batch on the model's device; its labels stay on the host."""
        return to_device(self.encoder.collate(features), self.model.device)

    def _collated(self, rows: Sequence[int]) -> dict[str, Tensor]:
        return self.encoder.collate([self.encoded.features[row] for row in rows])


class Decoding(Protocol):
    """The part of a recipe's `evaluation` section that says how texts are written, and what is sought."""

    @property
    def max_new_tokens(self) -> int:
        """Where a generated text is cut off."""

    @property
    def num_beams(self) -> int:
        """1 is greedy decoding."""

    @property
    def positive(self) -> str | None:
        """Of two classes the positive one; None: the second."""


class Kind(Protocol):
    """How answers of a kind are given and scored."""

    def answer(self, job: Job, decoding: Decoding) -> Sequence[Answer]:
        """Answer rows that have no target, in their order."""
        ...

    def evaluate(self, job: Job, rows: Sequence[Row], keys: Sequence[str], decoding: Decoding) -> Scored:
        """Answer rows and score the answers.

        Args:
            job: The model and the rows.
            rows: The same rows with their targets; of plain text none has any.
            keys: Keys of metrics that are asked for.
            decoding: How texts are written.

        Raises:
            TrainingError: The loss is not finite.
        """
        ...

    def mean_loss(self, job: Job) -> MeanLoss:
        """Mean loss of rows with targets, every target weighing the same.

        Raises:
            TrainingError: The loss is not finite.
        """
        ...

    def threshold(self, job: Job) -> float | None:
        """From which probability on a label is given, as validation rows choose it; None: there is none."""
        return None
