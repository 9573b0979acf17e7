"""What may be an axis of a grid or a search: fields in which the entries of one comparison may differ.

A method's settings by their names, and dotted fields of the entry's own sections: how it trains, how it reads
a row (`data.template`) and how it generates (`evaluation.num_beams`). The rest of `data` and `evaluation` is
the same for every entry, or a difference between two rows of the leaderboard would say nothing of either.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from deltatune.errors import RecipeError, nearest
from deltatune.recipe.section import Section
from deltatune.recipe.sections import DataSpec, Decoding, EvaluationSpec, Reading
from deltatune.recipe.train_section import TrainSpec

SECTIONS: dict[str, type[Section]] = {"train": TrainSpec, "data": Reading, "evaluation": Decoding}
"""Sections of an entry whose fields are axes as `SECTION.FIELD`."""
WHOLE: dict[str, type[Section]] = {"data": DataSpec, "evaluation": EvaluationSpec}
"""Sections of a recipe of which entries have a part of their own."""
BITS = "quantization"
"""A field of the entry itself that may be an axis of its grid."""
LABEL = 32
"""Letters of a text in a label."""


def section_of(field: str) -> str | None:
    """The section of a dotted field; None for a field of the method, or of the entry itself."""
    section, dot, _ = field.partition(".")
    return section if dot and section in SECTIONS else None


def by_section(point: Mapping[str, Any]) -> dict[str | None, dict[str, Any]]:
    """Sort a point's fields by their sections; None: those of the method and the entry, as they are."""
    found: dict[str | None, dict[str, Any]] = {}
    for field, value in point.items():
        section = section_of(field)
        found.setdefault(section, {})[field.removeprefix(f"{section}.")] = value
    return found


def at_point(entry: Mapping[str, Any], method: str, point: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry as a recipe writes it, with some fields set, of the method and beside it.

    What should hold fields and does not stays as it is written: validation says what is wrong with it.
    """
    parts = by_section(point)
    settings = {key: value for key, value in parts.pop(None, {}).items() if key != BITS}
    changed = {**entry, method: _with(entry.get(method), settings)}
    changed |= {BITS: point[BITS]} if BITS in point else {}
    return changed | {str(key): _with(entry.get(str(key)), part) for key, part in parts.items()}


def _with(written: Any, fields: Mapping[str, Any]) -> Any:
    return {**(written or {}), **fields} if isinstance(written or {}, Mapping) else written


def check_fields(method: str, fields: Mapping[str, Any], where: str) -> None:
    """Refuse fields that are neither settings of the method nor fields of an entry's sections.

    Raises:
        RecipeError: There is such a field.
    """
    from deltatune.methods import METHODS

    known = list(METHODS.get(method).model_fields)
    for field in fields:
        check_section_field(field, where)
        if section_of(field) is None and field not in known:
            hint = nearest(field, [*known, *section_fields()])
            raise RecipeError(
                f"is neither a setting of {method} nor one of training, reading or decoding.",
                field=f"{where}.{field}",
                remedy=hint,
            )


def section_fields() -> list[str]:
    """All fields of an entry's sections, dotted."""
    return [f"{section}.{name}" for section, kind in SECTIONS.items() for name in kind.model_fields]


def check_section_field(field: str, where: str) -> None:
    """Refuse what is no axis, if `field` is in one of an entry's sections, or names a model.

    Raises:
        RecipeError: It is the same for all entries, or unknown, or a model.
    """
    if field == "model":  # models are contestants, not settings of one: halving would let them drop out
        raise RecipeError(
            "is no axis of a grid.",
            field=f"{where}.model",
            remedy="Write model: [FIRST, SECOND] in the entry, or in the recipe for every entry.",
        )
    section, _, name = field.partition(".")
    if reason := same_for_all(section, name.partition(".")[0]):
        raise RecipeError(reason, field=f"{where}.{field}")
    if section_of(field) and name not in SECTIONS[section].model_fields:
        kind = "a training setting" if section == "train" else f"a field of {section}"
        raise RecipeError(
            f"is not {kind}.",
            field=f"{where}.{field}",
            remedy=nearest(name, SECTIONS[section].model_fields),
        )


def same_for_all(section: str, name: str) -> str | None:
    """Why a field of the recipe's `data` or `evaluation` is none of an entry's, and what to do; else None.

    Args:
        section: `data` or `evaluation`.
        name: The field's; nothing for the whole section.
    """
    if section not in WHOLE or name in SECTIONS[section].model_fields:
        return None
    if name and name not in WHOLE[section].model_fields:
        return None
    own = [f"{section}.{field}" for field in SECTIONS[section].model_fields]
    return (
        "must be the same for every entry: all of a comparison are trained on the same rows, in the same "
        "order, and judged on the same rows, references and metrics. Make two comparisons of it; an entry "
        f"may have its own {', '.join(own[:-1])} and {own[-1]}."
    )


def point_label(point: Mapping[str, Any], axes: Mapping[str, Sequence[Any]] | None = None) -> str:
    """Write a point as `r=8 lr=0.001 targets=query+value`; long texts are cut.

    Args:
        point: Field -> value.
        axes: All values of each field. Texts that would name the same folder are told apart by a hash.
    """
    return " ".join(
        f"{field.removeprefix(f'{section_of(field)}.')}={_label(value, (axes or {}).get(field, ()))}"
        for field, value in point.items()
    )


def _label(value: Any, among: Sequence[Any]) -> str:
    text = _cut(value)
    alike = [other for other in among if other != value and slug(_cut(other)) == slug(text)]
    if isinstance(value, str) and alike:
        return f"{text} #{hashlib.sha256(value.encode()).hexdigest()[:6]}"
    return text


def _cut(value: Any) -> str:
    if not isinstance(value, str):
        return shown(value)
    text = " ".join(value.split())
    return text if len(text) <= LABEL else f"{text[: LABEL - 1].rstrip()}…"


def shown(value: Any) -> str:
    """A value as text, without the signs of YAML."""
    if isinstance(value, list):
        return "+".join(map(shown, value))
    if isinstance(value, Mapping):
        return "+".join(f"{key}:{shown(one)}" for key, one in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def slug(label: str) -> str:
    """Turn a label into a file name: lower case, anything but letters, digits and `._` becomes `-`."""
    return re.sub(r"[^\w.]+", "-", label.lower()).strip("-.")
