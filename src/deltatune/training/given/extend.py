"""Longer training: another run, which goes on from a finished one with its recipe and its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deltatune.checkpoint.manifest import require_unchanged
from deltatune.checkpoint.saved import read_adapter
from deltatune.errors import ChangedError
from deltatune.observer import Observer
from deltatune.recipe.load import parse_recipe
from deltatune.recipe.schema import ENTRY_KEYS, MethodEntry, Recipe
from deltatune.recipe.sections import PARTS
from deltatune.recipe.wanted import FILE, run_recipe
from deltatune.results import DataUsed
from deltatune.training.given.context import Context
from deltatune.training.given.folder import CHANGED, delta_folder, finished_result

FIELD = "--extend"
_OF_THE_START = ("budget", "group", "space")
"""Keys of an entry that decided what the first run was."""


def extension(folder: Path, overrides: Sequence[str] = (), *, trust_remote_code: bool = False) -> Recipe:
    """The recipe of a run that goes on from a finished one: that run's own, with `from`.

    Args:
        folder: The finished run's folder.
        overrides: As of `load_recipe`; `train.epochs` and the like are those of the added training.
        trust_remote_code: Whether the user, not the run's recipe, says that code of the model's may run.

    Raises:
        RecipeError: The run's recipe, or an override, breaks a rule.
        AdapterError: It is no finished run, was changed, or wants to run code.
    """
    finished_result(folder)
    require_unchanged(folder, [FILE], remedy=CHANGED)
    content = run_recipe(folder, trust_remote_code=trust_remote_code).dump()
    [before] = content["methods"]
    kept = {key: before[key] for key in ENTRY_KEYS if key in before and key not in _OF_THE_START}
    method = read_adapter(delta_folder(folder)).method  # LoRA with a special start is saved as LoRA
    entry = {method: {}, **kept, "from": str(folder.resolve())}
    return parse_recipe({**content, "methods": [entry], "budget": None}, overrides, root=folder)


def open_extension(recipe: Recipe, entry: MethodEntry, seed: int, observer: Observer) -> Context:
    """Read the data and the base for such a run, and check that they are those of the run before.

    Raises:
        ChangedError: The rows, or their tokens, are others; it names which.
        DeltatuneError: They cannot be read.
    """
    assert entry.start is not None
    folder = Path(entry.start)
    before = finished_result(folder)
    context = Context.open(recipe.alone(entry, seed), observer)
    context.goes_on_in(entry, before.model.dtype)
    base = context.base(entry)
    inputs = context.data(entry, base).inputs(base.fingerprint, base.dtype)
    counts = {part: len(getattr(context.dataset, part)) for part in PARTS}
    if changed := _changes(before.data, inputs.rows, inputs.tokens, counts):
        raise ChangedError(
            f"{changed} since the run in '{folder}' was trained.",
            field=FIELD,
            remedy="Restore them; or, to train on other rows, write a recipe with an entry "
            f"{{{entry.method}: {{}}, from: {folder}}}.",
        )
    observer.log(
        f"Goes on from the run in '{folder}' ({before.cost.steps:,} steps) with a fresh optimizer and "
        "a learning rate that is scheduled over the added steps alone."
    )
    return context


def _changes(before: DataUsed, rows: str, tokens: str, counts: dict[str, int]) -> str:
    if before.fingerprint != rows:
        differ = [
            f"{part} {then:,} then, {count:,} now"
            for part, count in counts.items()
            if (then := getattr(before, part)) not in (None, count)
        ]
        return f"the rows have changed ({'; '.join(differ) or 'as many, with other contents'})"
    if before.tokens not in (None, tokens):
        return "the limits of data, the tokenizer or the image processor have changed"
    return ""
