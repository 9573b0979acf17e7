"""The last layer, computed where it is read.

Behind the last attention every position goes its own way: the attention's output projection, the feed-forward
part, the final norm and the head each see one position at a time. A language model is read where there are
labels, and a classifier like BERT's or ViT's at its first position. So these parts of the last layer get the
positions that are read, and give zeros for the others, which nobody looks at: logits and gradients are
the same to rounding. Deltas in them see the chosen positions only, with the rows as they were.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.core import roles
from deltatune.core.devices import send
from deltatune.core.fast.layout import Layout, layout
from deltatune.core.fast.places import choose, put_back
from deltatune.core.fast.recompute import Recomputation
from deltatune.core.sites import BaseView, stacks
from deltatune.core.taps import first, replace_first

READ_FIRST = frozenset({
    "BertForSequenceClassification",
    "DebertaV2ForSequenceClassification",
    "DeiTForImageClassification",
    "ElectraForSequenceClassification",
    "RobertaForSequenceClassification",
    "ViTForImageClassification",
    "XLMRobertaForSequenceClassification",
})  # fmt: skip
"""Classes whose classifier reads the first position and no other."""
WORTHWHILE = 0.75
"""The largest share of the positions that is worth choosing, by estimate: choosing copies them twice."""


class LastLayer:
    """Lets the last layer of a base work at chosen positions.

    Encoder-decoder models are left as they are (all that an encoder makes is read, and a decoder has labels
    nearly everywhere), and so are architectures whose modules are not known by their roles, and layers that
    are computed again in the backward pass.

    Args:
        view: The base.
        recomputation: Tells whether layers are recomputed.
    """

    def __init__(self, view: BaseView, recomputation: Recomputation) -> None:
        self._view = view
        self._recomputation = recomputation
        self._whole = False

    @functools.cached_property
    def _parts(self) -> list[tuple[nn.Module, nn.Module]]:
        """Where positions are chosen, and where they are put back: the first and last module of each part."""
        view = self._view
        found = stacks(view.base)
        if view.is_encoder_decoder or view.model_type not in roles.TABLES or len(found) != 1:
            return []
        [(path, stack)] = found.items()
        layer = f"{path}.{len(stack) - 1}."
        output, inward, outward = (
            [p for p in view.by_role(role) if p.startswith(layer)] for role in ("output", "mlp_in", "mlp_out")
        )
        parts = [(p, p) for p in output]
        if len(outward) == 1 and len(inward) == 1:
            parts.append((inward[0], outward[0]))
        elif len(outward) == 1 and inward:  # a gate and what it multiplies, which get one tensor
            parent = outward[0].rpartition(".")[0]
            parts += [(parent, parent)] if all(p.rpartition(".")[0] == parent for p in inward) else []
        return [(view.modules[begin], view.modules[end]) for begin, end in parts]

    def at_labels(self, keep: Tensor) -> contextlib.AbstractContextManager[None]:
        """Within the block, work where `keep` [rows, length], on the host or the base's device, is true.

        Rows with fewer such positions than others get some more, so that all have the same number.
        """
        if not self._view.is_decoder_only or not self.chooses:
            return contextlib.nullcontext()
        most = int(keep.sum(dim=1).max())
        if most > WORTHWHILE * keep.shape[1]:
            return contextlib.nullcontext()
        places = keep.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        return self._only(send(places, self._view.device), keep)

    def at_first(self, rows: int) -> contextlib.AbstractContextManager[None]:
        """Within the block, work at the first position of each of `rows` rows, if the classifier reads it."""
        if self._view.is_decoder_only or not self.chooses:
            return contextlib.nullcontext()
        return self._only(torch.zeros(rows, 1, dtype=torch.long, device=self._view.device), None)

    @property
    def chooses(self) -> bool:
        """Whether there are passes in which it chooses."""
        known = self._view.is_decoder_only or type(self._view.base).__name__ in READ_FIRST
        whole = self._whole or self._view.read_whole
        return known and not whole and not self._recomputation.enabled and bool(self._parts)

    def acts_in(self, path: str) -> bool:
        """Whether it chooses positions in the last of the layers at `path`."""
        return self.chooses and path in stacks(self._view.base)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Within the block it works at all positions."""
        self._whole = True
        try:
            yield
        finally:
            self._whole = False

    @contextlib.contextmanager
    def _only(self, places: Tensor, keep: Tensor | None) -> Iterator[None]:
        """Within the block, one forward pass works at `places` [rows, n].

        Not if rows have another length than those of `keep` in it, since a prompt stands before them. Where
        rows are packed, the pass works at the tokens that `keep` [rows, length] names.
        """
        handles: list[Any] = []
        for begin, end in self._parts:
            part = _Part(places, keep)
            handles.append(begin.register_forward_pre_hook(part.choose, with_kwargs=True, prepend=True))
            handles.append(end.register_forward_hook(part.put_back))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Part:
    """Modules that work at chosen positions, and the hooks before and behind them."""

    def __init__(self, places: Tensor, keep: Tensor | None) -> None:
        self._places, self._keep = places, keep
        self._flat: Tensor | None = None
        self._shape: tuple[int, ...] = ()

    def choose(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Hand over the chosen positions of x [rows, length, width], or of [rows * length, width]."""
        x = first(args, kwargs)
        width, shape = x.shape[-1], x.shape[:-1]
        how = layout()
        flat = self._in_rows(shape) if how is None else self._packed(how)
        if flat is None:
            return None
        self._flat, self._shape = flat, shape
        rows = shape[0] if len(shape) == 2 else 1
        chosen = choose(x.reshape(-1, width), flat)
        return replace_first(args, kwargs, chosen.view(*((rows, -1) if len(shape) == 2 else (-1,)), width))

    def _in_rows(self, shape: torch.Size) -> Tensor | None:
        """The chosen places among all of rows that stand one below the other."""
        rows = len(self._places)
        length = shape.numel() // rows
        known = None if self._keep is None else self._keep.shape[1]
        if shape not in ((rows, length), (rows * length,)) or known not in (None, length):
            return None
        starts = torch.arange(0, rows * length, length, device=self._places.device)
        return (self._places + starts[:, None]).flatten()

    def _packed(self, how: Layout) -> Tensor | None:
        """The chosen places among the tokens of packed rows."""
        if self._keep is None or self._keep.shape != (how.rows, how.length):
            return None
        places = how.places_on(self._keep.device)
        kept = self._keep.flatten().index_select(0, places)
        chosen = torch.arange(how.tokens, device=kept.device)[kept]
        rows, most = self._places.shape
        first = torch.arange(0, rows * most, most, device=kept.device)[:, None]
        among = (self._keep.cumsum(dim=1) - 1 + first).flatten().index_select(0, places)
        device = self._places.device
        how.drawn[len(chosen)] = send(among[kept], device), rows * most
        return send(chosen, device)

    def put_back(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Give what was made of them in its places."""
        if self._flat is None:
            return None
        return put_back(output.reshape(-1, output.shape[-1]), self._flat, self._shape)
