"""What the loss will see of the labels, counted in the batches themselves."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from deltatune.data.encode import Encoded, Encoder
from deltatune.tasks import TASKS
from deltatune.tasks.task import IGNORED

_ROWS = 64


@dataclass(frozen=True, slots=True)
class Supervision:
    """Labels of encoded rows as they stand in batches, after masking and padding."""

    rows: int
    tokens: int
    """Labels that the loss counts; in classification one for each row that has any."""
    silent: int
    """Rows without a label."""
    ended: int | None
    """Rows whose last label, or of a conversation each answer, is an end token; None in classification."""
    cut: int
    """Rows that may lack it, because a text that is learned as it is was cut."""

    @property
    def sound(self) -> bool:
        """Whether each row teaches something, and teaches to stop where its text stops."""
        ends = self.ended is None or self.ended >= self.rows - self.cut
        return self.tokens > 0 and self.silent == 0 and ends


def supervision(encoder: Encoder, encoded: Encoded) -> Supervision:
    """Count the labels of `encoded` in collated batches.

    Masking by value (labels that equal the pad id, where that is the end token) would happen in a batch, so
    the features alone prove nothing. Takes about as long as collating one epoch.
    """
    rows = len(encoded.features)
    task = TASKS.get(encoder.task)
    if not task.writes_text:
        counts = list(map(task.supervised, encoded.features))
        return Supervision(rows, sum(counts), counts.count(0), ended=None, cut=0)
    import torch

    ends = torch.tensor(encoder.eos_ids)
    tokens = silent = ended = 0
    for start in range(0, rows, _ROWS):
        labels = encoder.collate(encoded.features[start : start + _ROWS])["labels"]
        if task.continues:  # nothing predicts the first token
            labels = labels[:, 1:]
        counted = labels != IGNORED
        found = counted.any(dim=1)
        tokens += int(counted.sum())
        silent += int((~found).sum())
        is_end = torch.isin(labels, ends)
        if task.conversations:
            ended += sum(map(_each_turn_ends, counted.tolist(), is_end.tolist()))
        else:
            last = counted.shape[1] - 1 - counted.flip(1).int().argmax(dim=1)
            ended += int((is_end.gather(1, last[:, None])[:, 0] & found).sum())
    return Supervision(
        rows, tokens, silent, ended, cut=encoded.report.truncated_inputs if encoder.plain else 0
    )


def _each_turn_ends(counted: list[bool], is_end: list[bool]) -> bool:
    """Whether each run of labels in a row has an end token; blanks that a template marks may follow it."""
    runs = [list(run) for learned, run in groupby(range(len(counted)), counted.__getitem__) if learned]
    return bool(runs) and all(any(is_end[place] for place in run) for run in runs)
