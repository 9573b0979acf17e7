"""Training: one delta on one data set, with everything it cost."""

from __future__ import annotations

from deltatune.train.context import Context
from deltatune.train.plan import plan
from deltatune.train.run import run

__all__ = ["Context", "plan", "run"]
