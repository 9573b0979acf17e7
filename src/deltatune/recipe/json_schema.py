"""The JSON Schema of recipes, for editors."""

from __future__ import annotations

from typing import Any

from deltatune.recipe.grid import SampleSpec
from deltatune.recipe.ranges import Range
from deltatune.recipe.schema import Recipe

_ENTRY = ("name", "data", "evaluation", "quantization", "budget", "space", "from")
"""Fields of an entry that stand in a recipe as in `MethodEntry`."""


def json_schema() -> dict[str, Any]:
    """Describe recipe files, with every method's settings, in JSON Schema 2020-12.

    It describes what a person writes: short forms, and method entries as `{METHOD: {settings}, ...}`.
    """
    from deltatune.methods import METHODS

    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    definitions["DataSet"] = _or_text(_with_name(definitions["DataSpec"]))
    for name in ("ModelSpec", "DataSpec"):
        definitions[name] = _or_text(definitions[name])
    entry = definitions.pop("MethodEntry")["properties"]
    shared = {field: entry[field] for field in _ENTRY}
    shared["model"] = _or_list(entry["model"]["description"])
    schema["properties"]["model"] = _or_list(schema["properties"]["model"]["description"])
    schema["properties"]["data"] = _or_sets(schema["properties"]["data"]["description"])
    forms: list[dict[str, Any]] = [{"type": "string", "enum": METHODS.names()}]
    for name in METHODS.names():
        settings = METHODS.get(name).model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions.update({f"{name}.{key}": value for key, value in settings.pop("$defs", {}).items()})
        definitions[f"method.{name}"] = settings
        forms.append(_entry_form(name, shared))
    definitions["MethodEntry"] = {"anyOf": forms}
    _add_grids(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _add_grids(schema: dict[str, Any]) -> None:
    """Describe grids, which are expanded before a recipe becomes a `Recipe`."""
    definitions = schema["$defs"]
    definitions["Range"] = Range.model_json_schema()
    sample = SampleSpec.model_json_schema()
    definitions["SampleSpec"] = {"anyOf": [{"type": "integer", "minimum": 1}, sample]}
    definitions["Grid"] = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"anyOf": [{"type": "array", "minItems": 1}, {"$ref": "#/$defs/Range"}]},
    }
    schema["properties"]["grid"] = {
        "$ref": "#/$defs/Grid",
        "description": "Fields (train.lr, data.template, evaluation.num_beams, ...) with lists or ranges of "
        "values: every entry is tried with each combination; one that does not train, without train.X.",
    }
    schema["properties"]["sample"] = {
        "$ref": "#/$defs/SampleSpec",
        "description": "Try at most so many configurations of each entry's grid, drawn with a seed.",
    }


def _entry_form(name: str, shared: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            name: {"anyOf": [{"$ref": f"#/$defs/method.{name}"}, {"type": "null"}]},
            **shared,
            "train": {
                "$ref": "#/$defs/TrainSpec",
                "description": "Changes to the train section for this entry.",
            },
            "grid": {
                "$ref": "#/$defs/Grid",
                "description": "Settings of the method, train.X, data.X, evaluation.X, or quantization, with "
                "lists or ranges of values.",
            },
            "group": {"type": "string", "description": "The entry from whose grid this one was made."},
        },
        "required": [name],
        "additionalProperties": False,
    }


def _or_list(description: str) -> dict[str, Any]:
    """Allow one model, or several."""
    one = {"$ref": "#/$defs/ModelSpec"}
    several = {"type": "array", "minItems": 1, "items": one}
    return {"anyOf": [one, several], "description": description}


def _or_sets(description: str) -> dict[str, Any]:
    """Allow one data set, or several."""
    several = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/DataSet"}}
    return {"anyOf": [{"$ref": "#/$defs/DataSpec"}, several], "description": description}


def _with_name(schema: dict[str, Any]) -> dict[str, Any]:
    """A data section as one of several has it."""
    name = {"type": "string", "minLength": 1, "description": "Of the data set. Default: by its source."}
    return {**schema, "title": "DataSet", "properties": {**schema["properties"], "name": name}}


def _or_text(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow the short form, a text, beside the object."""
    return {
        "title": schema.get("title"),
        "description": schema.get("description"),
        "anyOf": [{"type": "string", "minLength": 1}, schema],
    }
