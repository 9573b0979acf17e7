"""A comparison over several data sets: a whole comparison on each, in a folder of its own, and what they say.

    OUT/sets/NAME/...   what a comparison writes; it can be reported, gone on with and packed by itself
    OUT/across.json     the answer over all of them
    OUT/report.html     the same as a page, with a link to each

So nothing that trains knows of several data sets. A set that is added to the recipe is trained beside those
that are finished; one that is taken out is left where it is, and counts no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deltatune.checkpoint.folders import remove, settle
from deltatune.checkpoint.lock import Lock
from deltatune.checkpoint.manifest import checksums, mark, require_own, vouch
from deltatune.comparison.across import Finished, across
from deltatune.comparison.curve import try_rows
from deltatune.comparison.folder import (
    clear,
    require_own_folder,
    require_same_content,
    require_same_recipe,
)
from deltatune.comparison.require_comparable import require_comparable, require_one_process
from deltatune.comparison.team import Team, not_to_be_cleared
from deltatune.errors import DeltatuneError, RecipeError
from deltatune.evaluation import primary_metric
from deltatune.files import make_folder, read_json, write_json, write_text
from deltatune.observer import Observer, Silent
from deltatune.recipe.axes import slug
from deltatune.recipe.baselines import with_baselines
from deltatune.recipe.data_sets import as_one
from deltatune.recipe.schema import Recipe
from deltatune.recipe.written import as_written
from deltatune.report import write_report
from deltatune.results import Across, Leaderboard
from deltatune.results.across import FOLDER, KIND
from deltatune.training import Context
from deltatune.training.given.folder import ANEW
from deltatune.training.given.split_contexts import every_context
from deltatune.training.given.start import require_apart

ANSWER, REPORT, RECIPE = "across.json", "report.html", "recipe.yaml"
VOUCHED = (ANSWER, RECIPE)
Compare = Callable[[Recipe, Path], Leaderboard]
"""Compares on one data set, in a folder."""


def compare_sets(
    sets: Mapping[str, Recipe],
    out: Path,
    compare: Compare,
    *,
    overwrite: bool = False,
    join: bool = False,
    observer: Observer | None = None,
) -> Across:
    """Compare on every data set, one after another, and write across.json and report.html.

    Called again, it returns to what is finished and goes on with the rest, as each comparison does.

    Args:
        sets: By the name of each data set its recipe; they differ in nothing else.
        out: The folder of all.
        compare: Makes the comparison on one, or goes on with it; it is never asked to start anew.
        overwrite: Start anew: once all data are read, remove what earlier comparisons left.
        join: Share the folder with other processes that join.
        observer: Is told of the progress.

    Returns:
        What across.json holds.

    Raises:
        RecipeError: The data sets would be judged by different metrics; or a folder holds another comparison,
            or others are at one on other data sets.
        DataError: A data set cannot be used. All are read before anything is trained.
        DeltatuneError: As of `compare`.
    """
    observer = observer or Silent()
    _require_one_metric(sets)
    folders = {name: out / FOLDER / slug(name) for name in sets}
    with Team(make_folder(out), observer, join=join) as team:
        if overwrite and not team.first:
            raise not_to_be_cleared(out)
        if team.first:
            require_own(out, KIND, (ANSWER, REPORT, RECIPE, FOLDER), lambda _: False)
            settle(out)
        else:
            require_same_content(as_one(sets), out)
        for name, recipe in sets.items():
            with _named(name):
                _require_usable(recipe, folders[name], overwrite=overwrite, out=out)
        if team.first:
            mark(out, KIND)
            for name in (ANSWER, REPORT) if overwrite else ():
                remove(out / name)
            for folder in folders.values() if overwrite else ():
                _clear(folder, observer)
            write_text(out / RECIPE, as_written(as_one(sets)))
        team.open()
        finished = []
        for number, (name, recipe) in enumerate(sets.items(), start=1):
            observer.stage(f"Data set {name}, {number} of {len(sets)}")
            with _named(name):
                finished.append(Finished(name, folders[name], compare(recipe, folders[name])))
        with team.desk():
            path, made_of = out / ANSWER, [folder / "leaderboard.json" for folder in folders.values()]
            if team.is_written(out / REPORT, [path, *made_of]):
                return Across.of(read_json(path, remedy=ANEW), f"'{path}'", remedy=ANEW)
            result = across(finished, as_one(sets), out)
            write_json(path, result.as_dict())
            vouch(out, KIND, checksums(out, VOUCHED))
            write_report(out)
    for warning in result.warnings:
        observer.warn(warning)
    return result


def _clear(folder: Path, observer: Observer) -> None:
    """Remove what an earlier comparison on a data set left, if there is one."""
    if folder.is_dir():
        with Lock(folder, observer.warn):
            require_own_folder(folder)
            clear(folder, observer)


def _require_usable(recipe: Recipe, folder: Path, *, overwrite: bool, out: Path) -> None:
    """Try now what would end the comparison on a later set, after hours on the first ones."""
    require_one_process(recipe)
    if overwrite:
        for entry in recipe.methods:
            require_apart(entry, out)
    else:
        require_same_recipe(recipe, folder)
    opened = Context.open(with_baselines(recipe), Silent())  # it warns when it is used
    for context in every_context(opened):
        require_comparable(context)
    try_rows(opened)


def _require_one_metric(sets: Mapping[str, Recipe]) -> None:
    """Refuse data sets that different metrics would decide on: the answer is by one."""
    keys = {
        name: primary_metric(recipe.evaluation, recipe.task, targets=recipe.has_targets)
        for name, recipe in sets.items()
    }
    first, *_ = keys
    other = next((name for name, key in keys.items() if key != keys[first]), None)
    if other is not None:
        raise RecipeError(
            f"would be {keys[first]} on {first} and {keys[other]} on {other}; the answer over data sets is "
            "by one metric.",
            field="evaluation.primary",
            remedy="Give all data sets a target column or none, or name a metric that all of them have.",
        )


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Let an error say which data set it is about."""
    try:
        yield
    except DeltatuneError as error:
        error.what = f"(data set {name}) {error.what}"
        error.args = (f"(data set {name}) {error}",)
        raise
