from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
import torch

from deltatune.training.given.context import SharedBase


def test_nothing_gets_at_a_base_whose_hash_is_not_known():
    """Else the hash might be of what an adapter has made of it, and could not prove that nothing changed."""
    digest: Future[str] = Future()
    digest.set_exception(RuntimeError("waited for the hash"))
    anything: Any = object()
    base = SharedBase(anything, anything, "float32", digest, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="waited for the hash"):
        base.adapted()
