"""Export a run to a form that other programs read."""

from __future__ import annotations

import math
from pathlib import Path

from deltatune.core.devices import AUTO
from deltatune.errors import DeltatuneError
from deltatune.exporting import TARGETS
from deltatune.exporting.target import EXPORT, Job, Settings
from deltatune.observer import Observer, Silent
from deltatune.recipe.given import Given
from deltatune.results import Exported

MOST_RANK = 2**16


def export(
    run: Path,
    out: Path,
    *,
    target: str,
    settings: Settings | None = None,
    dry_run: bool = False,
    given: Given | None = None,
    device: str = AUTO,
    trust_remote_code: bool = False,
    observer: Observer | None = None,
) -> Exported:
    """Write what a run has learned in the form that another program reads, and measure what that loses.

    Args:
        run: The run's folder, or that of an adapter without a run.
        out: Folder for the export. One that an earlier export wrote is replaced.
        target: Its form, a name in `TARGETS`.
        settings: What the target asks for.
        dry_run: Write nothing; say what would be written.
        given: As of `load_run`.
        device: As of `load_run`.
        trust_remote_code: As of `load_run`.
        observer: Is told of the progress.

    Raises:
        RecipeError: There is no such target.
        AdapterError: The run's method has no such form; the message says what to do instead.
        DeltatuneError: A setting is none of the target's or out of its range, `out` holds something else, or
            the run cannot be loaded.
    """
    form, settings = TARGETS.get(target, field="--as"), settings or Settings()
    _require_settings(target, form.options, settings)
    _require_apart(run, out)
    if not dry_run and target != "merged":
        EXPORT.require_replaceable(out.resolve())  # before the work
    return form.export(
        Job(
            run,
            out,
            settings,
            dry_run,
            given,
            device,
            trust_remote_code,
            observer or Silent(),
        )
    )


def share(value: str | float) -> float:
    """A share of the energy, written as `99%` or `0.99`.

    Raises:
        DeltatuneError: It is none, or a number above 1 without a percent sign.
    """
    text = str(value).strip()
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = math.nan
    if not 0 < found <= 1:
        hint = f"Write {text}% if that is meant." if 1 < found <= 100 else "Write it as 99% or 0.99."
        raise DeltatuneError(f"{value!r} is no share between 0 and 1.", field="--keep", remedy=hint)
    return found


def _require_settings(target: str, options: frozenset[str], settings: Settings) -> None:
    for name in ("rank", "keep", "dtype", "rows"):
        if getattr(settings, name) is not None and name not in options:
            takers = [other for other, form in TARGETS.items() if name in form.options]
            raise DeltatuneError(
                f"the target {target!r} asks for no {name}.",
                field=f"--{name}",
                remedy=f"Leave it out; it is for {', '.join(takers)}.",
            )
    if settings.rank is not None and settings.keep is not None:
        raise DeltatuneError(
            "a rank and a share of the energy are given, and one decides the other.",
            field="--rank",
            remedy="Give --rank or --keep.",
        )
    rank, rows = settings.rank, settings.rows
    if rank is not None and not 1 <= rank <= MOST_RANK:
        raise DeltatuneError(
            f"{rank} is no rank.", field="--rank", remedy=f"Give 1 to {MOST_RANK:,}, such as 16."
        )
    if settings.keep is not None:
        share(settings.keep)
    if rows is not None and rows < 0:
        raise DeltatuneError(
            f"{rows} is no number of rows.",
            field="--rows",
            remedy="Give how many test rows to measure on, or 0 for none.",
        )


def _require_apart(run: Path, out: Path) -> None:
    """Refuse an export in the run's own folder: that folder's files are listed, and this one would be none.

    Raises:
        DeltatuneError: One lies in the other.
    """
    place, source = out.resolve(), run.resolve()
    if place == source or source in place.parents or place in source.parents:
        raise DeltatuneError(
            f"'{out}' and the run '{run}' lie one in the other.",
            field="OUT",
            remedy="Choose a folder beside the run.",
        )
