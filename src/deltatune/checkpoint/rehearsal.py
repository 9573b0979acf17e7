"""A rehearsal: what is to be saved at the end of a run is saved and read back before its first step."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from deltatune.checkpoint.store import load_adapter, save_adapter
from deltatune.core.model import AdaptedModel
from deltatune.files import OURS, storing
from deltatune.timeline import phase

_NAME = "rehearsed"


@phase("rehearse saving")
def rehearse_saving(model: AdaptedModel, name: str, parent: Path) -> None:
    """Write the adapter `name` as it is now into a folder below `parent`, load it, and remove both.

    Args:
        model: The model that it is attached to; its active adapters stay as they are.
        name: Which adapter.
        parent: The folder that the delta will be written to, so that a full or read-only disk shows as well.

    Raises:
        DeltatuneError: This method's delta cannot be saved on this base, or not read back.
    """
    with storing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f"{OURS}new.rehearsal."))
    try:
        with model.using():
            save_adapter(model, name, temporary / "adapter")
            load_adapter(model, temporary / "adapter", _NAME)
            model.detach(_NAME)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
