"""Several base models in one recipe: a list of them makes an entry one contestant on each.

    model: [google-t5/t5-small, facebook/bart-base]     # every entry, on both
    methods:
      - lora                                            # lora t5-small, lora bart-base
      - adalora: {}
        model: facebook/bart-base                       # this entry on a model of its own, or on a list

As grids, lists are expanded before a recipe is validated. Each model has its own tokenizer: texts that one
generates are compared with those of another, numbers that are counted in tokens are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deltatune.errors import RecipeError
from deltatune.recipe.base_sections import ModelSpec
from deltatune.recipe.messages import parse_section


def listed(value: Any, where: str) -> list[Any]:
    """The models of a list, as they are written; nothing if `value` is one model.

    Args:
        value: A recipe's or an entry's `model`.
        where: Its place in the recipe.

    Raises:
        RecipeError: The list is empty, has a model twice, or an item is no model.
    """
    if not isinstance(value, list):
        return []
    if not value:
        raise RecipeError("is an empty list.", field=where, remedy="Name a model, or several.")
    specs = _specs(value, where)
    for index, spec in enumerate(specs):
        if spec in specs[:index]:
            raise RecipeError(
                f"has the model {spec.name} twice.", field=f"{where}.{index}", remedy="Take one of them out."
            )
    return value


def on_each_model(
    entry: Mapping[str, Any], label: str, shared: Sequence[Any], where: str
) -> list[tuple[dict[str, Any], str | None]]:
    """Make one entry for each model that it is to be trained on, with the model's place in the recipe.

    Args:
        entry: As a recipe writes it.
        label: The entry's name, or its method's; the names of models are added to it.
        shared: The recipe's list of models, for an entry without any of its own.
        where: Place of the entry's own `model` in the recipe.

    Raises:
        RecipeError: As for `listed`.
    """
    own = entry.get("model") is not None
    models = listed(entry["model"], where) if own else list(shared)
    if not models:
        return [(dict(entry), None)]
    names = short_names(_specs(models, where))
    return [
        ({**entry, "model": model, "name": f"{label} {name}"}, f"{where if own else 'model'}.{index}")
        for index, (model, name) in enumerate(zip(models, names, strict=True))
    ]


def short_names(specs: Sequence[ModelSpec]) -> list[str]:
    """Names that tell models apart: the last part of each one's, or more where that is not enough."""
    short = [spec.name.removeprefix("bundled:").rstrip("/").rpartition("/")[2] for spec in specs]
    full = [spec.name for spec in specs]
    options = [_options(spec, specs) for spec in specs]
    with_options = [" ".join([name, *more]) for name, more in zip(short, options, strict=True)]
    for names in (short, full, with_options):
        if len(set(names)) == len(specs):
            return names
    return [" ".join([name, *more]) for name, more in zip(full, options, strict=True)]


def _options(spec: ModelSpec, among: Sequence[ModelSpec]) -> list[str]:
    """What sets a model apart from others besides its name, such as `revision=v2`."""
    values = {
        field: getattr(spec, field)
        for field in ModelSpec.model_fields
        if field != "name" and len({getattr(other, field) for other in among}) > 1
    }
    return [f"{field}={value}" for field, value in values.items() if value not in (None, False)]


def _specs(models: Sequence[Any], where: str) -> list[ModelSpec]:
    return [parse_section(ModelSpec, model, f"{where}.{index}") for index, model in enumerate(models)]
