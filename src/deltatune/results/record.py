"""What the records of all files have in common: how they are checked, and how they become JSON again."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from deltatune.errors import DeltatuneError
from deltatune.phrasing import first_problem

SCHEMA = 1
"""Version of the files; it changes when a reader would misread them."""
Number = int | float
"""A number as it stands in the file: a count stays one."""


class Record(BaseModel):
    """An object of a file.

    Keys that are not known here are kept: another version may have written them. A key that a file does not
    have is not written, either, so that what is read and written again holds what it held.
    """

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        populate_by_name=True,
        protected_namespaces=(),
    )

    @classmethod
    def of(
        cls, content: Any, where: str, *, remedy: str, error: type[DeltatuneError] = DeltatuneError
    ) -> Self:
        """Check what a file holds.

        Args:
            content: As `json.loads` gives it.
            where: The file, in words: `'out/result.json'`.
            remedy: What to do about a damaged one.
            error: The kind of error that it is.

        Raises:
            DeltatuneError: A field is missing or has another kind of value.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as cause:
            raise error(f"{where} {first_problem(cause)}", remedy=remedy) from cause

    def as_dict(self) -> dict[str, Any]:
        """The content of the file: the keys that were given, in the order of the fields."""
        return self.model_dump(by_alias=True, exclude_unset=True)
