"""A run's adapter in its base: a new one, or the saved one that its entry starts from."""

from __future__ import annotations

from deltatune.checkpoint.saved import TENSORS
from deltatune.checkpoint.store import load_adapter
from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.core.new_heads import start_heads_
from deltatune.errors import AdapterError, RecipeError
from deltatune.files import sha256, text_sha256
from deltatune.recipe.schema import MethodEntry
from deltatune.results import Origin
from deltatune.tasks.values import Scale, Scales
from deltatune.timeline import phase
from deltatune.training.given.budget import Budget
from deltatune.training.given.context import Context, SharedBase
from deltatune.training.given.start import FIELD, Start, other_head, read_start


@phase("attach")
def attach(
    context: Context, entry: MethodEntry, base: SharedBase, model: AdaptedModel, *, name: str, seed: int
) -> tuple[Adapter, Budget | None, Origin | None]:
    """Attach an entry's adapter under `name`: a new one, or the saved one that it starts from.

    Raises:
        DeltatuneError: The base lacks what the method acts on, or the delta is of another base, of other
            classes, or cannot be trained on.
    """
    start = read_start(entry)
    if start is None:
        config, budget = context.method(entry, base)
        adapter = model.attach(name, config, seed=seed)
        start_heads_(adapter, model.view, seed)
        return adapter, budget, None
    data = context.data(entry, base)
    other = start.run and other_head(start.run, context.recipe.task, base.loaded.labels)
    if other:
        raise RecipeError(
            f"the run in '{start.path}' {other}.",
            field=FIELD,
            remedy="Start from a run of this task, with these classes.",
        )
    if start.run is not None and start.run.data.scale != data.dataset.scale:
        context.warn(_other_scale(start, data.dataset.scale))
    try:
        load_adapter(model, start.folder, name, fingerprint=base.fingerprint, seed=seed)
    except AdapterError as error:
        raise AdapterError(error.what, field=FIELD, remedy=error.remedy) from error
    adapter = model.adapter(name)
    missing = sorted(set(model.view.heads) - set(adapter.heads()))
    if missing and not adapter.own:
        model.detach(name)
        raise AdapterError(
            f"the delta in '{start.path}' has no {', '.join(missing)}, which is new in this base and must be "
            "trained.",
            field=FIELD,
            remedy="Start from a delta that was trained for this task.",
        )
    settings = text_sha256(model.configs[name].model_dump_json())
    warning = _seen(entry, start, data.dataset.fingerprint)
    context.warn(warning)
    return (
        adapter,
        None,
        Origin(
            path=str(start.path), sha256=sha256(start.folder / TENSORS), settings=settings, warning=warning
        ),
    )


def _other_scale(start: Start, scale: Scale | Scales | None) -> str:
    """What must be known where the delta learned numbers that were standardised in another way."""
    was = start.run.data.scale if start.run else None
    before, now = (each.told if each else "none" for each in (was, scale))
    return (
        f"the targets of the run in '{start.path}' had {before}, and those of the training rows here have "
        f"{now}: what its head gives is off by that until it has learned."
    )


def _seen(entry: MethodEntry, start: Start, rows: str) -> str:
    """What is known of the test rows and the delta: whether they were looked at, or may have been learned."""
    if start.run is None:
        return (
            f"{entry.name} starts from the delta in '{start.path}'. What that was trained on is not known: "
            "it may have learned from the test rows."
        )
    if start.run.data.fingerprint == rows:
        return (
            f"{entry.name} starts from the run in '{start.path}', which was evaluated on the same test rows: "
            "they have been looked at before, so a choice to go on may rest on them."
        )
    return (
        f"{entry.name} starts from the run in '{start.path}', which had other rows, another split or "
        "another template: it may have learned from the test rows."
    )
