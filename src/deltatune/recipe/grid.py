"""Grids: an entry that gives lists or ranges for some fields becomes one entry for each combination.

    grid: {train.lr: {from: 1e-4, to: 1e-2, steps: 5, scale: log}}   # for every entry that trains;
                                               # data.X and evaluation.X for the untuned, too
    sample: 8                                  # at most so many configurations of each entry, by seed
    methods:
      - lora: {alpha: 16}
        grid: {r: [4, 8], targets: [[query], [query, value]]}        # of the entry: its settings, train.X,
                                                                     # data.X, evaluation.X (see axes.py),
                                                                     # or quantization: [null, nf4]

Grids are expanded before a recipe is validated, so that everything behind it sees plain entries, and the
recipe that a comparison writes down lists them one by one. Lists of models (bases.py) are expanded with them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import model_validator

from deltatune.errors import RecipeError
from deltatune.recipe.axes import (
    BITS,
    at_point,
    check_fields,
    check_section_field,
    point_label,
    section_of,
    shown,
)
from deltatune.recipe.bases import listed, on_each_model
from deltatune.recipe.kinds import Count, Int
from deltatune.recipe.messages import parse_section
from deltatune.recipe.ranges import LARGEST, Range
from deltatune.recipe.section import Section
from deltatune.recipe.train_section import TUNED

if TYPE_CHECKING:
    from deltatune.core.method import MethodConfig


class SampleSpec(Section):
    """How many configurations of each entry's grid are tried. In a recipe, a plain number means its size."""

    size: Count
    """At most so many configurations of each entry: the same number of tries for each."""
    seed: Int = 0
    """Of the draw."""

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return value if isinstance(value, dict | SampleSpec) else {"size": value}


class Origin(NamedTuple):
    """Where an expanded entry was written: its number in the recipe, and the axes of its grid."""

    entry: int
    own: tuple[str, ...] = ()
    """Axes of the entry's grid."""
    shared: tuple[str, ...] = ()
    """Axes of the recipe's grid."""
    model: str | None = None
    """The place of its model, if it is one of a list."""


def expand_grids(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[Origin]]:
    """Replace the grids and lists of models of a recipe's content by the entries they stand for.

    Returns:
        The content without `grid` and `sample`, and for each entry of its `methods` where it came from.

    Raises:
        RecipeError: A grid is not one, or names a field that does not exist.
    """
    rest = {key: value for key, value in content.items() if key not in ("grid", "sample")}
    models = listed(content.get("model"), "model")
    if models:
        rest["model"] = models[0]
    methods = content.get("methods")
    if not isinstance(methods, list):
        return rest, []
    shared = _axes(content.get("grid"), "grid")
    for field in shared:
        check_section_field(field, "grid")
        if section_of(field) is None:
            raise RecipeError(
                f"is a setting of {'an entry' if field == BITS else 'a method'}; the recipe's grid holds "
                "train.lr, data.template, evaluation.num_beams and the like only.",
                field=f"grid.{field}",
                remedy="Write it in the grid of an entry under methods.",
            )
    sample = (
        parse_section(SampleSpec, content["sample"], "sample") if content.get("sample") is not None else None
    )
    entries: list[Any] = []
    origins: list[Origin] = []
    for index, entry in enumerate(methods):
        for variant, place in _on_each_model(entry, models, index):
            found, origin = _expand(variant, index, shared, sample)
            entries += found
            origins += [origin._replace(model=place)] * len(found)
    if sample is not None and not any(origin.own or origin.shared for origin in origins):
        raise RecipeError(
            "has no grid to take configurations from.",
            field="sample",
            remedy="Write a grid, such as {train.lr: [1e-4, 1e-3]}, or leave sample out.",
        )
    if content.get("tune") is not None:
        _refuse_two_ways(origins, content["tune"])
    return {**rest, "methods": entries}, origins


def _on_each_model(entry: Any, models: Sequence[Any], index: int) -> list[tuple[Any, str | None]]:
    plain = {entry: None} if isinstance(entry, str) else entry
    method = _method_name(plain)
    if method is None or not (models or isinstance(plain.get("model"), list)):
        return [(entry, None)]
    return on_each_model(plain, plain.get("name") or method, models, f"methods.{index}.model")


