"""What choosing.json holds: how far candidates came and how they stood, and in how many stages they compete.

It is written as it comes, so that the same call after an interruption, or another process, goes on by it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deltatune.comparison.halving import Standing
from deltatune.comparison.team import Team
from deltatune.errors import RecipeError
from deltatune.files import CHECKSUM, is_intact, read_json, sealed, write_json
from deltatune.phrasing import first_problem

JOURNAL = "choosing.json"
REACHED = "reached"
STAGES = "stages"
_REMEDY = "Start the comparison anew with --overwrite."


@dataclass(frozen=True)
class Stages:
    """How halving goes about it, where it found out itself."""

    shares: dict[str, list[float]] = field(default_factory=dict)
    """Pool -> shares of the steps at which is decided."""
    left_out: list[str] = field(default_factory=list)
    """Labels of candidates that there is no time to begin with."""
    seconds: float | None = None
    """Of all that is to be done, as foreseen; None if it was not asked for."""


Reached = dict[str, dict[str, Standing]]
"""How candidates stood, by label and share."""
_REACHED = TypeAdapter(Reached)
_STAGES = TypeAdapter(Stages | None)


class Journal:
    """The file, and what this process knows of it.

    Args:
        team: The processes that write it.

    Raises:
        RecipeError: It is damaged. Decisions that were taken by it cannot be taken again.
    """

    def __init__(self, team: Team) -> None:
        self.team, self.path = team, team.out / JOURNAL
        self.reached: Reached = {}
        self.stages: Stages | None = None
        self.read()

    def read(self) -> None:
        """Know what the file knows, others' entries included."""
        if not self.path.exists():
            return
        reached, self.stages = read_journal(self.path)
        for label, shares in reached.items():
            self.reached.setdefault(label, {}).update(shares)

    def note(self, label: str, share: str, standing: Standing) -> None:
        """Write down how a candidate stood."""
        with self.team.desk():
            self.read()
            self.reached.setdefault(label, {})[share] = standing
            self._write()

    def settle(self, decide: Callable[[], Stages]) -> Stages:
        """The stages that were decided on, or are now: by one process, for all."""
        with self.team.desk():
            self.read()
            if self.stages is None:
                self.stages = decide()
                self._write()
            return self.stages

    def _write(self) -> None:
        reached = {
            label: {share: asdict(standing) for share, standing in shares.items()}
            for label, shares in self.reached.items()
        }
        content: dict[str, Any] = {REACHED: reached}
        if self.stages is not None:
            content[STAGES] = asdict(self.stages)
        write_json(self.path, sealed(content))


def read_journal(path: Path) -> tuple[Reached, Stages | None]:
    """Read the file.

    Raises:
        RecipeError: It is damaged.
    """
    known = read_json(path, remedy=_REMEDY, error=RecipeError)
    if is_intact(known) is False:
        raise RecipeError(f"'{path}' is damaged: its checksum differs.", remedy=_REMEDY)
    whole = CHECKSUM in known and REACHED in known
    reached = known[REACHED] if whole else known  # 0.1 wrote that alone
    stages = known.get(STAGES) if whole else None
    try:  # of Python, strictly, no dict is one of these
        return (
            _REACHED.validate_json(json.dumps(reached), strict=True),
            _STAGES.validate_json(json.dumps(stages), strict=True),
        )
    except ValidationError as error:
        raise RecipeError(
            f"'{path}' does not say how far candidates came: it {first_problem(error)}", remedy=_REMEDY
        ) from error
