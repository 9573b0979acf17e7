"""The rows of a recipe as its entries read them: the same rows for all, in each entry's own words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from deltatune.data.beside_rows import BesideRows
from deltatune.data.checks import truncation_warnings
from deltatune.data.dataset import Dataset
from deltatune.data.encode import Encoded, Encoder
from deltatune.data.load import load_data
from deltatune.data.rows import Row
from deltatune.data.supervised import Supervision, supervision
from deltatune.errors import DataError
from deltatune.recipe.axes import point_label
from deltatune.recipe.base_sections import ModelSpec
from deltatune.recipe.schema import Recipe
from deltatune.recipe.sections import PARTS, DataSpec, Reading
from deltatune.timeline import phase
from deltatune.training.given.class_names import require_class_names
from deltatune.training.given.digests import Inputs, dataset_digests, tokens_digest


@dataclass
class RunData:
    """What the runs of one reading on one model share: rows and their tokens, each encoded once."""

    dataset: Dataset
    encoder: Encoder
    whose: str
    """Whose tokens count, where there are several models or readings: see `whose`."""
    warn: Callable[[str], None]
    _encoded: dict[str, Encoded] = field(default_factory=dict)
    """By part."""

    @phase("read data")
    def encoded(self, part: str) -> Encoded:
        """The rows of a part.

        Raises:
            DataError: The part is empty, a row has nothing to learn from, or the tokenizer cannot write
                most of the targets.
        """
        if part not in self._encoded:
            self._encoded[part] = self.encoder.encode(require_part(self.dataset, part))
            for warning in self._said(part):
                self.warn(warning)
            if part == "train":
                encoded = self._encoded[part]
                encoded.report.fidelity.require_writable(len(encoded.lengths), self.whose)
        return self._encoded[part]

    def share(self, other: RunData) -> None:
        """Take over what another has encoded of the same rows, which reads them in the same way."""
        for part, encoded in other._encoded.items():
            same = getattr(self.dataset, part) is getattr(other.dataset, part)
            if same and self.dataset.scale == other.dataset.scale:
                self._encoded[part] = encoded

    @cached_property
    @phase("read data")
    def supervised(self) -> Supervision:
        """What the loss will see of the training rows' labels."""
        return supervision(self.encoder, self.encoded("train"))

    def with_beside(self, beside: BesideRows) -> RunData:
        """The same rows, of which a method knows something where it is evaluated; not where it is trained."""
        encoder = self.encoder.with_beside(beside)
        return RunData(self.dataset, encoder, self.whose, self.warn, {"train": self.encoded("train")})

    def inputs(self, base: str, dtype: str, start: str | None = None) -> Inputs:
        """What a run on these rows rests on.

        Args:
            base: Fingerprint of the base.
            dtype: Of its weights that are not quantized.
            start: That of the delta that it starts from.
        """
        rows, each, tokens = self._digests
        return Inputs(rows, each, self.encoder.labels, tokens, base, start, dtype)

    @property
    def reading(self) -> str:
        """A digest of the way in which the rows are read."""
        return hashlib.sha256(self.encoder.spec.model_dump_json().encode()).hexdigest()[:16]

    @cached_property
    @phase("read data")
    def _digests(self) -> tuple[str, dict[str, Tensor], str]:
        parts = {part: self.encoded(part) for part in PARTS if getattr(self.dataset, part)}
        tokens = tokens_digest(parts, self.encoder.processor)
        return self.dataset.fingerprint, dataset_digests(self.dataset), tokens

    def warnings(self) -> list[str]:
        """All that is suspicious about the rows, and what of each part is cut off or cannot be written."""
        found = list(self.dataset.warnings)
        for part in PARTS:
            if getattr(self.dataset, part):
                found += self._said(part)
        return found

    def _said(self, part: str) -> list[str]:
        """What is cut off of a part, and what the tokenizer cannot write of it."""
        report, name = self.encoded(part).report, "training" if part == "train" else part
        lost = report.fidelity.warnings(report.rows, name, self.whose)
        return truncation_warnings(report, name, self.whose) + lost + self._left_out(report.shown, name)

    def _left_out(self, shown: Sequence[int], part: str) -> list[str]:
        """That some rows are shown fewer training rows than are asked for."""
        wanted = self.encoder.beside.beside.shows if self.encoder.beside else 0
        fewer = sum(count < wanted for count in shown)
        if not fewer:
            return []
        mean = sum(shown) / len(shown)
        return [
            f"{fewer} of {len(shown)} {part} rows are shown fewer than {wanted} training rows, {mean:.1f} on "
            "average: there is no room for more, by data.max_input_tokens for each, or in the base."
        ]


def require_part(dataset: Dataset, part: str) -> list[Row]:
    """The rows of a part.

    Raises:
        DataError: There are none.
    """
    rows: list[Row] = getattr(dataset, part)
    if not rows:
        raise DataError(
            f"there are no {part} rows.", field=f"data.{part}", remedy="Name a file or a split for them."
        )
    return rows


def read_data(recipe: Recipe) -> dict[str, Dataset]:
    """Read the rows for each template of the recipe's entries: all of them now, before anything is trained.

    A warning that does not hold for every template names its own.

    Raises:
        DataError: The data cannot be read or used, lack a column that a template names, or a class that the
            recipe names.
    """
    by_template: dict[str, Dataset] = {}
    for spec in recipe.readings:
        if spec.template not in by_template:
            by_template[spec.template] = load_data(spec, recipe.task, primary=recipe.evaluation.primary)
    require_class_names(recipe, next(iter(by_template.values())).labels or ())
    common = set.intersection(*(set(dataset.warnings) for dataset in by_template.values()))
    return {
        template: replace(
            dataset,
            warnings=[
                text if text in common else f"{text} (data.template: {template!r})"
                for text in dataset.warnings
            ],
        )
        for template, dataset in by_template.items()
    }


def reading_label(recipe: Recipe, spec: DataSpec) -> str:
    """What tells a way to read the rows from the recipe's others: `max_input_tokens=128`, or nothing."""
    readings = recipe.readings
    axes = {
        f"data.{name}": list(dict.fromkeys(getattr(other, name) for other in readings))
        for name in Reading.model_fields
    }
    varied = {name: values for name, values in axes.items() if len(values) > 1}
    return point_label({name: getattr(spec, name.removeprefix("data.")) for name in varied}, varied)


def whose(recipe: Recipe, model: ModelSpec, spec: DataSpec) -> str:
    """Name the model and the reading of a number of tokens, where the recipe has several."""
    label = reading_label(recipe, spec)
    return (f" of {model.name}" if len(recipe.models) > 1 else "") + (f" ({label})" if label else "")
