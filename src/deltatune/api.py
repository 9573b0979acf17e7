"""What the command line can do, as functions with typed results, for scripts and notebooks.

A recipe is a file, a `Recipe`, or the mapping that a file would hold; `make_recipe` makes one of keywords.
Data may be in memory, and methods may be configs. In threads, one works at a time (`alone.py`).

    import deltatune as dt

    recipe = dt.make_recipe("reviews.yaml", data=rows, methods=[dt.LoraConfig(r=8), "prefix"])
    board = dt.compare(recipe, "out/reviews")
    board.to_pandas()
    dt.predict("out/reviews/runs/lora-s0", ["What a film!"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deltatune.alone import alone
from deltatune.errors import RecipeError, nearest
from deltatune.recipe import Recipe, parse_recipe
from deltatune.recipe.load import read_recipe

if TYPE_CHECKING:
    from deltatune.board import Board, ShownPlan, ShownPreview, Trained
    from deltatune.core.method import MethodConfig
    from deltatune.recipe.given import Given
    from deltatune.results import CertifiedFolder, MergedModel, Prediction, SavedDelta
    from deltatune.runs import Failed, LoadedRun
    from deltatune.runs.merge import Dtype


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
    known = [*Recipe.model_fields, "grid", "sample"]
    for name in sections:
        if name not in known:
            raise RecipeError("is no section of a recipe.", field=name, remedy=nearest(name, known))
    root: Path | None = None
    content: Any = {}
    if isinstance(recipe, Recipe) and not sections:
        return recipe
    if isinstance(recipe, Recipe):
        content = recipe.dump()
    elif isinstance(recipe, Mapping):
        content = recipe
    elif recipe is not None:
        root, content = Path(recipe).parent, read_recipe(Path(recipe))
    if not isinstance(content, Mapping):
        return parse_recipe(content)  # which says what a recipe is
    content = {**content, **sections}
    if "data" in content:
        from deltatune.data.memory import as_section

        content["data"] = as_section(content["data"])
    if "methods" in content:
        content["methods"] = _methods(content["methods"])
    return parse_recipe(content, root=root)


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
        recipe: As of `make_recipe`.
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


@alone
def evaluate(
    run: str | Path,
    *,
    split: Literal["train", "validation", "test"] = "test",
    predictions: str | Path | None = None,
    given: Given | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> dict[str, float]:
    """Evaluate a finished run again, from its saved delta.

    Args:
        run: The run's folder, or that of an adapter without a run.
        split: The rows to evaluate on.
        predictions: A file to write a line for each row to.
        given: Of an adapter without a run: its base, task, classes and recipe.
        device: Where: `auto` (the first GPU, else the CPU), `cpu`, `cuda`, `cuda:1`, `xpu` or `mps`.
        trust_remote_code: Whether Python code that comes with the base may run.
        quiet: Show no progress.

    Returns:
        The metrics by name.

    Raises:
        DeltatuneError: The folder holds no finished run, or its data have gone.
    """
    from deltatune.cli.progress import watching
    from deltatune.runs import evaluate_run

    with watching(quiet=quiet) as observer:
        return evaluate_run(
            Path(run),
            split=split,
            predictions=None if predictions is None else Path(predictions),
            trust_remote_code=trust_remote_code,
            given=given,
            device=device,
            observer=observer,
        )


@alone
def predict(
    run: str | Path,
    inputs: Any,
    *,
    given: Given | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> list[Prediction | Failed]:
    """Use a trained run.

    Args:
        run: The run's folder, or that of an adapter without a run.
        inputs: Texts, image files, or mappings with a row's columns; a frame of these; one text or mapping;
            or a file or a folder of images, as a `Path`.
        given: Of an adapter without a run: its base, task, classes and template.
        device: Where: `auto` (the first GPU, else the CPU), `cpu`, `cuda`, `cuda:1`, `xpu` or `mps`.
        trust_remote_code: Whether Python code that comes with the base may run.

    Returns:
        One for each input, in order: a prediction, or what is wrong with the input.

    Raises:
        DeltatuneError: The folder holds no finished run, or a file of inputs cannot be read.
    """
    from deltatune.data.memory import as_inputs
    from deltatune.runs import predict as predict_all

    asked = inputs if isinstance(inputs, Path) else as_inputs(inputs)
    found = predict_all(Path(run), asked, trust_remote_code=trust_remote_code, given=given, device=device)
    return list(found)


@alone
def merge(
    run: str | Path,
    out: str | Path,
    *,
    others: Sequence[str | Path] = (),
    rule: Literal["linear", "ties", "dare"] = "linear",
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    dtype: Dtype = "fp32",
    given: Given | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> MergedModel:
    """Fold a run's delta, or several put together, into the base, and write a model that needs no deltatune.

    Args:
        run: The run's folder, or that of an adapter without a run.
        out: The folder of the merged model.
        others: Runs on the same base whose low-rank deltas are put together with it.
        rule: How: a weighted sum, TIES or DARE.
        weights: One for each run. Default: equal ones.
        density: Share of each delta that TIES and DARE keep.
        dtype: Of the merged weights.
        given: Of an adapter without a run: its base, task and classes.
        device: Where deltas are folded; the host has most room.
        trust_remote_code: Whether Python code that comes with the base may run.

    Returns:
        Where the model is, and how far its outputs are from those of base and delta side by side.

    Raises:
        DeltatuneError: The folder holds no finished run, or the delta cannot be folded.
    """
    from deltatune.runs import merge as merge_runs

    return merge_runs(
        Path(run),
        Path(out),
        others=[Path(other) for other in others],
        rule=rule,
        weights=weights,
        density=density,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        given=given,
        device=device,
    )


@alone
def inspect(
    folder: str | Path, *, given: Given | None = None, trust_remote_code: bool = False
) -> SavedDelta | CertifiedFolder:
    """Say what a saved delta is, what its run proved, and what using it would load and run here.

    Args:
        folder: A run, a merged model, or a folder with a saved delta, also peft's.
        given: Of an adapter without a run: a base, which is then loaded to see whether it fits.
        trust_remote_code: Whether Python code that comes with that base may run.

    Raises:
        DeltatuneError: There is neither a delta nor a certificate, a file is damaged, or it does not fit.
    """
    from deltatune.runs import inspect as inspect_folder

    return inspect_folder(Path(folder), given=given, trust_remote_code=trust_remote_code)


@alone
def load(
    run: str | Path, *, given: Given | None = None, device: str = "auto", trust_remote_code: bool = False
) -> LoadedRun:
    """Load a run's base with its delta attached; `.model` is an `AdaptedModel`.

    Args:
        run: The run's folder, or that of an adapter without a run.
        given: Of an adapter without a run: its base, task, classes and template.
        device: Where: `auto` (the first GPU, else the CPU), `cpu`, `cuda`, `cuda:1`, `xpu` or `mps`.
        trust_remote_code: Whether Python code that comes with the base may run.

    Raises:
        DeltatuneError: The folder holds no finished run, or its base cannot be loaded.
    """
    from deltatune.runs import load_run

    return load_run(run, trust_remote_code=trust_remote_code, given=given, device=device)


def _methods(value: Any) -> Any:
    """A recipe's list of methods, of one or several names, entries and configs."""
    from deltatune.core.method import MethodConfig

    if value is None:
        return value
    several = [value] if isinstance(value, str | Mapping | MethodConfig) else list(value)
    return [_entry(each) if isinstance(each, MethodConfig) else each for each in several]


def _entry(config: MethodConfig) -> dict[str, Any]:
    return {config.name: config.model_dump(mode="json", exclude_unset=True)}
