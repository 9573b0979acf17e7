"""Where the tokens of a batch stand when its rows are packed into one, and the layout that is in force."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deltatune.core.devices import on_gpu, send
from deltatune.core.fast.padding import host_mask
from deltatune.core.fast.places import choose, put_back


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tokens of padded rows stand when they are packed."""

    mask: Tensor
    """The attention mask of the padded rows, [rows, length]."""
    places: Tensor
    """The place of each token among the rows * length of the padded rows, [tokens], rising."""
    drawn: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    """By a number of tokens that a delta may get: their places among those that it gets of padded rows, and
    how many these are. Masks of dropout are drawn for padded rows, so that packing does not alter them."""
    on_host: Tensor | None = None
    """The host's copy of the places, if it knows them."""
    _of_heads: dict[tuple[int, bool], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.drawn[self.tokens] = self.places, self.rows * self.length

    @classmethod
    def of(cls, mask: Tensor) -> Layout | None:
        """The layout of rows with this attention mask [rows, length]; None if nothing is padded."""
        rows, length = mask.shape
        known = host_mask(mask)
        of = mask if known is None else known
        # Not `nonzero` or an index: the prediction of memory knows this one by its name (memory/step.py).
        places = torch.arange(rows * length, device=of.device).masked_select(of.flatten().bool())
        if len(places) == rows * length:
            return None
        return cls(mask, send(places, mask.device), on_host=None if known is None else places)

    def places_on(self, device: torch.device) -> Tensor:
        """The places there; a GPU has to be waited for if only it knows them."""
        known = self.on_host if self.on_host is not None and not on_gpu(device) else self.places
        return known.to(device)

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self.mask)

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return self.mask.shape[1]

    @property
    def tokens(self) -> int:
        """Tokens of all rows, padding not counted."""
        return len(self.places)

    def packed(self, x: Tensor) -> Tensor:
        """Pack x [rows, length, ...] into [1, tokens, ...]."""
        shape = x.shape[2:]
        flat = x.reshape(self.rows * self.length, -1)
        return choose(flat, self.places).view(1, self.tokens, *shape)

    def apart(self, x: Tensor) -> Tensor:
        """Make [rows, length, width] of x [1, tokens, width], with zeros where rows are padded."""
        return put_back(x[0], self.places, (self.rows, self.length))

    def heads_apart(self, x: Tensor) -> Tensor:
        """Make [rows, heads, length, width] of x [1, heads, tokens, width], with zeros for padding."""
        _, heads, tokens, width = x.shape
        by_token = x.transpose(1, 2).is_contiguous()
        flat = (x.transpose(1, 2) if by_token else x).reshape(heads * tokens, width)
        return put_back(flat, self._heads(heads, by_token), (self.rows, heads, self.length))

    def _heads(self, heads: int, by_token: bool) -> Tensor:
        """The place of each head of each token among [rows, heads, length]."""
        key = (heads, by_token)
        if key not in self._of_heads:
            row, at = self.places // self.length, self.places % self.length
            head = torch.arange(heads, device=self.places.device)
            first = (row * heads * self.length + at)[:, None] + head * self.length
            self._of_heads[key] = (first if by_token else first.T).flatten()
        return self._of_heads[key]


_in_force: list[Layout] = []


def layout() -> Layout | None:
    """How rows stand in the pass that is being computed; None: as they came."""
    return _in_force[-1] if _in_force else None


@contextlib.contextmanager
def in_force(how: Layout) -> Iterator[None]:
    """Within the block attention is given packed rows, and sets them apart."""
    _in_force.append(how)
    try:
        yield
    finally:
        _in_force.pop()
