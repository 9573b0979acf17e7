"""What all sections of a recipe share."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Section(BaseModel):
    """What all sections share: unknown keys are refused, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    later: ClassVar[tuple[str, ...]] = ()
    """Fields that recipes written down before did not have: they are not written where they say nothing."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {key: value for key, value in content.items() if key not in self.later or value is not None}

    @classmethod
    def known_keys(cls) -> list[str]:
        """The keys that a recipe may have here."""
        return [field.alias or name for name, field in cls.model_fields.items()]
