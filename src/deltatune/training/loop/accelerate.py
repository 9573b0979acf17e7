"""All that Accelerate does for a run: the backward pass and the trackers.

Placement and precision are not among it: a base is put on its device when it is loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import is_initialized
from torch import Tensor

from deltatune.core.ranks import ranks
from deltatune.errors import RecipeError


class Accelerate:
    """One run's use of Accelerate.

    Args:
        device: Where the base is.
        trackers: Names of those that the recipe asks for.
        out: The run's folder.

    Raises:
        RecipeError: A tracker's package is absent (Accelerate would leave it out without a word).
    """

    def __init__(self, device: torch.device, trackers: Sequence[str], out: Path) -> None:
        for name in trackers:
            if importlib.util.find_spec(name) is None:
                raise RecipeError(
                    f"the package {name} is not installed.",
                    field="train.trackers",
                    remedy='Install it: pip install "deltatune[trackers]".',
                )
        # Accelerate settles on a device once a process. No more than its default one depends on that.
        on_cpu = device.type == "cpu" and not is_initialized()
        self._accelerator = Accelerator(cpu=on_cpu, log_with=list(trackers) or None, project_dir=out)
        self._trackers = bool(trackers) and ranks().first
        self._tracking = False

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of its parameters."""
        self._accelerator.backward(loss)

    def start_trackers(self, settings: Mapping[str, Any]) -> None:
        """Let trackers begin, if there are any, and tell them the run's settings."""
        if self._trackers:
            plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in settings.items()}
            self._accelerator.init_trackers("deltatune", config=plain)
            self._tracking = True

    def track(self, numbers: Mapping[str, Any], step: int) -> None:
        """Tell trackers the numbers of a step."""
        if self._tracking:
            self._accelerator.log(dict(numbers), step=step)

    def end_trackers(self) -> None:
        """Let trackers finish."""
        if self._tracking:
            self._accelerator.end_training()
            self._tracking = False
