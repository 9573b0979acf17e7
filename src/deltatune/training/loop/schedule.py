"""Learning-rate schedules."""

from __future__ import annotations

import math


def lr_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """Factor on the peak learning rate for optimizer step `step` (0, 1, ...) of `total`.

    It rises linearly over the first `warmup` share of the steps, reaching 1 at their end, then falls to zero
    (linear, cosine: half a period) or stays (constant).
    """
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - rising) / max(1, total - rising)
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
