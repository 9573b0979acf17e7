"""What tasks share that tell a number: how it is read, standardised for the model, and written again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
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
UNLIKE = 10.0
"""Times that one standard deviation is another from which on a mean of errors is that of one target."""
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

    @property
    def told(self) -> str:
        """In words."""
        return f"a mean of {self.mean:.6g} and a standard deviation of {self.sd:.6g}"


@dataclass(frozen=True, slots=True)
class Scales:
    """Where several targets of a row lie: each is learned in standard deviations of its own."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"allow_inf_nan": False, "use_attribute_docstrings": True}

    targets: dict[str, Scale]
    """By its column, in the order of the recipe."""

    @property
    def told(self) -> str:
        """In words."""
        return "; ".join(f"of {name} {scale.told}" for name, scale in self.targets.items())

    def warnings(self, primary: str) -> list[str]:
        """Say that the mean of errors over targets of unlike spreads is the error of one of them.

        Args:
            primary: The recipe's `evaluation.primary`.
        """
        by_sd = sorted(self.targets, key=lambda name: self.targets[name].sd)
        least, most = self.targets[by_sd[0]].sd, self.targets[by_sd[-1]].sd
        if primary not in ("auto", "mse", "mae") or most < UNLIKE * least:
            return []
        ranked = "mse" if primary == "auto" else primary
        return [
            f"the targets have unlike spreads (standard deviations of {by_sd[0]}: {least:.3g}, of "
            f"{by_sd[-1]}: {most:.3g}), so {ranked}, a mean over them in their own units, is next to that of "
            f"{by_sd[-1]} alone; to rank by all of them set evaluation.primary to r2."
        ]


class Scaled(Protocol):
    """What knows the scale, such as an encoder."""

    @property
    def scale(self) -> Scale | Scales | None:
        """By what numbers are standardised."""

    @property
    def labels(self) -> Sequence[str] | None:
        """Of several targets their columns, in the order of the model's outputs."""


def scale_of_targets(targets: Sequence[str]) -> Scale | Scales:
    """The scale of training rows' targets, as rows have them.

    Raises:
        DataError: As of `Scale.of`; of several targets it names which.
    """
    rows = [numbers_of(target) for target in targets]
    names = list(rows[0])
    if names == [""]:
        return Scale.of([row[""] for row in rows])
    scales = {}
    for name in names:
        try:
            scales[name] = Scale.of([row[name] for row in rows])
        except DataError as error:
            field = f"{error.field}, column {name!r}"
            raise DataError(error.what, field=field, remedy=error.remedy) from error
    return Scales(scales)


def numbers_of(target: str) -> dict[str, float]:
    """The numbers of a row's target by column; of one target alone, under an empty name."""
    if not target.startswith("{"):
        return {"": float(target)}
    return {name: float(value) for name, value in json.loads(target).items()}


def several_as_text(numbers: Mapping[str, float]) -> str:
    """Several numbers as one text: an object of JSON."""
    pairs = (f"{json.dumps(name, ensure_ascii=False)}: {as_text(value)}" for name, value in numbers.items())
    return f"{{{', '.join(pairs)}}}"


def units_of(outputs: Sequence[float], tools: Scaled) -> dict[str, float]:
    """What a model gives for a row, in the data's units, by column as `numbers_of` has them."""
    scale = scale_of(tools)
    if isinstance(scale, Scale):
        return {"": scale.outside(outputs[0])}
    given = dict(zip(tools.labels or scale.targets, outputs, strict=True))
    return {name: scale.targets[name].outside(given[name]) for name in scale.targets}


def written(numbers: Mapping[str, float]) -> str:
    """Numbers as a prediction has them."""
    return as_text(numbers[""]) if "" in numbers else several_as_text(numbers)


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
    """The number of a row as `value`, standardised, or a list of several; nothing if it needs none.

    Raises:
        DataError: It needs one, and its target says none; or it is not known what it is standardised by.
    """
    if not supervised:
        return {}
    scale = scale_of(tools)
    if isinstance(scale, Scales):
        numbers = numbers_of(row.target)
        return {"value": [scale.targets[name].inside(numbers[name]) for name in tools.labels or numbers]}
    number = number_of(row.target)
    if number is None:
        raise no_number(row.target, f"row {row.id}")
    return {"value": scale.inside(number)}


def scale_of(tools: Scaled) -> Scale | Scales:
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
    """`labels` [rows] in float32, or of several targets [rows, targets], where the rows have values."""
    import torch

    values = [feature["value"] for feature in features if "value" in feature]
    return {"labels": torch.tensor(values, dtype=torch.float32)} if values else {}


def value_shown(feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
    """A row's number in the data's units, as what is learned."""
    if "value" not in feature:
        return []
    return [(written(units_of(listed(feature["value"]), tools)), True)]


def listed(value: float | list[float]) -> list[float]:
    """The values of a row: one, or several."""
    return value if isinstance(value, list) else [value]


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of outputs [rows, targets] and targets [rows], or of several [rows, targets].

    Summed over rows, the mean over targets, in float32 or wider.
    """
    import torch

    wide = torch.promote_types(outputs.dtype, torch.float32)
    errors = outputs.to(wide) - targets.to(wide).view(len(targets), -1)
    return errors.square().mean(dim=1).sum()


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Absolute error; arguments and sums as of `squared_error`."""
    import torch

    wide = torch.promote_types(outputs.dtype, torch.float32)
    errors = outputs.to(wide) - targets.to(wide).view(len(targets), -1)
    return errors.abs().mean(dim=1).sum()


OTHER_LOSSES = {"mae": absolute_error}
"""Beside the squared error: what a recipe may choose, by name."""


def blank_batch(shape: BatchShape) -> dict[str, Tensor]:
    """A batch of zeros, every row with the training rows' mean."""
    import torch

    sizes = (shape.rows,) if shape.outputs == 1 else (shape.rows, shape.outputs)
    return {**shape.inputs(), "labels": torch.zeros(sizes)}
