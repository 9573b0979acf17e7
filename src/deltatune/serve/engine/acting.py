"""Which delta acts on which row of a pass."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from deltatune.core.model import AdaptedModel


def acting(model: AdaptedModel, adapters: Sequence[str | None]) -> contextlib.AbstractContextManager[None]:
    """Within the block each row goes to the adapter that it names; rows of one adapter are not cut apart.

    Args:
        model: The model.
        adapters: One for each row; None is the plain base.

    Raises:
        DeltatuneError: An adapter cannot act on some rows only.
    """
    different = set(adapters)
    if len(different) > 1:
        return model.switching(adapters)
    return model.using(*(name for name in different if name is not None))
