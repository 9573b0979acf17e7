"""The JSON Schema of recipes, for editors."""

from __future__ import annotations

from typing import Any

from deltatune.recipe.schema import Recipe


def json_schema() -> dict[str, Any]:
    """Describe recipe files, with every method's settings, in JSON Schema 2020-12.

    It describes what a person writes: short forms, and method entries as `{METHOD: {settings}, ...}`.
    """
    from deltatune.methods import METHODS

    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    for name in ("ModelSpec", "DataSpec"):
        definitions[name] = _or_text(definitions[name])
    label = definitions.pop("MethodEntry")["properties"]["name"]
    forms: list[dict[str, Any]] = [{"type": "string", "enum": METHODS.names()}]
    for name in METHODS.names():
        settings = METHODS.get(name).model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions.update({f"{name}.{key}": value for key, value in settings.pop("$defs", {}).items()})
        definitions[f"method.{name}"] = settings
        forms.append(_entry_form(name, label))
    definitions["MethodEntry"] = {"anyOf": forms}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _entry_form(name: str, label: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            name: {"anyOf": [{"$ref": f"#/$defs/method.{name}"}, {"type": "null"}]},
            "name": label,
            "train": {
                "$ref": "#/$defs/TrainSpec",
                "description": "Changes to the train section for this entry.",
            },
        },
        "required": [name],
        "additionalProperties": False,
    }


def _or_text(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow the short form, a text, beside the object."""
    return {
        "title": schema.get("title"),
        "description": schema.get("description"),
        "anyOf": [{"type": "string", "minLength": 1}, schema],
    }