def _expand(
    entry: Any, index: int, shared: Mapping[str, list[Any]], sample: SampleSpec | None
) -> tuple[list[Any], Origin]:
    plain = {entry: None} if isinstance(entry, str) else entry
    method = _method_name(plain)
    if method is None:  # validation says what is wrong with it
        return [entry], Origin(index)
    own = _axes(plain.get("grid"), f"methods.{index}.grid")
    if not _kind(method).trains:  # it reads and generates, all the same
        shared = {field: axis for field, axis in shared.items() if section_of(field) != "train"}
    elif _kind(method).rate != "lr":  # to vary its lr would vary nothing
        shared = {field: axis for field, axis in shared.items() if field != "train.lr"}
    if not own and not shared:
        return [{key: value for key, value in plain.items() if key != "grid"}], Origin(index)
    check_fields(
        method, {field: axis for field, axis in own.items() if field != BITS}, f"methods.{index}.grid"
    )
    for field in own:
        section = section_of(field)
        name = field.removeprefix(f"{section}.")
        written = plain if field == BITS else plain.get(section or method)
        if isinstance(written, dict) and name in written:
            raise RecipeError(
                f"has a value beside the grid: {written[name]!r}.",
                field=f"methods.{index}.grid.{field}",
                remedy="Keep one of them.",
            )
    axes = {**own, **{field: values for field, values in shared.items() if field not in own}}
    points = _points(axes, sample, f"methods.{index}.grid" if own else "grid")
    label = plain.get("name") or method
    bare = {key: value for key, value in plain.items() if key != "grid"}
    found = [
        {**at_point(bare, method, point), "name": f"{label} {point_label(point, axes)}", "group": label}
        for point in points
    ]
    return found, Origin(index, tuple(own), tuple(field for field in shared if field not in own))


def _refuse_two_ways(origins: Sequence[Origin], tune: Any) -> None:
    """A label that says lr=0.001 must not stand for another rate, which tuning chose."""
    tuned = [f"train.{name}" for name in TUNED if isinstance(tune, Mapping) and tune.get(name) is not None]
    for origin in origins:
        for rate in tuned:
            if rate in (*origin.own, *origin.shared):
                where = f"methods.{origin.entry}.grid" if rate in origin.own else "grid"
                raise RecipeError(
                    f"cannot stand beside tune.{rate.removeprefix('train.')}, which chooses the rate.",
                    field=f"{where}.{rate}",
                    remedy="Keep one of them.",
                )


def _points(axes: Mapping[str, list[Any]], sample: SampleSpec | None, where: str) -> list[dict[str, Any]]:
    total = math.prod(len(values) for values in axes.values())
    size = min(total, sample.size) if sample else total
    if size > LARGEST:
        raise RecipeError(
            f"has {total:,} configurations; {LARGEST} is the most.",
            field=where,
            remedy="Take fewer values, or a part of them with sample: N.",
        )
    if size == total:
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    assert sample is not None
    chosen = sorted(random.Random(sample.seed).sample(range(total), size))
    return [_point(axes, number) for number in chosen]


def _point(axes: Mapping[str, list[Any]], number: int) -> dict[str, Any]:
    """Give combination `number`, counted as itertools.product does: the last axis runs fastest."""
    point = {}
    for field, values in reversed(list(axes.items())):
        number, position = divmod(number, len(values))
        point[field] = values[position]
    return {field: point[field] for field in axes}


def _axes(grid: Any, where: str) -> dict[str, list[Any]]:
    """Read a grid: field -> its values."""
    if grid is None:
        return {}
    if not isinstance(grid, Mapping) or not grid:
        raise RecipeError(
            f"{grid!r} must be a mapping of fields to lists or ranges, such as {{r: [4, 8]}}.", field=where
        )
    return {str(field): _values(axis, f"{where}.{field}") for field, axis in grid.items()}


def _values(axis: Any, where: str) -> list[Any]:
    if isinstance(axis, Mapping):
        return list(parse_section(Range, axis, where).values())
    if not isinstance(axis, list) or not axis:
        raise RecipeError(
            f"{axis!r} must be a list of values, or a range such as "
            "{from: 1e-4, to: 1e-2, steps: 5, scale: log}.",
            field=where,
        )
    texts = [shown(value) for value in axis]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise RecipeError(f"has the value {twice} twice.", field=where, remedy="Take one of them out.")
    return axis


def _method_name(entry: Any) -> str | None:
    """The method of an entry as a recipe writes it; None if it has none that is known."""
    from deltatune.methods import METHODS

    if not isinstance(entry, Mapping):
        return None
    return next((str(key) for key in entry if key in METHODS.names()), None)


def _kind(method: str) -> type[MethodConfig]:
    from deltatune.methods import METHODS

    return METHODS.get(method)
