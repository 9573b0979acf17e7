"""What the engine is asked to do, and what it tells of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deltatune.data.encode import Encoded, EncodeReport
from deltatune.data.rows import Row
from deltatune.results import Prediction
from deltatune.serve.deltas.served import Served
from deltatune.serve.engine.sampling import GREEDY, Chooser, Chosen, Sampling
from deltatune.serve.engine.text import Growing
from deltatune.serve.refusal import Refusal

_NOTHING = Encoded([], [], EncodeReport(0, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that was written since the last piece, and the tokens that it took."""

    text: str
    tokens: tuple[Chosen, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A text is finished."""

    text: str
    tokens: tuple[Chosen, ...]
    """All that were chosen, without the one that ended the text."""
    reason: str
    """`stop`: the model ended it, or what it shall stop at came; `length`: it is as long as it may be."""
    ended: bool
    """Whether the model ended it itself."""
    read: int
    """Tokens of the prompt."""
    tail: Piece
    """What no piece has told yet."""


Told = Piece | Written | list[Prediction] | Refusal


@dataclass(eq=False)
class Work:
    """A request.

    Args:
        served: Whom it is for.
        tell: Is called, in the engine's thread, with what there is to tell.
        deadline: When it is too late, by `time.monotonic`.
    """

    served: Served
    tell: Callable[[Told], None]
    deadline: float
    since: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    done: bool = False

    @property
    def rows_asked(self) -> int:
        """Rows that it adds to a pass."""
        return 1

    @property
    def length(self) -> int:
        """Tokens of its longest row, where they are counted."""
        return 0

    @property
    def alone(self) -> bool:
        """Whether it shares its passes with no other request."""
        return False

    def finish(self, told: Told) -> None:
        """The last that is told of it."""
        if not self.done:
            self.done = True
            self.tell(told)


@dataclass(eq=False)
class Asking(Work):
    """Rows to answer, other than by writing token by token."""

    rows: Sequence[Row] = ()
    encoded: Encoded = _NOTHING

    @property
    def rows_asked(self) -> int:
        """As many as it has."""
        return len(self.rows)

    @property
    def length(self) -> int:
        """Tokens of its longest row."""
        return max(self.encoded.lengths, default=0)

    @property
    def alone(self) -> bool:
        """Texts that are not written token by token, but by beams."""
        return self.served.task.writes_text


@dataclass(eq=False)
class Writing(Work):
    """A text to write.

    Args:
        prompt: The ids that are read.
        most: Tokens after which it is cut off.
        ends: Ids that end it.
        decode: Gives the text of ids, special tokens skipped.
        sampling: How tokens are chosen.
        stops: Texts before which it ends.
        strips: As of `Growing`.
        in_pieces: Whether pieces are told.
    """

    prompt: Sequence[int] = ()
    most: int = 1
    ends: frozenset[int] = frozenset()
    decode: Callable[[Sequence[int]], str] = lambda _: ""
    sampling: Sampling = GREEDY
    stops: tuple[str, ...] = ()
    strips: bool = True
    in_pieces: bool = False

    def __post_init__(self) -> None:
        self.chooser = Chooser(self.sampling)
        self._chosen: list[Chosen] = []
        self._ids: list[int] = []
        self._growing = Growing(self.decode, self.stops, strips=self.strips)
        self._untold = 0

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt)

    @property
    def latest(self) -> int:
        """The last token that was taken."""
        return self._ids[-1] if self._ids else 0

    def take(self, chosen: Chosen) -> bool:
        """Take the next token; whether the text goes on."""
        if chosen.token in self.ends:
            self._finish("stop", ended=True)
            return False
        self._chosen.append(chosen)
        self._ids.append(chosen.token)
        if self.in_pieces or self.stops:
            text, stopped = self._growing.grown(self._ids)
            if stopped:
                self._finish("stop", text=text)
                return False
            if self.in_pieces and text:
                self._tell(text)
        if len(self._ids) >= self.most:
            self._finish("length")
            return False
        return True

    def _tell(self, text: str) -> None:
        self.tell(Piece(text, tuple(self._chosen[self._untold :])))
        self._untold = len(self._chosen)

    def _finish(self, reason: str, *, ended: bool = False, text: str | None = None) -> None:
        left = self._growing.ended(self._ids) if text is None else text
        tail = Piece(left, tuple(self._chosen[self._untold :]))
        self.finish(Written(self._growing.whole, tuple(self._chosen), reason, ended, len(self.prompt), tail))
