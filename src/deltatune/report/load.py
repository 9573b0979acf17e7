"""Read the files of a comparison."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from deltatune.errors import DeltatuneError
from deltatune.recipe.baselines import trains
from deltatune.report.across_words import is_across
from deltatune.report.display import model_name
from deltatune.report.ranking import LEADING
from deltatune.report.run import AGAIN, Run, changes, read
from deltatune.results import (
    Curves,
    Failure,
    Leaderboard,
    LeaderboardRow,
    MeanCost,
    Pair,
    RunResult,
)
from deltatune.tasks import TASKS
from deltatune.tasks.task import Task

# Of a recipe's entry; its other fields tell configurations apart.
_NOT_SETTINGS = {"name", "group", "train", "data", "evaluation", "model"}


@dataclass(frozen=True)
class Method:
    """A row of the leaderboard with its runs."""

    row: LeaderboardRow
    runs: list[Run] = field(default_factory=list)
    on: str = ""
    """Short name of its base, where a comparison has several."""
    under_way: str = ""
    """Of a method that is not at its end, how far it came, in words."""

    @property
    def name(self) -> str:
        """The label in the recipe."""
        return self.row.name

    @property
    def shown(self) -> str:
        """The label with the base, if there are several and it does not say which."""
        random = " (random head)" if self.row.random_head else ""
        on = f" on {self.on}" if self.on and self.on not in self.name else ""
        return self.name + random + on

    @property
    def untuned(self) -> bool:
        """Whether it is a base as it is."""
        return self.row.method == "untuned"

    @property
    def trained(self) -> bool:
        """Whether it trains anything, as its method says and its runs did."""
        return trains(self.row.method) and self.cost.trained_parameters != 0

    @property
    def done(self) -> bool:
        """Whether its runs ended well."""
        return self.row.status == "done"

    @property
    def drawn(self) -> bool:
        """Whether it stands in charts."""
        return self.done or bool(self.under_way)

    @cached_property
    def cost(self) -> MeanCost:
        """Means over the seeds; of an older board `step_memory_bytes` is read from the runs."""
        cost = self.row.cost or MeanCost()
        if not cost.model_fields_set or "step_memory_bytes" in cost.model_fields_set:
            return cost
        results = [run.finished for run in self.runs]
        known = mean_step_memory([result for result in results if result]) if all(results) else None
        return cost.model_copy(update={"step_memory_bytes": known})

    @property
    def times(self) -> list[float]:
        """Seconds of training of each seed, where runs took turns; empty where they were not alone."""
        return self.row.train_seconds or []

    @property
    def metrics(self) -> dict[str, float]:
        """Means over the seeds, of the test rows."""
        return self.row.metrics or {}

    @property
    def error(self) -> str:
        """What went wrong, or nothing."""
        error = self.row.error
        return f"{error.kind}: {error.message}" if isinstance(error, Failure) else error or ""


@dataclass(frozen=True)
class Comparison:
    """leaderboard.json and all it points to."""

    folder: Path
    board: Leaderboard
    methods: list[Method]
    recipe: str
    """recipe.yaml, as it is."""
    here: Mapping[str, str] = field(default_factory=dict)
    """Absolute paths of the recipe, and their names from the comparison's folder."""

    curves: Curves | None = None
    """What more rows, or a higher rank, would gain."""
    changed: list[str] = field(default_factory=list)
    """Files that are not what was written, of it and of its runs, in words."""

    @property
    def _task(self) -> Task | None:
        task = self.board.task
        return TASKS.get(task) if task is not None and task in TASKS else None

    @property
    def has_label_sets(self) -> bool:
        """Whether a row has any number of labels."""
        return self._task is not None and self._task.has_label_sets

    @property
    def tags_words(self) -> bool:
        """Whether a row has a tag for each word."""
        return self._task is not None and self._task.tags_words

    @property
    def finds_targets(self) -> bool:
        """Whether a row's text is searched for among those of other rows."""
        return self._task is not None and self._task.finds_targets

    @property
    def shown_recipe(self) -> str:
        """The recipe with relative paths; those in a comparison's own folder mean the same."""
        text = self.recipe
        for path, name in sorted(self.here.items(), reverse=True):  # what lies in a folder before the folder
            text = text.replace(path, name)
        return text

    @property
    def primary(self) -> str:
        """Key of the metric that decides."""
        return self.board.primary_metric

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric that decides."""
        return self.board.higher_is_better

    @property
    def model(self) -> str:
        """Name of the base, or short names of several."""
        several = list(dict.fromkeys(method.on for method in self.methods if method.on))
        if several:
            return f"{', '.join(several[:-1])} and {several[-1]}" if several[1:] else several[0]
        model = self.board.model
        return str(model.get("name", "a model") if isinstance(model, dict) else model or "a model")

    @property
    def shown_model(self) -> str:
        """The same for a title, in which a path of one machine is the name of its folder."""
        return self.model if self.several_models else model_name(self.model)

    @cached_property
    def ranked(self) -> list[Method]:
        """Methods that finished, best first."""
        sign = -1 if self.higher_is_better else 1
        done = [method for method in self.methods if method.done and self.value(method) is not None]
        return sorted(
            done, key=lambda method: (method.row.rank or math.inf, sign * (self.value(method) or 0))
        )

    @cached_property
    def order(self) -> list[Method]:
        """All methods, those that finished first."""
        ranked = {method.name for method in self.ranked}
        return [*self.ranked, *(method for method in self.methods if method.name not in ranked)]

    def leading(self) -> Comparison:
        """The same with its first `LEADING` methods alone; itself, if there are no more."""
        if len(self.methods) <= LEADING:
            return self
        kept = {method.name for method in self.order[:LEADING]}
        return replace(self, methods=[method for method in self.methods if method.name in kept])

    @cached_property
    def contest(self) -> list[Method]:
        """Those of them that are ranked: all but bases with a random head, which only guess."""
        return [method for method in self.ranked if not method.row.random_head]

    def on_same_rows(self, method: Method) -> list[Run]:
        """Runs of a method that were judged on the same test rows: with several splits, that of the first."""
        return method.runs[:1] if self.board.splits else method.runs

    @cached_property
    def failed(self) -> list[Method]:
        """Methods that did not finish, and will not."""
        return [method for method in self.methods if not method.done and not method.under_way]

    @cached_property
    def pairs(self) -> Mapping[frozenset[str], Pair]:
        """Pairs of methods that were compared, by their names."""
        return {frozenset((pair.a, pair.b)): pair for pair in self.board.pairs}

    @cached_property
    def _entries(self) -> Mapping[str, Mapping[str, Any]]:
        """The recipe's entries by name."""
        entries = (self.board.recipe or {}).get("methods") or []
        return {str(entry.get("name")): entry for entry in reversed(entries) if isinstance(entry, dict)}

    @cached_property
    def _varied(self) -> Mapping[str, list[str]]:
        """By section, what any entry has of its own."""
        return {
            section: list(dict.fromkeys(key for e in self._entries.values() for key in e.get(section) or {}))
            for section in ("data", "evaluation")
        }

    def value(self, method: Method) -> float | None:
        """The metric that decides, of `method`."""
        value = method.metrics.get(self.primary)
        return value if value is not None and math.isfinite(value) else None

    def settings(self, method: Method) -> dict[str, Any]:
        """The method's settings in the recipe, with its own settings of training as `train.<field>`.

        And with those of reading and decoding (`data.template`) of which any method has its own.
        """
        recipe = self.board.recipe or {}
        entry = self._entries.get(method.name, {})
        config = entry.get(method.row.method) or {}
        config = config | ({"model": method.on} if method.on else {})
        own = {f"train.{key}": value for key, value in (entry.get("train") or {}).items()}
        for section, varied in self._varied.items():
            holds = {key: (recipe.get(section) or {}).get(key) for key in varied} | (entry.get(section) or {})
            own |= {f"{section}.{key}": value for key, value in holds.items()}
        other = {key: value for key, value in entry.items() if key not in _NOT_SETTINGS | {method.row.method}}
        bits = entry.get("quantization", recipe.get("quantization"))
        other["quantization"] = _bits(bits)
        return config | {key: value for key, value in (own | other).items() if value is not None}

    @property
    def warnings(self) -> list[str]:
        """What a reader of the ranking should know of the data and the settings."""
        told = self.board.warnings or (self.board.data.warnings if self.board.data else [])
        return [*self.changed, *told]

    @cached_property
    def several_models(self) -> bool:
        """Whether methods differ in their base."""
        return any(method.on for method in self.methods)

    @cached_property
    def first_result(self) -> RunResult | None:
        """The result of any run that finished, for what all runs share (versions, data, model)."""
        return next((run.finished for method in self.ranked for run in method.runs if run.finished), None)


