"""A comparison: every method of a recipe under the same conditions, ranked only where that is justified."""

from __future__ import annotations

import contextlib
import datetime
import math
import statistics as arithmetic
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

from deltatune.checkpoint.folders import remove, settle
from deltatune.checkpoint.manifest import checksums, mark, vouch
from deltatune.comparison.attempt import Pick, run_folder
from deltatune.comparison.check_folder import require_same_inputs, require_sound
from deltatune.comparison.choice import Chosen, choose
from deltatune.comparison.curve import CURVE, train_curves, try_rows
from deltatune.comparison.folder import KIND, VOUCHED, clear, require_own_folder, require_same_recipe
from deltatune.comparison.judged import read_judged
from deltatune.comparison.lost import with_losses
from deltatune.comparison.many import contest
from deltatune.comparison.noise import noise_floor
from deltatune.comparison.require_comparable import (
    require_comparable,
    require_one_process,
    require_same_data,
)
from deltatune.comparison.samples import holds_choosing, with_choosing
from deltatune.comparison.statistics import intervals
from deltatune.comparison.team import Team, not_to_be_cleared
from deltatune.comparison.together import attempt_all
from deltatune.comparison.warnings import jumps_of, too_much, warnings_of
from deltatune.errors import DeltatuneError
from deltatune.evaluation import higher_is_better, primary_metric
from deltatune.files import make_folder, read_json, require_disk, write_json, write_text
from deltatune.observer import Observer, Silent
from deltatune.recipe.baselines import with_baselines
from deltatune.recipe.schema import Recipe
from deltatune.recipe.written import as_written
from deltatune.report import write_report
from deltatune.report.load import mean_step_memory
from deltatune.report.ranking import RANK_RULE
from deltatune.results import (
    SCHEMA,
    AnyResult,
    Leaderboard,
    LeaderboardRow,
    MeanCost,
    Pair,
    RunResult,
    phases,
)
from deltatune.timeline import Timeline, phase
from deltatune.training import Context
from deltatune.training.given.folder import ANEW
from deltatune.training.given.split_contexts import every_context
from deltatune.training.given.start import require_apart
from deltatune.training.race.lanes import Starter


def compare(
    recipe: Recipe,
    out: Path,
    *,
    overwrite: bool = False,
    join: bool = False,
    observer: Observer | None = None,
) -> Leaderboard:
    """Run every method with every seed, write leaderboard.json and report.html.

    A recipe with `tune`, `search` or `halving` first chooses settings, by validation rows and the first seed.

    A run that fails becomes a row with its error, and the others go on. Called again, it returns to what is
    finished, continues what was interrupted and tries again what failed.

    Args:
        recipe: The recipe.
        out: The comparison's folder.
        overwrite: Start anew: once the data are read, remove what an earlier comparison left in the folder.
        join: Share the folder with other processes that join: each takes the runs that no one is at.
        observer: Is told of the progress.

    Returns:
        What leaderboard.json holds.

    Raises:
        RecipeError: The folder holds a comparison of another recipe, or a recipe that a person wrote; or
            entries whose targets have different tokens are to be ranked by a loss per token.
        DataError: The data cannot be used, or they have changed since some of the runs.
        DeltatuneError: What an earlier call left in the folder is damaged.
        KeyboardInterrupt: Interrupted; the same call goes on.
    """
    observer = observer or Silent()
    primary = primary_metric(recipe.evaluation, recipe.task, targets=recipe.has_targets)
    require_one_process(recipe)
    timeline = Timeline()
    with timeline.open(), Team(make_folder(out), observer, join=join) as team, _disk_named(out):
        return _compare(recipe, team, primary, timeline, overwrite=overwrite)


@contextlib.contextmanager
def _disk_named(out: Path) -> Iterator[None]:
    """Errors of the disk are said to be that, whatever library they come through."""
    try:
        yield
    except DeltatuneError:
        raise
    except Exception as error:
        require_disk(error, out)
        raise


