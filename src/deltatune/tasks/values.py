"""What tasks share that tell a number: how it is read, standardised for the model, and written again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from deltatune.errors import DataError
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import Feature, Row, Tools

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("mse", "mae", "r2", "pearson", "spearman")
SENSELESS = {"data.target_template": "is for generated text; the target of {task} is a number."}
"""Fields of a recipe that numbers have no use for."""
WITHOUT_EFFECT = ("data.max_target_tokens", "evaluation.num_beams", "evaluation.max_new_tokens")
DIGITS = 4
"""Decimals of a standard deviation to which a prediction is written."""
SIGNIFICANT = 15
"""Digits that a float64 surely has."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Where the targets of the training rows lie: the model learns standard deviations from their mean."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"allow_inf_nan": False, "use_attribute_docstrings": True}

    mean: float
    """Of the training rows' targets, in the data's units."""
    sd: float
    """Their standard deviation (of the rows, not of a population), in the data's units."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The scale of training targets.

        Raises:
            DataError: All are the same number, or so large that their squares are none.
        """
        if min(values) == max(values):
            raise DataError(
                f"are all {values[0]:.15g}: there is nothing to tell apart.",
                field=f"the targets of {len(values)} training rows",
                remedy="Choose another data.columns.target, or add rows with other values.",
            )
        try:
            mean = math.fsum(values) / len(values)
            sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        except OverflowError:
            mean = sd = math.inf
        if not math.isfinite(mean) or not math.isfinite(sd) or sd == 0.0:
            raise DataError(
                f"reach from {min(values):.3g} to {max(values):.3g}, whose spread is no number of 64 bits.",
                field=f"the targets of {len(values)} training rows",
                remedy="Give them in another unit.",
            )
        return cls(mean, sd)

    def inside(self, value: float) -> float:
        """A value of the data as the model learns it."""
        return (value - self.mean) / self.sd

    def outside(self, standardised: float) -> float:
        """What the model gives in the data's units, to a ten-thousandth of a standard deviation."""
        decimals = max(0, DIGITS - math.floor(math.log10(self.sd)))
        return round(standardised * self.sd + self.mean, decimals) + 0.0  # without a minus before a zero


class Scaled(Protocol):
    """What knows the scale, such as an encoder."""

    @property
    def scale(self) -> Scale | None:
        """By what numbers are standardised."""


def number_of(text: str) -> float | None:
    """The number that a target says; None if it says none, or one that is not finite."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def as_text(value: float) -> str:
    """A number in as few digits as tell it."""
    return f"{value:.{SIGNIFICANT}g}"


def no_number(text: str, field: str) -> DataError:
    """The error of a target that says no number."""
    shown = text if len(text) <= 40 else f"{text[:39]}…"
    return DataError(
        f"has the target {shown!r}, which is no finite number.",
        field=field,
        remedy="Write it with digits and a decimal point (-1.5, 2e3), without units or thousands separators; "
        "or remove the row.",
    )


def value_of(row: Row, tools: Tools, supervised: bool) -> Feature:
    """The number of a row as `value`, standardised; nothing if it has none and needs none.

    Raises:
        DataError: It needs one, and its target says none; or it is not known what it is standardised by.
    """
    if not supervised:
        return {}
    number = number_of(row.target)
    if number is None:
        raise no_number(row.target, f"row {row.id}")
    return {"value": scale_of(tools).inside(number)}


def scale_of(tools: Scaled) -> Scale:
    """By what values are standardised.

    Raises:
        DataError: It is not known.
    """
    if tools.scale is None:
        raise DataError(
            "are of training rows that are not known.",
            field="mean and standard deviation",
            remedy="Name a recipe with the rows that it was trained on.",
        )
    return tools.scale


def value_batch(features: Sequence[Feature]) -> dict[str, Tensor]:
    """`labels` [rows] in float32, where the rows have values."""
    import torch

    values = [feature["value"] for feature in features if "value" in feature]
    return {"labels": torch.tensor(values, dtype=torch.float32)} if values else {}


def value_shown(feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
    """A row's number in the data's units, as what is learned."""
    if "value" not in feature:
        return []
    return [(as_text(scale_of(tools).outside(feature["value"])), True)]


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of outputs [rows, 1] and targets [rows], summed, in float32 or wider."""
    import torch

    wide = torch.promote_types(outputs.dtype, torch.float32)
    return (outputs.to(wide).squeeze(-1) - targets.to(wide)).square().sum()


def blank_batch(shape: BatchShape) -> dict[str, Tensor]:
    """A batch of zeros, every row with the training rows' mean."""
    import torch

    return {**shape.inputs(), "labels": torch.zeros(shape.rows)}
