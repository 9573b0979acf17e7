"""What can be done with a finished run: look into it, evaluate it again, predict with it, merge it."""

from __future__ import annotations

from deltatune.recipe.given import Given
from deltatune.runs.inspection import inspect
from deltatune.runs.load import load_run
from deltatune.runs.loaded import LoadedRun
from deltatune.runs.merge import merge
from deltatune.runs.use import Failed, evaluate_run, predict

__all__ = ["Failed", "Given", "LoadedRun", "evaluate_run", "inspect", "load_run", "merge", "predict"]
