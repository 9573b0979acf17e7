"""The dry run: what a run would train, and for how long, without training it."""

from __future__ import annotations

from typing import Any

from deltatune import quant
from deltatune.evaluation import metric_keys
from deltatune.observer import Observer, Silent
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.sections import PARTS
from deltatune.training.before.packing import padding_of
from deltatune.training.given.attach import attach
from deltatune.training.given.context import Context
from deltatune.training.given.course import course_of


def plan(
    recipe: Recipe,
    entry: MethodEntry,
    seed: int,
    *,
    observer: Observer | None = None,
    context: Context | None = None,
) -> dict[str, Any]:
    """Say what `run` would do: sites, trained and total parameters, steps, tokens, warnings.

    The data are read and the base is loaded, so that everything that could be wrong with them shows now.
    """
    context = context or Context.open(recipe.alone(entry, seed), observer or Silent())
    base = context.base(entry)
    model = base.adapted(base_dropout=entry.train.base_dropout)
    adapter, budget, origin = attach(context, entry, base, model, name="plan", seed=seed)
    config = model.configs["plan"]
    course = course_of(context, entry)
    try:
        trained = sum(p.numel() for _, p in adapter.trainable())
        stored = adapter.extent()
        total = quant.parameter_count(base.loaded.model)
        data = context.data(entry, base)
        encoded = data.encoded("train")
        steps = entry.train.steps(len(encoded.lengths))
        padding = None
        if trained:
            adapter.start(steps)
            padding = padding_of(
                recipe.task, recipe.data, entry.train,
                lengths=encoded.lengths, view=lambda: model.view, seed=seed,
            )  # fmt: skip
        return {
            "method": entry.method,
            "model": base.spec.name,
            "config": config.model_dump(mode="json"),
            "from": origin and origin.path,
            "budget": budget and budget.as_dict(),
            "sites": [path for path, _ in adapter.parts()] or [f"{len(adapter.own)} parameters of the base"],
            "heads": adapter.heads(),
            "trained_parameters": trained,
            "trained_share": trained / total,
            "stored_parameters": stored.numbers,
            "file_bytes_about": stored.bytes,
            "total_parameters": total,
            "lr": entry.train.peak_lr(config, course),
            "lr_because": entry.train.lr_because(config, course),
            "head_lr": entry.train.peak_head_lr(config, course)
            if config.trains and base.loaded.new_modules
            else None,
            "steps": steps if trained else 0,
            "padding": padding and padding.as_dict(),
            "rows": {part: len(getattr(data.dataset, part)) for part in PARTS},
            "tokens_per_epoch": sum(encoded.lengths),
            "supervised_tokens": encoded.report.supervised_tokens,
            "truncated_inputs": encoded.report.truncated_inputs,
            "truncated_targets": encoded.report.truncated_targets,
            "tasks": context.tasks(),
            "metrics": metric_keys(recipe.evaluation, recipe.task, targets=recipe.has_targets),
            "warnings": [
                *data.dataset.warnings,
                *([origin.warning] if origin else []),
                *([f"{entry.name} {budget.warning}"] if budget and budget.warning and config.trains else []),
            ],
        }
    finally:
        model.detach("plan")
