"""Rules about how a base is kept: in few bits, at rest elsewhere, or in parts by several processes."""

from __future__ import annotations

from collections.abc import Iterator

from deltatune.recipe.fields import RecipeFields
from deltatune.recipe.messages import Conflict


def base_conflicts(recipe: RecipeFields) -> Iterator[Conflict]:
    """What cannot be done to a base that is kept in such a way."""
    yield from _quantization(recipe)
    yield from _offload(recipe)
    yield from _sharding(recipe)


def _quantization(recipe: RecipeFields) -> Iterator[Conflict]:
    for index, entry in enumerate(recipe.methods):
        if entry.quantization is None:
            continue
        if entry.method == "full":
            yield (
                f"methods.{index}.full",
                "trains every weight, which a quantized base does not allow: write `quantization: null` "
                "beside it.",
            )
        if entry.train.precision != "auto":
            yield (
                "train.precision",
                "is decided by quantization.compute when the base is quantized: leave it at auto.",
            )


def _offload(recipe: RecipeFields) -> Iterator[Conflict]:
    for index, entry in enumerate(recipe.methods):
        if entry.train.offload is None:
            continue
        if entry.quantization is not None:
            yield (
                "train.offload",
                f"({entry.train.offload}) cannot stand beside quantization: the scales of quantized layers "
                "are not moved with their weights.",
            )
        if entry.method == "full":
            yield (
                f"methods.{index}.full",
                "trains a copy of every weight, which offload cannot put to rest: write `train: {offload: "
                "null}` beside it.",
            )


def _sharding(recipe: RecipeFields) -> Iterator[Conflict]:
    """What cannot be done to a base of which each process holds a part."""
    for index, entry in enumerate(recipe.methods):
        if not entry.train.shard:
            continue
        if entry.train.offload is not None:
            yield (
                "train.offload",
                f"({entry.train.offload}) cannot stand beside train.shard: layers rest in one place.",
            )
        if entry.train.compile:
            yield (
                "train.compile",
                f"({entry.train.compile}) cannot stand beside train.shard: graphs are made of whole layers.",
            )
        if entry.method == "full":
            yield (
                f"methods.{index}.full",
                "trains copies of all weights, and with train.shard each process holds a part of them, which "
                "its passes would not look at: leave shard out, or take another method.",
            )
        if entry.quantization is not None and entry.quantization.format == "int8":
            yield (
                "quantization.format",
                "(int8) keeps its scales with whole weights, and train.shard divides these: take nf4 or fp4.",
            )
