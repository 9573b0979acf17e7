"""Adapters without a run: of peft, or an adapter/ folder of ours that lies elsewhere.

What a run's recipe and result say of base, task and classes is said by the user here, or by the adapter's own
configuration. A stranger may have written that: it can name a base, as a stranger's recipe can, by the Hub's
id or by a path that does not lead out of its folder; that code runs only the user can say.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from deltatune.checkpoint import foreign
from deltatune.checkpoint.saved import CONFIG, SavedAdapter, read_adapter
from deltatune.checkpoint.store import load_adapter
from deltatune.core.devices import computes_bfloat16
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoder
from deltatune.data.load import load_data
from deltatune.errors import AdapterError, ModelError, nearest
from deltatune.models.labels import base_labels, in_base_order, named, spelled_as
from deltatune.models.load import LoadedBase, load_base, read_config
from deltatune.phrasing import listing
from deltatune.recipe import DataSpec, ModelSpec, Recipe, load_recipe, parse_recipe
from deltatune.recipe.given import Given
from deltatune.recipe.schema import MethodEntry
from deltatune.recipe.wanted import FILE
from deltatune.runs.loaded import NAME, LoadedRun
from deltatune.tasks import TASKS
from deltatune.tasks.label_sets import HALF
from deltatune.tasks.values import Scale, Scales
from deltatune.training.given.beside import beside_rows

_RUN = (FILE, "result.json")


def is_without_run(folder: Path) -> bool:
    """Whether a folder holds an adapter, and neither recipe nor result of a run."""
    if any((folder / name).exists() for name in _RUN):
        return False
    return (folder / CONFIG).exists() or any(folder.glob(f"*/{CONFIG}"))


def load_without_run(
    folder: Path, given: Given, *, as_trained: bool, trust_remote_code: bool, device: torch.device
) -> LoadedRun:
    """Load the base of an adapter without a run, and attach the adapter.

    Args:
        folder: The adapter's folder, or one with it alone.
        given: What the user says of it.
        as_trained: Whether a base that one of our own adapters was trained on in bfloat16 is loaded so.
        trust_remote_code: Whether Python code that comes with the base may run.
        device: Where the model goes.

    Raises:
        AdapterError: Base, task or classes are not known, or the adapter is damaged or of another base.
        ModelError: The base cannot be loaded, or not for this task.
        RecipeError: The recipe that is given breaks a rule.
    """
    place = foreign.adapter_folder(folder)
    saved = read_adapter(place)
    recipe = _recipe(saved, place, given, trust_remote_code=trust_remote_code)
    in_bfloat16 = as_trained and _precision(saved) == "torch.bfloat16" and computes_bfloat16(device)
    try:
        spec = recipe.model if as_trained else recipe.model.unpacked()
        base = _base(recipe, spec, given, dtype="bfloat16" if in_bfloat16 else "float32")
    except ModelError as error:
        if given.base is not None or error.field != "model":
            raise
        raise AdapterError(
            f"the base that the adapter names cannot be loaded: {error.what}",
            field="--base",
            remedy="Name the model that the adapter was trained on.",
        ) from error
    digest = base.settle(device)
    model = AdaptedModel(base.model, base.new_modules, processor=base.processor, pooling=base.pooling)
    try:
        load_adapter(model, place, NAME, fingerprint=digest)
    except AdapterError as error:
        raise AdapterError(
            f"the adapter does not fit the base '{recipe.model.name}': {error.what}",
            field="--base",
            remedy=f"{error.remedy or 'Name another base.'}{_other_classes(recipe, base, given)}",
        ) from error
    _require_head(model, base)
    model.eval()
    scale = _scale(recipe, given)
    if TASKS.get(recipe.task).has_label_sets:
        warnings.warn(
            f"the adapter does not tell from which probability on labels are given ({recipe.task}), as the "
            f"result of its run does: {HALF} is taken.",
            stacklevel=3,
        )
    encoder = Encoder(recipe.task, base.processor, recipe.data, base.labels, base.facts, scale)
    encoder.beside = beside_rows(model.adapter(NAME), base.model, recipe)
    return LoadedRun(folder, recipe, base, model, encoder, None, folder.name, saved.method, digest)


def beside_without_run(loaded: LoadedRun, folder: Path, adapter: str) -> LoadedRun:
    """An adapter without a run on the base of `loaded`, which says what else there is to know.

    Args:
        loaded: A run, or another adapter without one.
        folder: The adapter's folder, or one with it alone.
        adapter: What it is to be called in the model; it is not attached yet.

    Raises:
        AdapterError: It is damaged, or of another task.
    """
    place = foreign.adapter_folder(folder)
    saved = read_adapter(place)
    kind, wanted = saved.peft.get("task_type"), TASKS.get(loaded.recipe.task).peft_type
    if kind and wanted and kind != wanted:
        raise AdapterError(
            f"the adapter in '{folder}' is of the type {kind}, and the run in '{loaded.folder}' of {wanted}.",
            remedy="Put adapters of one task together.",
        )
    return replace(loaded, folder=place, result=None, name=folder.name, method=saved.method, adapter=adapter)


def _recipe(saved: SavedAdapter, place: Path, given: Given, *, trust_remote_code: bool) -> Recipe:
    """The recipe that a run of this adapter could have had; without rows, unless one is given."""
    model = _model(saved, place, given).model_copy(update={"trust_remote_code": trust_remote_code})
    entry = MethodEntry(name=saved.method, method=saved.method, config=saved.config.model_dump(mode="json"))
    kind = saved.peft.get("task_type")
    own = [name for name, task in TASKS.items() if task.peft_type and task.peft_type == kind]
    if given.recipe is None:
        task = given.task or next(iter(_as_the_base_says(own, model)), None)
        if task is None or task not in TASKS:
            raise AdapterError(
                "the adapter does not tell what it is for." if task is None else f"{task!r} is no task.",
                field="--task",
                remedy=f"Name it: {', '.join(TASKS.names())}."
                if task is None
                else nearest(task, TASKS.names()),
            )
        template = given.template or "{input}"
        content = {"task": task, "model": model.name, "data": {"source": "hub:none", "template": template}}
        made = parse_recipe({**content, "methods": ["untuned"]})  # with a source, for a recipe needs one
        rows: dict[str, Any] = {"data": DataSpec(template=template)}
    else:
        made = load_recipe(given.recipe)
        said = ([given.task] if given.task else [], "--task"), (own, "the adapter's task_type")
        for tasks, whose in said:
            if tasks and made.task not in tasks:
                raise AdapterError(
                    f"its task is {made.task}, and {whose} says {listing(tasks, 'or')}.",
                    field="--recipe",
                    remedy="Name a recipe of the adapter's own task.",
                )
        template = given.template or made.data.template
        rows = {"data": made.data.model_copy(update={"template": template})}
    return made.model_copy(update={"model": model, "methods": [entry], "quantization": None, **rows})


def _as_the_base_says(tasks: list[str], model: ModelSpec) -> list[str]:
    """Of the tasks that an adapter may be for, those that its base was trained for, if it says so."""
    if len(tasks) < 2:
        return tasks
    with contextlib.suppress(ModelError):  # loading it will tell
        problem = read_config(model).problem_type
        if problem == "multi_label_classification":
            return [name for name in tasks if TASKS.get(name).has_label_sets]
        if problem == "regression":
            return [name for name in tasks if TASKS.get(name).has_values]
    return tasks


def _model(saved: SavedAdapter, place: Path, given: Given) -> ModelSpec:
    """The base that the user names, or else the adapter.

    Raises:
        AdapterError: Neither does, or the adapter does by a path out of its folder.
    """
    if given.base is not None:
        return ModelSpec(name=given.base)
    remedy = "Name the model that it was trained on: a bundled model, a folder or the Hub's id."
    name = saved.ours["base"]["name"] if saved.ours else saved.peft.get("base_model_name_or_path")
    if not name or not isinstance(name, str):
        raise AdapterError(f"the adapter in '{place}' names no base.", field="--base", remedy=remedy)
    if name.startswith(("./", "../")):
        path = (place / name).resolve()
        if not path.is_relative_to(place.resolve()):
            raise AdapterError(
                f"the adapter names the base {name!r}, which leads out of its folder.",
                field="--base",
                remedy=remedy,
            )
        name = str(path)
    revision = saved.peft.get("revision")
    warnings.warn(f"taking the base that the adapter names: '{name}'.", stacklevel=4)
    return ModelSpec(name=name, revision=revision if isinstance(revision, str) else None)


def _precision(saved: SavedAdapter) -> str | None:
    """Type of the weights that one of our adapters was trained on; with more words if they were quantized."""
    return saved.ours["base"]["dtype"] if saved.ours else None


def _base(recipe: Recipe, spec: ModelSpec, given: Given, *, dtype: str) -> LoadedBase:
    """The base, with the classes in the order of the adapter's head.

    That order is the base's own where it has these classes or the user names none, and what the user says
    else. It is never guessed from rows.
    """
    if not TASKS.get(recipe.task).has_classes:
        numbers = TASKS.get(recipe.task).has_values and given.recipe is not None
        names = load_data(recipe.data, recipe.task).labels if numbers else None
        return load_base(spec, recipe.task, names, dtype=dtype)
    config = read_config(spec)
    known = base_labels(config)
    names = _named_classes(config, given)
    if given.recipe is not None:
        names = spelled_as(names, load_data(recipe.data, recipe.task).labels or [])
    # With as many classes the base's head stays as it is, whatever they are called.
    base = load_base(spec, recipe.task, known if len(known) == len(names) else names, dtype=dtype)
    base.model.config.id2label = dict(enumerate(names))
    base.model.config.label2id = {name: index for index, name in enumerate(names)}
    return replace(base, labels=names)


def _scale(recipe: Recipe, given: Given) -> Scale | Scales | None:
    """What numbers were standardised by, which only the rows that the adapter was trained on tell.

    Raises:
        AdapterError: They are not named.
    """
    if not TASKS.get(recipe.task).has_values:
        return None
    if given.recipe is None:
        raise AdapterError(
            f"the adapter does not tell in which units its numbers are ({recipe.task}): that is in the "
            "result of its run, or follows from the rows that it was trained on.",
            field="--recipe",
            remedy="Name the run's folder, or a recipe with its training rows.",
        )
    return load_data(recipe.data, recipe.task).scale


def _named_classes(config: PreTrainedConfig, given: Given) -> list[str]:
    if given.labels is None:
        return base_labels(config)
    return in_base_order(config, given.labels) or list(given.labels)


def _other_classes(recipe: Recipe, base: LoadedBase, given: Given) -> str:
    """What a classifier's adapter may lack besides."""
    if not TASKS.get(recipe.task).has_classes or given.labels is not None:
        return ""
    return (
        f" The base names {len(base.labels or [])} classes ({named(base.labels or [])}): if the adapter's "
        "head has others, name them in its order with --labels."
    )


def _require_head(model: AdaptedModel, base: LoadedBase) -> None:
    """Refuse a head that neither base nor adapter has: it would be random.

    Raises:
        AdapterError: There is one.
    """
    adapter = model.adapter(NAME)
    held = {key.rpartition(".")[0] for key in adapter.own} | set(adapter.heads())
    lost = [path for path in base.new_modules if not any(f"{path}.".startswith(f"{p}.") for p in held)]
    if lost:
        raise AdapterError(
            f"neither the base '{base.name}' nor the adapter has weights for {lost[0]}: they would be "
            "random.",
            field="--base",
            remedy="Name the classifier that the adapter was trained on, with its trained head.",
        )
