"""Errors a user can act on.

Every error says four things where they apply: the field, the value found there, the rule it breaks and
the remedy. The command line prints it as one paragraph and exits with 2; library users can catch
`DeltatuneError` or one of its kinds.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DeltatuneError(Exception):
    """A mistake in what was asked for, with its remedy.

    Args:
        what: What is wrong, as a sentence that names the value and the rule.
        field: Where it stands: a recipe field (`train.lr`), a file, a column.
        remedy: What to do about it, as a sentence.
    """

    def __init__(self, what: str, *, field: str | None = None, remedy: str | None = None) -> None:
        self.what, self.field, self.remedy = what, field, remedy
        head = f"{field}: {what}" if field else what
        super().__init__(f"{head} {remedy}" if remedy else head)


class RecipeError(DeltatuneError):
    """The recipe asks for something that does not exist or cannot be combined."""


class DataError(DeltatuneError):
    """The data cannot be read or would teach the model nothing."""


class SilentRowError(DataError):
    """A row has nothing to learn from.

    Args:
        what: As of every error.
        field: As of every error.
        remedy: As of every error.
        tokens: How many tokens would have to be allowed for it to have something.
    """

    def __init__(
        self, what: str, *, field: str | None = None, remedy: str | None = None, tokens: int | None = None
    ) -> None:
        super().__init__(what, field=field, remedy=remedy)
        self.tokens = tokens


class ModelError(DeltatuneError):
    """The base model cannot be loaded or lacks what the task needs."""


class TargetError(DeltatuneError):
    """A selector matches nothing, or a method cannot act on what it matches."""


class AdapterError(DeltatuneError):
    """A saved delta or its run is damaged, incomplete or made for another base."""


class TrainingError(DeltatuneError):
    """Training cannot go on: the loss is not finite, a delta does not learn, a schedule missed its target."""


class HaltError(DeltatuneError):
    """What no method is to blame for. It ends a comparison, which goes on once it is mended."""


class StorageError(HaltError):
    """Files cannot be written: no room, no right to, or the folder has gone."""


class InUseError(HaltError):
    """Another process is at work in the folder."""


class LostError(HaltError):
    """Another process has taken the folder over from this one, which was away for too long."""


class ChangedError(HaltError):
    """Data, labels, tokenizer or base are no longer those that a run began with."""


class Stopped(KeyboardInterrupt):
    """Asked to stop by a signal; what was done is saved.

    Args:
        signum: The signal's number.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(f"stopped by signal {signum}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as `Did you mean 'lora'? Known: adalora, lora.` for a name that is not known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names)}."