def _compare(recipe: Recipe, team: Team, primary: str, timeline: Timeline, *, overwrite: bool) -> Leaderboard:
    """The comparison, in a folder that is locked."""
    context = _prepared(recipe, team, overwrite=overwrite) if team.first else _joined(recipe, team, overwrite)
    context.joined = team.joins
    team.open()
    try_rows(context)
    recipe, observer, out = context.recipe, context.observer, team.out
    chosen = choose(context, team)
    picks = [chosen.picks[entry.name] for entry in recipe.by_model() if entry.name in chosen.picks]
    # Seeds are the outer loop: runs of one seed take turns, so that a machine's load, which changes over the
    # hours, meets all methods alike.
    starters = [
        Starter(pick.entry, seed, out / run_folder(pick.entry, seed, pick.variant))
        for _, of_model in groupby(picks, key=lambda pick: recipe.model_of(pick.entry))
        for seed, pick in product(recipe.seeds, list(of_model))
    ]
    observer.start("Comparing", len(starters))
    results: dict[str, list[AnyResult]] = {}
    for starter, result in zip(starters, attempt_all(context, team, starters), strict=True):
        results.setdefault(starter.entry.name, []).append(result)
    observer.finish("Comparing")
    board = _ranked(context, team, chosen, starters, results, primary, timeline)
    if recipe.curve is not None:
        _draw_curves(context, team, chosen, board)
    return board


def _ranked(  # noqa: PLR0917 - what the ranking is made of
    context: Context,
    team: Team,
    chosen: Chosen,
    starters: Sequence[Starter],
    results: Mapping[str, Sequence[AnyResult]],
    primary: str,
    timeline: Timeline,
) -> Leaderboard:
    """Rank the methods, and write the leaderboard and the report."""
    observer, out = context.observer, team.out
    with team.desk():
        path, made_of = out / "leaderboard.json", [starter.out / "result.json" for starter in starters]
        # Of many processes one makes it, and the report at last; others would make the same again.
        if team.is_written(out / "report.html", [path, *made_of]):
            return Leaderboard.of(read_json(path, remedy=ANEW), f"'{path}'", remedy=ANEW)
        with phase("rank"):
            board = leaderboard(context, chosen, results, out, primary)
        if any(row.status == "done" and row.rank is None and not row.random_head for row in board.rows):
            observer.warn(
                f"{primary} has no value for each test row, so the rows are sorted by it, not ranked."
            )
        board = board.model_copy(update={"timeline": phases(timeline)})
        write_json(out / "leaderboard.json", board.as_dict())
        vouch(out, KIND, checksums(out, VOUCHED))
        write_report(out)
    return board


def _draw_curves(context: Context, team: Team, chosen: Chosen, board: Leaderboard) -> None:
    """Train what the curves of the recipe need, and write them down; the report is there before."""
    runs, out = train_curves(context, team, board, chosen.picks), team.out
    with team.desk():
        if team.is_written(out / "report.html", [out / CURVE, *runs.files]):
            return
        write_json(out / CURVE, runs.curves().as_dict())
        vouch(out, KIND, checksums(out, VOUCHED))
        write_report(out)


def _prepared(recipe: Recipe, team: Team, *, overwrite: bool) -> Context:
    """Put the folder in order, which no other process works in, and read the data."""
    written, recipe, out, observer = recipe, with_baselines(recipe), team.out, team.observer
    require_own_folder(out)
    settle(out)
    if not overwrite:
        require_same_recipe(written, out)
        require_sound(out)
    for entry in recipe.methods if overwrite else ():
        require_apart(entry, out)
    context = Context.open(recipe, observer)
    if not overwrite:
        require_same_inputs(out, context)
    for each in every_context(context):
        require_comparable(each)
    mark(out, KIND)
    remove(out / CURVE)  # which is drawn anew, or no longer asked for
    if overwrite:
        clear(out, observer)
    write_text(out / "recipe.yaml", as_written(written.dump()))
    return context


def _joined(recipe: Recipe, team: Team, overwrite: bool) -> Context:
    """Read the data, beside the processes that are at the comparison.

    Raises:
        InUseError: Another is at it, and the folder is to be emptied.
        RecipeError: They have another recipe.
    """
    if overwrite:
        raise not_to_be_cleared(team.out)
    require_same_recipe(recipe, team.out)
    context = Context.open(with_baselines(recipe), team.observer)
    require_same_inputs(team.out, context)
    for each in every_context(context):
        require_comparable(each)
    return context


