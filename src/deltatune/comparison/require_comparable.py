"""What may stand in one ranking: runs on the same rows, by a number that means the same for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from deltatune.data.encode import Encoder
from deltatune.errors import DataError, RecipeError
from deltatune.evaluation import primary_metric
from deltatune.models.processor import load_processor
from deltatune.recipe.base_sections import ModelSpec
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.sections import DataSpec
from deltatune.recipe.spaces import readings_of, searched
from deltatune.results import RunResult
from deltatune.tasks import TASKS
from deltatune.tasks.task import IGNORED, each_reference
from deltatune.training import Context
from deltatune.training.given.readings import reading_label
from deltatune.training.given.split_contexts import context_of

PER_TOKEN = ("loss", "perplexity")


class _Measured(NamedTuple):
    """What the loss of an entry counts: the tokens of one model's targets, cut by one reading's limits."""

    model: ModelSpec
    data: DataSpec


def require_comparable(context: Context) -> None:
    """Refuse to judge entries by a mean over tokens where these are not the same for all of them.

    A tokenizer with longer tokens has fewer of them to predict, and each is harder: the same model of the
    language has a higher loss per token. A lower `data.max_target_tokens` leaves out the ends of targets,
    which are harder or easier than their beginnings; without a target column, the whole input is what is
    counted. Classes are one label per row, however it is read. Only tokenizers are loaded.

    Raises:
        RecipeError: Entries are to be ranked, chosen among or stopped early by loss or perplexity.
    """
    recipe = context.recipe
    if not TASKS.get(recipe.task).writes_text:
        return
    primary = primary_metric(recipe.evaluation, recipe.task, targets=recipe.has_targets)
    known: dict[_Measured, list[list[int]]] = {}
    if primary in PER_TOKEN:
        _require_equal(context, "evaluation.primary", primary, recipe.methods, known)
    if recipe.evaluation.select_by in PER_TOKEN:
        for rivals in _rivals(recipe):
            _require_equal(context, "evaluation.select_by", recipe.evaluation.select_by, rivals, known)


def _rivals(recipe: Recipe) -> list[list[MethodEntry]]:
    """Entries of which one goes on and others may not, and entries whose own settings are searched."""
    searching = [[entry] for entry in recipe.methods if searched(recipe, entry)]
    if recipe.halving is None:
        return searching
    trained = [entry for entry in recipe.methods if entry.build_config().trains]
    if recipe.halving.among == "all":
        return [trained, *searching]
    groups = dict.fromkeys(entry.group for entry in trained if entry.group)
    return [*([entry for entry in trained if entry.group == group] for group in groups), *searching]


def _require_equal(
    context: Context,
    field: str,
    metric: str,
    entries: Sequence[MethodEntry],
    known: dict[_Measured, list[list[int]]],
) -> None:
    recipe = context.recipe
    measured = [
        _Measured(recipe.model_of(entry), data) for entry in entries for data in readings_of(recipe, entry)
    ]
    first, *others = dict.fromkeys(measured)
    for one in (first, *others) if others else ():
        known[one] = known[one] if one in known else _targets(context, one)
        if known[one] != known[first]:
            counts = [sum(map(len, known[each])) for each in (first, one)]
            raise _refusal(recipe, field, metric, (first, one), counts)


def _refusal(
    recipe: Recipe, field: str, metric: str, pair: tuple[_Measured, _Measured], counts: Sequence[int]
) -> RecipeError:
    one, other = pair
    if models := one.model != other.model:
        what, why = "one of these models against another", "their tokenizers make different ones of the same"
        names = [one.model.name, other.model.name]
        remedy = "each model in its own recipe."
    else:
        what, why = "entries that read rows in different ways", "they count different ones of the same"
        names = [reading_label(recipe, each.data) for each in pair]
        remedy = "each way to read them in its own recipe."
    if recipe.has_targets:
        remedy = f"Compare them by a metric of generated text, such as rougeL_f, or {remedy}"
    else:
        remedy = f"Compare {remedy}"
    if field == "evaluation.select_by" and recipe.has_targets:
        remedy = "Choose by a metric of generated text, such as rougeL_f."
    if field == "evaluation.select_by" and models:
        remedy = "Let halving choose among the configurations of each entry (among: entry)."
    return RecipeError(
        f"({metric}) cannot judge {what}: it is a mean over tokens, and {why} texts ({counts[0]:,} tokens "
        f"with {names[0]}, {counts[1]:,} with {names[1]}).",
        field=field,
        remedy=remedy,
    )


def _targets(context: Context, measured: _Measured) -> list[list[int]]:
    """The ids that the loss counts, of each held-out row."""
    recipe, dataset = context.recipe, context.datasets[measured.data.template]
    processor, facts = load_processor(measured.model, recipe.task)
    encoder = Encoder(recipe.task, processor, measured.data, dataset.labels, facts, dataset.scale)
    encoded = encoder.encode([*dataset.validation, *dataset.test])
    return [
        [label for label in feature["labels"] if label != IGNORED]
        if "labels" in feature
        else list(feature["input_ids"][feature["prompt_length"] :])
        for feature in each_reference(encoded.features)
    ]


def require_same_data(results: Sequence[RunResult], context: Context) -> None:
    """Refuse to rank runs that were trained or judged on different data.

    A hash of rows is one of their inputs, too, in the words of a template. So hashes of different templates
    are the same data if each is that of the data as they are now.

    Args:
        results: Of finished runs.
        context: The data as they are now, by each template and split.

    Raises:
        DataError: The data have changed between them.
    """
    states: dict[str, str] = {}
    before: dict[int, dict[str, int]] = {}
    for run in reversed(results):
        split, rows = context_of(context, run.seed), run.data.fingerprint
        now = rows in {dataset.fingerprint for dataset in split.datasets.values()}
        numbers = before.setdefault(context.recipe.split_of(run.seed), {})
        states["now" if now else f"before {numbers.setdefault(rows, len(numbers))}"] = run.name
    if len(states) > 1:
        names = " and ".join(list(states.values())[:2])
        raise DataError(
            f"the runs of {names} have seen different data: they have changed in between.",
            remedy="Restore the data, or start anew with --overwrite.",
        )


def require_one_process(recipe: Recipe) -> None:
    """Refuse a base that several processes would hold together: a comparison's run has one.

    Raises:
        RecipeError: An entry asks for it.
    """
    for entry in recipe.methods:
        if entry.train.shard:
            raise RecipeError(
                f"asks for several processes ({entry.name}), and a comparison trains each run in one.",
                field="train.shard",
                remedy="Set train.shard=false; or train its entries one by one, by `torchrun -m deltatune "
                "train recipe.yaml --method NAME`.",
            )
