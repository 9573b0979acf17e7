"""The folder of a comparison: whose it is, of which recipe, and what is removed to start anew."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltatune.checkpoint.folders import remove
from deltatune.checkpoint.lock import Lock
from deltatune.checkpoint.manifest import NAME as MANIFEST
from deltatune.checkpoint.manifest import require_own
from deltatune.comparison.curve import CURVE
from deltatune.errors import DeltatuneError, RecipeError
from deltatune.files import read_json
from deltatune.observer import Observer
from deltatune.recipe.schema import Recipe
from deltatune.recipe.written import differences, is_written, rates_of_then
from deltatune.results import SCHEMA, Leaderboard
from deltatune.training.given.folder import ANEW, clear_folder, require_own_run
from deltatune.training.given.folder import WRITES as RUN_WRITES

KIND = "comparison"
FILES = ("leaderboard.json", CURVE, "choosing.json", "again.json", "search.db", "report.html", "recipe.yaml")
WRITES = (*FILES, "runs")
"""All that a comparison writes into its folder besides its manifest."""
VOUCHED = ("leaderboard.json", CURVE, "choosing.json", "recipe.yaml")
"""What its manifest has checksums of; runs have their own."""


def require_same_recipe(recipe: Recipe, out: Path) -> None:
    """Refuse a folder with a comparison of another recipe.

    Raises:
        RecipeError: It is one.
    """
    require_same_content(recipe.dump(), out)


def require_same_content(content: Mapping[str, Any], out: Path) -> None:
    """The same of a recipe's dump, which may have several data sets."""
    path = out / "recipe.yaml"
    if path.exists():
        # How many are trained at once, where, what matters and what is drawn do not change what is compared.
        found = differences(path, content, remedy=ANEW)
        changed = [key for key in found if key not in ("together", "device", "worth", "curve")]
        if changed:
            raise RecipeError(
                f"the comparison in '{out}' has another recipe; it differs in {', '.join(changed)}.",
                field="--out",
                remedy=rates_of_then({key: found[key] for key in changed}, content)
                or "Choose another folder, or add --overwrite to start anew.",
            )


def _comparison_of_0_1(out: Path) -> bool:
    """Whether version 0.1 wrote what is in the folder."""
    path, known = out / "leaderboard.json", False
    with contextlib.suppress(DeltatuneError):
        board = Leaderboard.of(read_json(path, remedy=ANEW), f"'{path}'", remedy=ANEW)
        known = board.schema_ == SCHEMA and {"schema_", "recipe"} <= board.model_fields_set
    return known or is_written(out / "recipe.yaml")


def require_own_folder(out: Path) -> None:
    """Refuse a folder in which somebody else's files have the names of a comparison's.

    Raises:
        RecipeError: There is one, or the folder is deltatune's and of another kind.
    """
    require_own(out, KIND, WRITES, _comparison_of_0_1)


def clear(out: Path, observer: Observer) -> None:
    """Remove the files of an earlier comparison, and of `runs` what deltatune wrote.

    Args:
        out: The folder, which is deltatune's own and locked.
        observer: Is warned where runs cannot be locked.
    """
    for name in FILES:
        remove(out / name)
    runs = out / "runs"
    for path in sorted(runs.iterdir()) if runs.is_dir() else []:
        if path.is_dir() and _is_run(path):
            with Lock(path, observer.warn):
                clear_folder(path)
                remove(path / MANIFEST)
            with contextlib.suppress(OSError):  # what else lies there stays
                path.rmdir()


def _is_run(folder: Path) -> bool:
    """Whether deltatune made the folder for a run."""
    try:
        require_own_run(folder)
    except DeltatuneError:
        return False
    return any((folder / name).exists() for name in (MANIFEST, *RUN_WRITES))
