"""What a folder holds, what using it would do on this machine, and whether it fits a base."""

from __future__ import annotations

from pathlib import Path

from deltatune.checkpoint import inspection
from deltatune.errors import DeltatuneError
from deltatune.recipe.given import Given
from deltatune.recipe.wanted import FILE, wanted
from deltatune.results import CertifiedFolder, Fit, RefusedWants, SavedDelta, Wants
from deltatune.runs.load import load_run


def inspect(
    folder: Path, *, given: Given | None = None, trust_remote_code: bool = False
) -> SavedDelta | CertifiedFolder:
    """Say what a saved delta is, and of a run what using it asks for. Only files are read.

    Args:
        folder: A run, a merged model, or a folder with a saved delta.
        given: Of an adapter without a run: a base, which is then loaded to see whether it fits; its task
            and classes.
        trust_remote_code: Whether Python code that comes with that base may run.

    Raises:
        AdapterError: There is no delta and no certificate, a file is damaged, or the delta is another base's.
        DeltatuneError: The base cannot be loaded.
    """
    found = inspection.inspect(folder)
    more: dict[str, Wants | RefusedWants | Fit] = {}
    if (folder / FILE).exists():
        more["wants"] = _wants(folder)
    if given is not None and given != Given():
        more["fits"] = _fit(folder, given, trust_remote_code=trust_remote_code)
    return found.model_copy(update=more)


def _wants(folder: Path) -> Wants | RefusedWants:
    """What the run's recipe refers to; what is wrong with it must not hide the delta."""
    try:
        return Wants.model_validate(wanted(folder).as_dict())
    except DeltatuneError as error:
        return RefusedWants(refused=str(error))


def _fit(folder: Path, given: Given, *, trust_remote_code: bool) -> Fit:
    """What an adapter without a run is on its base.

    Raises:
        DeltatuneError: It does not fit.
    """
    loaded = load_run(folder, trust_remote_code=trust_remote_code, given=given)
    return Fit(
        base=loaded.base.name,
        architecture=type(loaded.base.model).__name__,
        task=loaded.recipe.task,
        classes=loaded.base.labels,
        parameters=sum(parameter.numel() for parameter in loaded.base.model.parameters()),
    )
