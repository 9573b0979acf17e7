"""The name of a task in a recipe."""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from deltatune.errors import nearest
from deltatune.tasks import TASKS


def _known(task: str) -> str:
    if task not in TASKS:
        raise ValueError(f"{task!r} is not a known task. {nearest(task, TASKS.names())}")
    return task


class TaskName(str):
    """The name of a task, checked against the registry; the JSON Schema lists those that are known."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A string that names a task."""
        return core_schema.no_info_after_validator_function(_known, core_schema.str_schema(strict=True))

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The names, as they are registered when the schema is asked for."""
        return {"type": "string", "enum": TASKS.names()}
