"""What the user says of an adapter that has no run, and so no recipe."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from deltatune.errors import DeltatuneError


@dataclass(frozen=True, slots=True)
class Given:
    """What the user says of an adapter without a run; each is an option of that name."""

    base: str | None = None
    """Name or path of its base. Default: the one that the adapter names."""
    task: str | None = None
    """Default: the recipe's, or what the adapter's task_type tells."""
    labels: tuple[str, ...] | None = None
    """Names of the classes in the order of the head's outputs. Default: those that the base names."""
    template: str | None = None
    """How an input becomes what the model reads. Default: the recipe's, or the input as it is."""
    recipe: Path | None = None
    """A recipe whose task, data and evaluation sections hold."""

    def refuse(self, folder: Path) -> None:
        """Refuse to overrule the recipe of a run.

        Raises:
            DeltatuneError: Something is given.
        """
        for field in fields(self):
            if getattr(self, field.name) is not None:
                raise DeltatuneError(
                    f"'{folder}' is a run, whose own recipe says this.",
                    field=f"--{field.name}",
                    remedy="Leave it out; it is for adapters without a run, such as those of peft.",
                )
