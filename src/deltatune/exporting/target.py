"""What a target of an export is, and what it is given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from deltatune.checkpoint.folders import atomic_folder
from deltatune.core.devices import AUTO
from deltatune.files import write_json
from deltatune.models.bundled import public_name
from deltatune.observer import Observer, Silent
from deltatune.recipe.given import Given
from deltatune.results import SCHEMA, Exported
from deltatune.runs.load import load_run
from deltatune.runs.loaded import LoadedRun
from deltatune.runs.place import Product, locked_place, require_apart

EXPORT = Product("export", "export", "is not an export that was written before", field="OUT")
RESULT = "export.json"


@dataclass(frozen=True)
class Settings:
    """What only some targets ask for; a target names those that it does in `options`."""

    rank: int | None = None
    """Largest rank of a low-rank update."""
    keep: float | None = None
    """Share of each update's energy that its rank has to hold, in (0, 1]."""
    dtype: str | None = None
    """Type of the weights that are written, by the target's own names."""
    rows: int | None = None
    """Test rows to measure the run's metric on; 0 for none. Default: all."""


@dataclass(frozen=True)
class Job:
    """An export that was asked for."""

    run: Path
    out: Path
    settings: Settings = field(default_factory=Settings)
    dry_run: bool = False
    given: Given | None = None
    device: str = AUTO
    trust_remote_code: bool = False
    observer: Observer = field(default_factory=Silent)

    def load(self, *, as_trained: bool = True) -> LoadedRun:
        """Load the run.

        Args:
            as_trained: As of `load_run`.

        Raises:
            DeltatuneError: It cannot be loaded, or the export would take its base's place.
        """
        self.observer.stage(f"Loading {self.run}")
        loaded = load_run(
            self.run,
            as_trained=as_trained,
            trust_remote_code=self.trust_remote_code,
            given=self.given,
            device=self.device,
        )
        require_apart(self.out.resolve(), loaded.recipe.model)
        return loaded

    def about(self, target: str, method: str, base: str) -> dict[str, Any]:
        """The fields of `Exported` that say what is exported."""
        return {"schema": SCHEMA, "target": target, "run": str(self.run), "method": method, "base": base}

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a folder to write to, which takes the place of `out` when the block ends without an error.

        Its files are listed with their checksums. Only an export that was written before is replaced.
        """
        with locked_place(self.out) as place:
            EXPORT.require_replaceable(place)
            with atomic_folder(place) as temporary:
                yield temporary
                EXPORT.vouch(temporary)
                EXPORT.require_replaceable(place)  # still: to make an export can take many minutes


class Target(Protocol):
    """A form that a run can be exported to."""

    title: str
    """What is written and for what program, in a line."""
    options: frozenset[str]
    """The fields of `Settings` that it asks for."""

    def export(self, job: Job) -> Exported:
        """Write the export; of a dry run only say what it would be.

        Raises:
            AdapterError: The run's method has no such form. The message says what to do instead.
            DeltatuneError: The run cannot be loaded, or the folder cannot be written.
        """
        ...


def named_for_others(base: str) -> str:
    """A base's name in a file that is passed on: of a folder of this machine its last part alone."""
    name = public_name(base)
    return Path(name).name if Path(name).expanduser().is_absolute() else name


def write_result(folder: Path, done: Exported) -> None:
    """Write export.json to the folder of an export."""
    write_json(folder / RESULT, done.as_dict())