def mean_step_memory(results: Sequence[RunResult]) -> float | None:
    """Bytes of tensors at the peak of a training step, as measured, else as predicted: mean over runs.

    It is the same for each seed, but for the lengths of rows. None where nothing was trained, or where a run
    of an older version says nothing.
    """
    known = [float(result.memory.known) for result in results if result.memory and result.memory.known]
    return fmean(known) if known and len(known) == len(results) else None


def read_curves(folder: Path) -> Curves | None:
    """What curve.json says; None if there is none.

    Raises:
        DeltatuneError: It is damaged.
    """
    path = folder / "curve.json"
    if path.is_symlink() or not path.is_file():
        return None
    return Curves.of(read(path), f"'{path}'", remedy=AGAIN)


def load(folder: Path) -> Comparison:
    """Read the comparison in `folder`.

    Raises:
        DeltatuneError: The folder holds no comparison, or its leaderboard cannot be read.
    """
    path = folder / "leaderboard.json"
    if is_across(folder):
        raise DeltatuneError(
            f"'{folder}' holds several data sets.", remedy="Name the folder of one of them: sets/NAME in it."
        )
    if not path.is_file():
        raise DeltatuneError(
            f"'{folder}' holds no comparison: it has no leaderboard.json.",
            remedy="Give the folder that `deltatune compare ... --out FOLDER` wrote.",
        )
    content = read(path)
    recipe = folder / "recipe.yaml"
    # A report is passed on: a link in a stranger's folder could bring any file of this machine into it.
    whole = recipe.is_file() and not recipe.is_symlink()
    text = recipe.read_text(encoding="utf-8", errors="replace") if whole else ""
    text = text or json.dumps(content.get("recipe", {}), indent=2)
    here = relative_paths(content.get("recipe"), folder.resolve())
    board = Leaderboard.of(replaced(content, here), f"'{path}'", remedy=AGAIN)
    found = of_board(board, folder, text)
    runs = [run.folder for method in found.methods for run in method.runs if run.folder.is_dir()]
    changed = [text for part in (folder, *runs) for text in changes(part)]
    return replace(found, here=here, changed=changed, curves=read_curves(folder))


