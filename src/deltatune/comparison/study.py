"""Where Optuna keeps the trials of a search: a file in the comparison's folder, or a shared database."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatune.comparison.attempt import run_folder
from deltatune.errors import AdapterError, RecipeError
from deltatune.evaluation import higher_is_better
from deltatune.recipe.choosing import SearchSpec
from deltatune.recipe.schema import MethodEntry
from deltatune.training import Context

if TYPE_CHECKING:
    import optuna

DATABASE = "search.db"
HEARTBEAT = 60  # seconds
RETRIES = 3
OPENINGS = 5  # tries
POLL = 2.0  # seconds between looks at what other machines do
PATIENCE = 60  # seconds that SQLite waits for another process
PERCENT = 100  # trials report their progress in percent of their steps, which may differ


def open_study(context: Context, entry: MethodEntry, out: Path, spec: SearchSpec) -> optuna.Study:
    """The study of an entry: made, or found as it was left."""
    try:
        import optuna
        from sqlalchemy.exc import DatabaseError
    except ImportError as error:
        raise RecipeError(
            "needs the package optuna.", field="search", remedy='Install it: pip install "deltatune[search]".'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recipe = context.recipe
    if spec.storage is None:
        _require_sound(out / DATABASE, any(out.glob(run_folder(entry, recipe.seeds[0], "*"))))
    up = higher_is_better(recipe.evaluation.select_by)

    def study() -> optuna.Study:
        return optuna.create_study(
            storage=storage(spec, out),
            study_name=entry.slug,
            direction="maximize" if up else "minimize",
            load_if_exists=True,
            pruner=_pruner(context, entry),
        )

    try:
        for _ in range(OPENINGS - 1):
            try:
                return study()
            except DatabaseError:  # another machine is making the tables
                time.sleep(random.uniform(0.1, 1) * POLL)
        return study()
    except Exception as error:  # whatever the database's driver raises
        raise RecipeError(
            f"the database cannot be used ({type(error).__name__}: {error}).",
            field="search.storage",
            remedy="Check the URL, and that its driver is installed; or leave it out.",
        ) from error


def _require_sound(path: Path, begun: bool) -> None:
    """Check the file of a database, as far as SQLite can tell.

    Args:
        path: The file.
        begun: Whether there are trials, which it must know of. Without them it may be empty: SQLite makes the
            file before the first table.

    Raises:
        AdapterError: It is damaged.
    """
    if not path.exists() and not path.is_symlink() and not begun:
        return
    why = "it is empty, and trials have been made" if begun else ""
    if path.is_symlink():  # SQLite would write to what it names
        why = "it is a link"
    elif not path.exists():
        why = "it is gone, and trials have been made"
    elif not path.is_file():
        why = "it is not a file"
    elif path.stat().st_size:
        why = ""
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
                (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            why = "" if answer == "ok" else " ".join(answer.split())
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):  # by another process, which can read it
                why = str(error)
        except sqlite3.DatabaseError as error:
            why = str(error)
    if why:
        raise AdapterError(
            f"the search's database '{path}' is damaged: {why}.",
            remedy="Restore it, choose another folder, or start anew with --overwrite.",
        )


def storage(spec: SearchSpec, out: Path) -> Any:
    """Where Optuna keeps the trials: our own file, or the database that the recipe names."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback

    if spec.storage is None:
        from sqlalchemy.pool import NullPool

        # By a path and not a URL, in which a folder's `?`, `%` or `{` would mean something.
        path = out.resolve() / DATABASE

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(path, timeout=PATIENCE)

        return RDBStorage("sqlite://", engine_kwargs={"creator": connect, "poolclass": NullPool})
    url = os.path.expandvars(spec.storage)
    patience = {"connect_args": {"timeout": PATIENCE}} if url.startswith("sqlite") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats are, since version 2.8
        return RDBStorage(
            url,
            engine_kwargs=patience,
            heartbeat_interval=HEARTBEAT,
            grace_period=3 * HEARTBEAT,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
        )


MANY = 9
"""Trials from which on the first decision of `halving: auto` is at a ninth of the steps."""


def _pruner(context: Context, entry: MethodEntry) -> optuna.pruners.BasePruner:
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner

    halving = context.recipe.halving
    if halving is None:
        return NopPruner()
    shares = halving.shares(MANY, entry.train.steps(len(context.dataset.train)))
    first = max(1, round(PERCENT * shares[0])) if shares else PERCENT
    return SuccessiveHalvingPruner(min_resource=first, reduction_factor=halving.factor)
