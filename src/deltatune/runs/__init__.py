"""What can be done with a finished run: evaluate it again, predict with it, merge it into its base."""

from __future__ import annotations

from deltatune.runs.load import LoadedRun, load_run
from deltatune.runs.merge import merge
from deltatune.runs.use import Failed, evaluate_run, predict

__all__ = ["Failed", "LoadedRun", "evaluate_run", "load_run", "merge", "predict"]