def relative_paths(value: Any, folder: Path) -> dict[str, str]:
    """The absolute paths in a recipe, and how they are named from the folder of the comparison.

    A report is sent to others, whom the folders of this machine do not concern. Paths that have nothing in
    common with the folder's stay as they are.
    """
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return {path: name for part in parts for path, name in relative_paths(part, folder).items()}
    if not isinstance(value, str) or not Path(value).is_absolute():
        return {}
    shared = len(os.path.commonpath([value, folder])) > len(folder.anchor)
    return {value: Path(os.path.relpath(value, folder)).as_posix()} if shared else {}


def replaced(value: Any, names: Mapping[str, str]) -> Any:
    """The same tree with other strings for some."""
    if isinstance(value, dict):
        return {key: replaced(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def of_board(board: Leaderboard, folder: Path, recipe: str = "") -> Comparison:
    """The comparison that a leaderboard describes; its runs lie within `folder`."""
    short = _short_names(board.models)
    methods = [
        Method(row, [Run(_within(folder, name)) for name in row.runs], short.get(row.model or "", ""))
        for row in board.rows
    ]
    return Comparison(folder, board, methods, recipe)


def _within(folder: Path, name: str) -> Path:
    """The folder of a run. A leaderboard may be a stranger's, and reports are passed on.

    Raises:
        DeltatuneError: It lies elsewhere, or cannot be.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DeltatuneError(
            f"names the run {name!r}, which is not within the folder of the comparison.",
            field=str(folder / "leaderboard.json"),
            remedy=AGAIN,
        )
    try:
        (folder / name).is_dir()
    except (OSError, ValueError) as error:  # a name of 300 letters
        raise DeltatuneError(
            f"names the run {name[:80]!r}, which no folder can be called.",
            field=str(folder / "leaderboard.json"),
            remedy=AGAIN,
        ) from error
    return folder / name


def _short_names(models: list[str]) -> dict[str, str]:
    """The last part of each name where that tells them apart; nothing for a single model."""
    if len(models) < 2:
        return {}
    short = {name: name.removeprefix("bundled:").rstrip("/").rpartition("/")[2] for name in models}
    return short if len(set(short.values())) == len(short) else {name: name for name in models}


def _bits(quantization: Any) -> Any:
    """How a base is quantized: `none`, or its format with what is not usual."""
    if not isinstance(quantization, dict):
        return quantization or "none"
    usual = {"double": True, "compute": "bf16"}
    more = [
        f"{key} {str(value).lower()}" for key, value in quantization.items() if value != usual.get(key, value)
    ]
    return ", ".join([str(quantization.get("format")), *more])
