"""Which tokens of a batch are padding, said by the host, which made it.

Transformers leaves a mask out where no row is padded. It looks at the mask for that, so that the host waits
for a GPU at every mask: twice a pass, and once for every token that is generated. To pack rows, it would wait
as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from deltatune.core.devices import OnDevice

_told: list[Tensor] = []


@contextlib.contextmanager
def padding_told(batch: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block masks for SDPA are made as the host says of `batch`; if it does not, as ever."""
    if not isinstance(batch, OnDevice) or batch.mask is None:
        yield
        return
    makers: Any = ALL_MASK_ATTENTION_FUNCTIONS
    _told.append(batch.mask.flatten(0, -2))  # of several texts, as they are computed
    makers["sdpa"] = _mask
    try:
        yield
    finally:
        _told.pop()
        if not _told:
            del makers["sdpa"]


def host_mask(like: Tensor) -> Tensor | None:
    """The host's copy of a mask of the batch [rows, length]; None if it has none of this shape."""
    return _told[-1] if _told and _told[-1].shape == like.shape else None


def as_told(asked: dict[str, Any]) -> dict[str, Any]:
    """What a mask is asked for: what is padded needs it, and of what is not nothing need be looked at."""
    if not _told:
        return asked
    if bool(_told[-1].all()):
        return {**asked, "attention_mask": None}
    return {**asked, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}


def _mask(*args: Any, **asked: Any) -> Tensor | None:
    mask: Tensor | None = sdpa_mask(*args, **as_told(asked))
    return mask