def leaderboard(
    context: Context,
    chosen: Chosen,
    results: Mapping[str, Sequence[AnyResult]],
    out: Path,
    primary: str,
) -> Leaderboard:
    """Rank the methods by the primary metric on the test rows.

    The rank of a method is 1 + the number of methods that are significantly better (`RANK_RULE`), by a paired
    bootstrap over the test rows (and seeds). BLEU, chrF, macro F1, the loss and perplexity are scored anew on
    each resampled corpus. If runs of an older version left no numbers for single rows, methods are sorted and
    get no rank. An untuned base with a random head gets none either: how far random guesses spread says
    nothing of any method, and would widen what is said of them.

    Raises:
        DataError: The data have changed since some of the runs.
    """
    recipe, up = context.recipe, higher_is_better(primary)
    finished = [run for runs in results.values() for run in runs if isinstance(run, RunResult)]
    require_same_data(finished, context)
    rows = [
        _row(chosen.picks[name], results[name], recipe)
        for name in (entry.name for entry in recipe.methods)
        if name in results
    ]
    done = {row.name: row for row in rows if row.status == "done"}
    files = {name: [out / folder / "predictions.jsonl" for folder in row.runs] for name, row in done.items()}
    data = finished[0].data if finished else None
    positive, splits = recipe.evaluation.positive, recipe.splits
    judged = read_judged(files, primary, recipe.task, data, positive, splits=splits)
    groups = judged.groups
    samples = {
        name: with_choosing(sample, chosen.picks[name].tuning) for name, sample in judged.samples.items()
    }
    guesses = {name: samples.pop(name) for name, row in done.items() if row.random_head and name in samples}
    bounds = {
        name: list(pair) for part in (samples, guesses) if part for name, pair in intervals(part).items()
    }
    scores = {name: (row.metrics or {})[primary] for name, row in done.items()}
    pairs: list[Pair] = []
    ranks: dict[str, int] = {}
    warnings: list[str] = []
    ranked_scores = {name: scores[name] for name, row in done.items() if not row.random_head}
    if ranked_scores and samples.keys() == ranked_scores.keys():
        ranks, pairs, warnings = contest(samples, ranked_scores, higher_is_better=up, worth=recipe.worth)
        warnings = [*warnings, *too_much(recipe.worth, list(samples.values()), primary)]
    ranked = [
        row.model_copy(update={"rank": ranks.get(row.name), "interval": bounds.get(row.name)}) for row in rows
    ]
    ranked = with_losses(ranked, results, out)
    order = {name: (-1 if up else 1) * score for name, score in scores.items()}
    ranked.sort(key=lambda row: (row.rank or math.inf, order.get(row.name, math.inf)))
    return Leaderboard(
        schema_=SCHEMA,
        task=recipe.task,
        model=recipe.models[0].name,
        models=[spec.name for spec in recipe.models],
        primary_metric=primary,
        higher_is_better=up,
        worth=recipe.worth,
        rank_rule=RANK_RULE,
        rows=ranked,
        noise=noise_floor(ranked, samples),
        pairs=pairs,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        recipe=recipe.dump(),
        data=data,
        warnings=[
            *warnings_of(ranked, finished, groups, recipe.splits),
            *warnings,
            *jumps_of(chosen.halving),
        ],
        halving=chosen.halving,
        splits=recipe.splits,
        choosing=holds_choosing(ranked),
    )


def _row(pick: Pick, runs: Sequence[AnyResult], recipe: Recipe) -> LeaderboardRow:
    """The row of an entry, of its runs with all seeds; its rank and interval are still to come."""
    entry = pick.entry
    done = [run for run in runs if isinstance(run, RunResult)]
    failed = [run for run in runs if not isinstance(run, RunResult)]
    row = LeaderboardRow(
        rank=None,
        name=entry.name,
        method=entry.method,
        model=recipe.model_of(entry).name,
        group=entry.group,
        status="failed" if failed else "done",
        error=failed[0].error if failed else None,
        seeds=list(recipe.seeds),
        runs=[run_folder(entry, seed, pick.variant) for seed in recipe.seeds],
        metrics=None if failed else _means([run.metrics.test for run in done]),
        interval=None,
        cost=None if failed else _mean_cost(done),
        tuning=pick.tuning,
        random_head=entry.method == "untuned" and any(run.new_heads for run in done),
    )
    if failed or any(run.cost.raced > 1 or run.cost.joined for run in done):
        return row
    return row.model_copy(update={"train_seconds": [run.cost.train_seconds for run in done]})


def _mean_cost(runs: Sequence[RunResult]) -> MeanCost:
    means = _means([run.cost.as_dict() for run in runs])
    return MeanCost(**means, step_memory_bytes=mean_step_memory(runs))


def _means(of_runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of the numbers over runs; what is no number is taken from the first."""
    means = {}
    for key, value in of_runs[0].items():
        values: list[Any] = [run.get(key) for run in of_runs]
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        means[key] = arithmetic.fmean(values) if numbers else value
    return means
