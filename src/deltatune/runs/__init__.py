"""What can be done with a finished run: evaluate it again, predict with it, merge it into its base."""

from __future__ import annotations

from deltatune.recipe.given import Given
from deltatune.runs.load import load_run
from deltatune.runs.loaded import LoadedRun
from deltatune.runs.merge import merge
from deltatune.runs.use import Failed, evaluate_run, predict

__all__ = ["Failed", "Given", "LoadedRun", "evaluate_run", "load_run", "merge", "predict"]
