"""Whether the longest rows, with what is generated behind them, have positions in the model.

Asked by `check`, by `plan` and before anything is trained: otherwise training, or the evaluation after it,
ends in an index error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoded
from deltatune.errors import DataError
from deltatune.evaluation.keys import generates
from deltatune.models.positions import Room, room_of
from deltatune.recipe.schema import Recipe
from deltatune.recipe.sections import PARTS
from deltatune.tasks import TASKS
from deltatune.tasks.task import INPUT, NEW, TARGET, each_reference
from deltatune.timeline import phase
from deltatune.training.given.context import Context, SharedBase

_METHOD = "method"
_WORDS = {
    INPUT: "of its input",
    TARGET: "of its target",
    NEW: "that may be generated",
    _METHOD: "of the method's own tokens",
}


@dataclass(frozen=True, slots=True)
class _Need:
    """Positions that the longest row takes in one stack."""

    parts: dict[str, int]
    """By the setting that bounds them, or `_METHOD`."""
    there: int | None
    """How many the stack has."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        counts = " + ".join(f"{count:,} {_WORDS[of]}" for of, count in self.parts.items() if count)
        return f"{self.total:,} positions ({counts})"

    @property
    def remedy(self) -> str:
        """Each setting that could be lowered, and how far."""
        excess = self.total - (self.there or 0)
        lowered = {of: count - excess for of, count in self.parts.items() if of != _METHOD}
        options = [f"{of} to {value:,} at most" for of, value in lowered.items() if value > 0]
        return f"Set {', or '.join(options)}." if options else "Take a model with more positions."


def require_positions(room: Room, task: str, parts: Mapping[str, Encoded], new: int) -> list[str]:
    """Refuse rows that are longer than the model's table of positions.

    Args:
        room: What the model has, and what the delta takes.
        task: The recipe's.
        parts: The rows by the name of their part.
        new: Tokens that are generated behind each row at most; 0 if nothing is generated.

    Returns:
        Warnings, of rows that are longer than those that the model was trained with.

    Raises:
        DataError: There are such rows.
    """
    positions, base, warnings = room.positions, room.base, []
    for part, encoded in parts.items():
        needs = _needs(TASKS.get(task).places(each_reference(encoded.features), new), room)
        for need in needs:
            if need.there is not None and need.total > need.there:
                raise DataError(
                    f"is too large: the longest row of the {part} data takes {need}, and {base} has "
                    f"{need.there:,}.",
                    field=next(iter(need.parts)),
                    remedy=need.remedy,
                )
        longest = max(needs, key=lambda need: need.total, default=None)
        if longest and positions.trained is not None and longest.total > positions.trained:
            warnings.append(
                f"the longest row of the {part} data takes {longest}, and {base} was trained with "
                f"{positions.trained:,}: it may do badly on such rows."
            )
    return warnings


@phase("certificate")
def require_room(
    context: Context, recipe: Recipe, base: SharedBase, model: AdaptedModel, adapter: Adapter
) -> None:
    """The same for all rows of a run's own recipe, which has one entry; warnings go to the observer.

    Raises:
        DataError: There are rows that are too long.
    """
    data = context.data(recipe.methods[0], base)
    parts = {part: data.encoded(part) for part in PARTS if getattr(data.dataset, part)}
    room = room_of(model.base, adapter)
    for warning in require_positions(room, recipe.task, parts, new_tokens(recipe)):
        context.warn(warning)


def new_tokens(recipe: Recipe) -> int:
    """Tokens that a recipe's evaluation generates behind a row at most."""
    spec = recipe.evaluation
    return spec.max_new_tokens if generates(spec, recipe.task, targets=recipe.has_targets) else 0


def _needs(places: list[tuple[str, dict[str, int]]], room: Room) -> list[_Need]:
    """What the longest rows take, with the method's own tokens, which stand before them."""
    return [
        _Need({**parts, _METHOD: room.taken}, room.positions.input)
        if stack == "input"
        else _Need({**parts, _METHOD: room.taken_in_decoder}, room.positions.decoder)
        for stack, parts in places
    ]
