"""What a recipe.yaml, as a comparison wrote it, says of the runs to come. Of a damaged one nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from deltatune.recipe.axes import slug
from deltatune.recipe.baselines import BASELINES, trains
from deltatune.recipe.entry import ENTRY_KEYS
from deltatune.recipe.train_section import TUNED
from deltatune.tasks import TASKS

MOST_BYTES = 4 * 1024 * 1024
"""Of a recipe that is read; a larger one says nothing."""


@dataclass(frozen=True)
class Entry:
    """A contestant."""

    name: str
    method: str
    group: str | None = None
    """The entry of the recipe from whose grid it was made."""
    train: Mapping[str, Any] = field(default_factory=dict)
    tries: int = 1
    """Configurations that are trained with the first seed, of which one goes on."""
    searched: bool = False
    """Whether a search makes them."""

    @property
    def slug(self) -> str:
        """How the names of its folders begin."""
        return slug(self.name)

    @property
    def trains(self) -> bool:
        """Whether it makes steps."""
        return trains(self.method)

    def steps(self, per_epoch: int) -> int | None:
        """Steps of its runs, given those of an epoch (0: not known)."""
        epochs, most = count(self.train.get("epochs")), count(self.train.get("max_steps"))
        known = [n for n in (epochs * per_epoch if epochs and per_epoch else None, most) if n]
        return min(known) if known and (per_epoch or not epochs) else None


@dataclass(frozen=True)
class Plan:
    """What there is to do."""

    task: str | None = None
    model: str = ""
    entries: Sequence[Entry] = ()
    seeds: Sequence[int] = ()
    primary: str = "auto"
    select_by: str = "loss"
    halving: Mapping[str, Any] | None = None
    known: Mapping[str, Any] = field(default_factory=dict)
    """The recipe."""


def plan_of(data: bytes | None) -> Plan:
    """Read the recipe of a comparison, or of a run: that of a run has one method and one seed."""
    try:
        # A written recipe is read alike by any version of YAML; this loader is the fast one.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        recipe = yaml.load(data, Loader=loader) if data and _is_plain(data, loader) else None
    except (yaml.YAMLError, ValueError, RecursionError):
        recipe = None
    if not isinstance(recipe, dict):
        return Plan()
    evaluation = _mapping(recipe.get("evaluation"))
    entries = [_entry(each, recipe) for each in _list(recipe.get("methods")) if isinstance(each, dict)]
    task, models = recipe.get("task"), recipe.get("model")
    named = [model.get("name") if isinstance(model, dict) else model for model in (models, *_list(models))]
    return Plan(
        task=task if isinstance(task, str) and task in TASKS else None,
        model=next((name for name in named if isinstance(name, str)), ""),
        entries=[*entries, *_baselines(recipe, entries)],
        seeds=[seed for seed in _list(recipe.get("seeds")) if isinstance(seed, int)],
        primary=str(evaluation.get("primary") or "auto"),
        select_by=str(evaluation.get("select_by") or "loss"),
        halving=_mapping(recipe.get("halving")) if recipe.get("halving") is not None else None,
        known=recipe,
    )


def _is_plain(data: bytes, loader: Any) -> bool:
    """Whether it can be read: a text that repeats a part by a name may stand for far more than it is long."""
    if len(data) > MOST_BYTES:
        return False
    return b"*" not in data or not any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(data, loader))


def _entry(each: Mapping[str, Any], recipe: Mapping[str, Any]) -> Entry:
    method = next((str(key) for key in each if key not in ENTRY_KEYS), "")
    tune, search = _mapping(recipe.get("tune")), _mapping(recipe.get("search"))
    space = each.get("space") or search.get("space")
    tries, searched = 1, bool(search and space and trains(method))
    if searched:
        tries = count(search.get("trials")) or 1
    elif tune and trains(method):
        axes = [tune[name] for name in TUNED if tune.get(name) is not None]
        tries = math.prod(len(axis) if isinstance(axis, list) else count(axis) or 1 for axis in axes)
    group = each.get("group")
    return Entry(
        name=str(each.get("name") or method),
        method=method,
        group=str(group) if group else None,
        train=_mapping(each.get("train")) or _mapping(recipe.get("train")),
        tries=tries,
        searched=searched,
    )


def _baselines(recipe: Mapping[str, Any], entries: Sequence[Entry]) -> list[Entry]:
    """What a comparison adds (recipe/baselines.py), of one base; of several they show when they begin."""
    if recipe.get("task") not in TASKS or recipe.get("baselines", True) is False:
        return []
    task = TASKS.get(str(recipe["task"]))
    wanted = BASELINES if task.has_classes else BASELINES[1:] if task.has_values else ()
    if isinstance(recipe.get("model"), list) or len(entries) < 2:
        return []
    there, slugs = {entry.method for entry in entries}, {entry.slug for entry in entries}
    train = _mapping(recipe.get("train"))
    return [
        Entry(name if name not in slugs else f"{name} (baseline)", name, train=train)
        for name in wanted
        if name not in there
    ]


def count(value: Any) -> int | None:
    """A positive whole number of reasonable size; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
