"""What an earlier call left in a comparison's folder is looked at before anything is trained.

A finished run is taken as it is, so it must be whole. Found later, damage would be the failure of one run,
written over its result, or would end the comparison after all others have been trained.
"""

from __future__ import annotations

from pathlib import Path

from deltatune.compare.sample import row_ids, train_again
from deltatune.errors import DataError
from deltatune.train.folder import read_result, require_delta


def require_sound(out: Path) -> None:
    """Check the results, deltas and predictions of all finished runs.

    Raises:
        AdapterError: A result or a delta is missing or damaged.
        DataError: Predictions are.
    """
    for folder in sorted(path for path in (out / "runs").glob("*") if path.is_dir()):
        remedy = train_again(folder)
        result = read_result(folder, remedy=remedy)
        if result is None or result["status"] != "done":
            continue
        require_delta(folder, result, remedy=remedy)
        path, rows = folder / "predictions.jsonl", result["data"].get("test")
        found = len(row_ids(path))
        if rows not in (None, found):
            raise DataError(f"'{path}' has {found} of {rows} rows.", remedy=remedy)
