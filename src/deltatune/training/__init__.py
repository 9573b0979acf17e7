"""Training: one delta on one data set, with everything it cost."""

from __future__ import annotations

from deltatune.training.before.dry_run import plan
from deltatune.training.given.context import Context
from deltatune.training.single.run import run

__all__ = ["Context", "plan", "run"]
