"""What may stand in one ranking: runs on the same rows, by a number that means the same for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltatune.data.encode import Encoder
from deltatune.errors import DataError, RecipeError
from deltatune.evaluate import primary_metric
from deltatune.models.processor import load_processor
from deltatune.recipe.sections import CLASSIFICATION_TASKS, ModelSpec
from deltatune.train import Context

PER_TOKEN = ("loss", "perplexity")


def require_comparable(context: Context) -> None:
    """Refuse to judge models of different tokenizers by a number that is a mean over tokens.

    A tokenizer with longer tokens has fewer of them to predict, and each is harder: the same model of the
    language has a higher loss a token. Classes are one label a row, whatever the tokenizer. Only tokenizers
    are loaded.

    Raises:
        RecipeError: They are to be ranked, or stopped early, by loss or perplexity.
    """
    recipe = context.recipe
    if recipe.task in CLASSIFICATION_TASKS or len(recipe.models) < 2:
        return
    primary = primary_metric(recipe.evaluation, recipe.task, targets=recipe.has_targets)
    together = recipe.halving is not None and recipe.halving.among == "all"
    judged = {"evaluation.primary": primary}
    if together:
        judged["evaluation.select_by"] = recipe.evaluation.select_by
    fields = [field for field, metric in judged.items() if metric in PER_TOKEN]
    if not fields:
        return
    first, *others = recipe.models
    known = _targets(context, first)
    for other in others:
        found = _targets(context, other)
        if found != known:
            _refuse(fields[0], judged[fields[0]], (first, known), (other, found), recipe.has_targets)


def _refuse(
    field: str,
    metric: str,
    one: tuple[ModelSpec, list[list[int]]],
    other: tuple[ModelSpec, list[list[int]]],
    targets: bool,
) -> None:
    counts = [sum(map(len, rows)) for _, rows in (one, other)]
    remedy = "Compare them by a metric of generated text, such as rougeL_f, or each model in its own recipe."
    if field == "evaluation.select_by":
        remedy = "Let halving choose among the configurations of each entry (among: entry)."
    elif not targets:
        remedy = "Compare each model in its own recipe."
    raise RecipeError(
        f"({metric}) cannot judge one of these models against another: it is a mean over tokens, and their "
        f"tokenizers make different ones of the same texts ({counts[0]:,} tokens with {one[0].name}, "
        f"{counts[1]:,} with {other[0].name}).",
        field=field,
        remedy=remedy,
    )


def _targets(context: Context, spec: ModelSpec) -> list[list[int]]:
    """The ids that the loss counts, of each held-out row."""
    recipe, dataset = context.recipe, context.dataset
    processor, config = load_processor(spec, recipe.task)
    encoder = Encoder(recipe.task, processor, recipe.data, dataset.labels, config)
    encoded = encoder.encode([*dataset.validation, *dataset.test])
    return [
        list(feature["labels"])
        if "labels" in feature
        else list(feature["input_ids"][feature["prompt_length"] :])
        for feature in encoded.features
    ]


def require_same_data(results: Sequence[dict[str, Any]]) -> None:
    """Refuse to rank runs that were trained or judged on different data.

    Args:
        results: Of finished runs.

    Raises:
        DataError: The data have changed between them.
    """
    fingerprints = {run["data"]["fingerprint"]: run["name"] for run in reversed(results)}
    if len(fingerprints) > 1:
        names = " and ".join(list(fingerprints.values())[:2])
        raise DataError(
            f"the runs of {names} have seen different data: they have changed in between.",
            remedy="Restore the data, or start anew with --overwrite.",
        )
