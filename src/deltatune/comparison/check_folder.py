"""What an earlier call left in a comparison's folder is looked at before anything is trained.

A finished run is taken as it is, so it must be whole. Found later, damage would be the failure of one run,
written over its result, or would end the comparison after all others have been trained.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from deltatune.checkpoint.manifest import require_unchanged
from deltatune.checkpoint.resume import dtype_of_state, rows_of_state
from deltatune.comparison.scores import row_ids, train_again
from deltatune.errors import DataError
from deltatune.recipe.curve_section import axis_of
from deltatune.results import RunResult
from deltatune.training import Context
from deltatune.training.given.folder import read_result, require_delta
from deltatune.training.given.split_contexts import every_context


def require_sound(out: Path) -> None:
    """Check the results, deltas and predictions of all finished runs.

    Raises:
        AdapterError: A result or a delta is missing or damaged.
        DataError: Predictions are.
    """
    for folder in sorted(path for path in (out / "runs").glob("*") if path.is_dir()):
        remedy = train_again(folder)
        result = read_result(folder, remedy=remedy)
        if not isinstance(result, RunResult):
            continue
        require_delta(folder, result, remedy=remedy)
        path, rows = folder / "predictions.jsonl", result.data.test
        found = len(row_ids(path))
        if rows not in (None, found):
            raise DataError(f"'{path}' has {found} of {rows} rows.", remedy=remedy)
        require_unchanged(folder, remedy=remedy)


def require_same_inputs(out: Path, context: Context) -> None:
    """Refuse to train more where runs that were begun, or are finished, rest on other rows than those of now.

    The bases and tokens of finished runs are noted, so that a run on others is refused when it begins.

    Args:
        out: The comparison's folder, whose runs are sound.
        context: Its data as they are now, by each template.

    Raises:
        DataError: They have changed, and not all runs are finished.
    """
    now = {rows.fingerprint for split in every_context(context) for rows in split.datasets.values()}
    others, open_ = [], not (out / "leaderboard.json").exists()
    begun: list[str | None] = []
    for folder in sorted(path for path in (out / "runs").glob("*") if path.is_dir()):
        result = read_result(folder, remedy=train_again(folder))
        if isinstance(result, RunResult):
            rows: str | None = result.data.fingerprint
            context.note_result(result)
        else:
            open_ = True
            saved = folder / "resume"
            rows = rows_of_state(saved) if saved.exists() else None
            begun += [dtype_of_state(saved)] if saved.exists() else []
        if axis_of(folder.name) == "rows":  # on a part of them, which is looked at when its curve is drawn
            continue
        if rows is not None and rows not in now:
            others.append(folder.name)
    for entry, dtype in product(context.recipe.methods, begun):  # finished runs have been noted before
        context.goes_on_in(entry, dtype)
    if others and open_:
        raise DataError(
            f"the runs {', '.join(others)} have seen different data: they have changed since.",
            remedy="Restore the data, or start anew with --overwrite.",
        )
