from __future__ import annotations

import psutil
import torch

from deltatune.core.devices import KEPT_PRODUCTS
from deltatune.training.given.machine import fast_cpu

SHAPES = 3 * KEPT_PRODUCTS


def test_products_of_many_shapes_leave_no_memory_behind():
    # Their code takes half a megabyte each: 400 MB for all of them, were they kept.
    left = torch.randn(8, 384)
    with fast_cpu(), torch.no_grad():
        before = psutil.Process().memory_info().rss
        for rows in range(16, 16 + SHAPES):
            torch.nn.functional.linear(torch.zeros(rows, 384), left)
        grown = psutil.Process().memory_info().rss - before
    assert grown < 300e6, f"{grown / 1e6:.0f} MB"
