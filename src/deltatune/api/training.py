"""Recipes, and what is done with them: checked, planned, trained, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatune.alone import alone
from deltatune.errors import RecipeError, nearest
from deltatune.recipe import Recipe, parse_recipe
from deltatune.recipe.data_sets import are_sets, parse_sets
from deltatune.recipe.load import read_recipe

if TYPE_CHECKING:
    from deltatune.board import Board, BoardOfSets, ShownPlan, ShownPreview, Trained
    from deltatune.core.method import MethodConfig


def make_recipe(recipe: str | Path | Recipe | Mapping[str, Any] | None = None, **sections: Any) -> Recipe:
    """Make a recipe of a file or none, and of sections that stand in it or change it.

    Args:
        recipe: A file, a recipe, or the mapping that a file holds.
        sections: Any field of a recipe: `task`, `model`, `data`, `methods`, `train`, `evaluation`, `seeds`,
            `tune` and so on, as YAML would have them. `data` may be rows in memory (a list of mappings, a
            frame of pandas or Polars, a `datasets.Dataset`), of which a tenth each is validation and test
            data; or a section whose `source`, `train`, `validation` and `test` may be such rows. `methods`
            may be one or several, also configs such as `LoraConfig(r=8)`.

    Raises:
        RecipeError: It breaks a rule; every wrong field is named.
        DataError: What is given as rows are none.
    """
    if isinstance(recipe, Recipe) and not sections:
        return recipe
    content, root = _content(recipe, sections)
    return parse_recipe(content, root=root)


def make_sets(
    recipe: str | Path | Recipe | Mapping[str, Any] | None = None, **sections: Any
) -> dict[str, Recipe]:
    """Make recipes that differ in their data alone, of one whose `data` is a list.

    Args:
        recipe: As of `make_recipe`.
        sections: As of `make_recipe`. Each item of `data` may be a file, rows in memory or a section;
            one that is to have another name than its file's has `name`.

    Returns:
        By the name of each data set its recipe; of a recipe with one, whose name is empty, that one.

    Raises:
        RecipeError: As of `make_recipe`, or two data sets have one name.
        DataError: What is given as rows are none.
    """
    content, root = _content(recipe, sections)
    return parse_sets(content, root=root)


def _content(
    recipe: str | Path | Recipe | Mapping[str, Any] | None, sections: Mapping[str, Any]
) -> tuple[Any, Path | None]:
    """What a recipe file would hold, and the folder that its paths are meant from."""
    known = [*Recipe.model_fields, "grid", "sample"]
    for name in sections:
        if name not in known:
            raise RecipeError("is no section of a recipe.", field=name, remedy=nearest(name, known))
    root: Path | None = None
    content: Any = {}
    if isinstance(recipe, Recipe):
        content = recipe.dump()
    elif isinstance(recipe, Mapping):
        content = recipe
    elif recipe is not None:
        root, content = Path(recipe).parent, read_recipe(Path(recipe))
    if not isinstance(content, Mapping):
        return content, root  # whoever reads it says what a recipe is
    of_file = root is not None and "data" not in sections  # which has no rows in it
    content = {**content, **sections}
    if "data" in content:
        from deltatune.data.memory import as_section

        data = content["data"]
        several = isinstance(data, list) and (of_file or are_sets(data))
        content["data"] = _as_sets(data) if several else as_section(data)
    if "methods" in content:
        content["methods"] = _methods(content["methods"])
    return content, root


def _as_sets(values: Sequence[Any]) -> list[Any]:
    """Data sections with the files of rows in memory, whose names say nothing: they are numbered instead."""
    from deltatune.data.memory import as_section, has_rows

    made = []
    for number, value in enumerate(values, start=1):
        section = as_section(value)
        made.append({"name": f"set {number}", **section} if has_rows(value) else section)
    return made


@alone
def train(
    recipe: str | Path | Recipe | Mapping[str, Any],
    out: str | Path,
    *,
    method: str | None = None,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Trained:
    """Train one method of a recipe and evaluate it, as `deltatune train`.

    Args:
        recipe: As of `make_recipe`.
        out: The run's folder.
        method: The label of the entry to train; needed if the recipe has several.
        seed: The seed. Default: the recipe's first.
        resume: Go on with an interrupted run in `out`.
        overwrite: Replace a run in `out`.
        quiet: Show no progress.

    Returns:
        What `out/result.json` holds. In a notebook it shows itself, as do a plan and a check.

    Raises:
        DeltatuneError: Recipe, data, model or folder cannot be used; the message says what to do.
    """
    from deltatune.board import Trained
    from deltatune.cli.progress import watching
    from deltatune.results import RunResult
    from deltatune.training import run

    made = make_recipe(recipe)
    if seed is not None:
        made = parse_recipe({**made.dump(), "seeds": [seed]})
    with watching(quiet=quiet) as observer:
        result = run(
            made,
            made.chosen(method, field="method"),
            made.seeds[0],
            Path(out),
            resume=resume,
            overwrite=overwrite,
            observer=observer,
        )
    assert isinstance(result, RunResult)  # nothing was asked to pause it
    return Trained.at(Path(out), result)


@alone
def compare(
    recipe: str | Path | Recipe | Mapping[str, Any],
    out: str | Path,
    *,
    overwrite: bool = False,
    join: bool = False,
    quiet: bool = False,
) -> Board:
    """Train all methods of a recipe with every seed and rank them, as `deltatune compare`.

    Called again, it returns to what is finished, continues what was interrupted and tries again what failed.

    Args:
        recipe: As of `make_recipe`; of one with several data sets see `compare_sets`.
        out: The comparison's folder.
        overwrite: Start anew.
        join: Share the folder with every other process that joins: each takes the runs that no one is at.
        quiet: Show no progress.

    Returns:
        What `out/leaderboard.json` holds. In a notebook it shows itself.

    Raises:
        DeltatuneError: Recipe, data, model or folder cannot be used; the message says what to do.
    """
    from deltatune.board import Board
    from deltatune.cli.progress import watching
    from deltatune.comparison.runner import compare as compare_all

    made = make_recipe(recipe)
    with watching(quiet=quiet) as observer:
        board = compare_all(made, Path(out), overwrite=overwrite, join=join, observer=observer)
    return Board.at(Path(out), board)


@alone
def compare_sets(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    *,
    overwrite: bool = False,
    join: bool = False,
    quiet: bool = False,
) -> BoardOfSets:
    """Compare on each of a recipe's data sets, and say what they come to together, as `deltatune compare`.

    Args:
        recipe: As of `make_sets`.
        out: The folder; the comparison on each data set is in `out/sets/NAME`.
        overwrite: Start anew.
        join: As of `compare`.
        quiet: Show no progress.

    Returns:
        What `out/across.json` holds. In a notebook it shows itself.

    Raises:
        DeltatuneError: As of `compare`; or the recipe has one data set.
    """
    from deltatune.board import BoardOfSets
    from deltatune.cli.progress import watching
    from deltatune.comparison.runner import compare as compare_all
    from deltatune.comparison.sets import compare_sets as compare_each

    sets = make_sets(recipe)
    if len(sets) < 2:
        raise RecipeError("is one data set.", field="data", remedy="Call deltatune.compare, or give a list.")
    with watching(quiet=quiet) as observer:
        result = compare_each(
            sets,
            Path(out),
            lambda each, folder: compare_all(each, folder, join=join, observer=observer),
            overwrite=overwrite,
            join=join,
            observer=observer,
        )
    return BoardOfSets.at(Path(out), result)


@alone
def check(
    recipe: str | Path | Recipe | Mapping[str, Any], *, samples: int = 5, quiet: bool = False
) -> ShownPreview:
    """Say what a model will read and learn of a recipe's rows, and what is wrong with them.

    Args:
        recipe: As of `make_recipe`.
        samples: Training rows to show token by token.
        quiet: Show no progress.

    Returns:
        The rows token by token, counts by part, and every warning.

    Raises:
        DeltatuneError: Recipe, data or tokenizer cannot be used.
    """
    from deltatune.board import ShownPreview
    from deltatune.cli.progress import watching
    from deltatune.training.before.preview import preview

    with watching(quiet=quiet) as observer:
        found = preview(make_recipe(recipe), samples, observer)
    return ShownPreview.model_validate(found.as_dict())


@alone
def plan(
    recipe: str | Path | Recipe | Mapping[str, Any],
    *,
    memory: int | None = None,
    calibrate: bool = False,
    quiet: bool = False,
) -> ShownPlan:
    """Predict what each entry of a recipe takes, and whether it fits, before a weight is loaded.

    Args:
        recipe: As of `make_recipe`.
        memory: Bytes to stay within. Default: what this machine has.
        calibrate: Time a few steps of a small model, to estimate times.
        quiet: Show no progress.

    Returns:
        Bytes, FLOP and seconds of each entry that can be planned; of the others why not.

    Raises:
        DeltatuneError: Recipe, data or configuration cannot be used.
    """
    from deltatune.board import ShownPlan
    from deltatune.cli.progress import watching
    from deltatune.training.before.forecast import forecast

    with watching(quiet=quiet) as observer:
        found = forecast(make_recipe(recipe), memory=memory, calibrate=calibrate, observer=observer)
    return ShownPlan.model_validate(found.as_dict())


def _methods(value: Any) -> Any:
    """A recipe's list of methods, of one or several names, entries and configs."""
    from deltatune.core.method import MethodConfig

    if value is None:
        return value
    several = [value] if isinstance(value, str | Mapping | MethodConfig) else list(value)
    return [_entry(each) if isinstance(each, MethodConfig) else each for each in several]


def _entry(config: MethodConfig) -> dict[str, Any]:
    return {config.name: config.model_dump(mode="json", exclude_unset=True)}
