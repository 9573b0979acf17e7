"""Training: one delta on one data set, with everything it cost."""

from __future__ import annotations

from deltatune.training.context import Context
from deltatune.training.plan import plan
from deltatune.training.run import run

__all__ = ["Context", "plan", "run"]
