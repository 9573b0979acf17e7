"""What more training rows, or a higher rank, would gain: further runs of an entry that is in the ranking.

They are trained when all others are, lie beside them, and are claimed and gone on with as they are. So a
curve may be asked for when a comparison is done. Each seed draws its own part of the rows: how far seeds
spread is then how far it matters which rows there are, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Literal

from deltatune.comparison.attempt import Pick, run_folder
from deltatune.comparison.curve_points import Measure, Points, Runs
from deltatune.comparison.scores import train_again
from deltatune.comparison.team import Team
from deltatune.comparison.together import Part, attempt_parts
from deltatune.data.subsets import training_rows
from deltatune.errors import AdapterError, ChangedError, DataError
from deltatune.recipe.baselines import BASELINES
from deltatune.recipe.curve_rules import has_rank, rank_of, with_rank
from deltatune.recipe.curve_section import CurveSpec, as_long
from deltatune.recipe.schema import MethodEntry
from deltatune.recipe.sections import SubsetSpec
from deltatune.results import (
    SCHEMA,
    AnyResult,
    Curve,
    Curves,
    Leaderboard,
    LeaderboardRow,
    RunResult,
)
from deltatune.tasks import TASKS
from deltatune.training import Context
from deltatune.training.given.folder import read_result
from deltatune.training.given.split_contexts import context_of, every_context, rows_of_seeds
from deltatune.training.race.lanes import Starter

CURVE = "curve.json"
PROGRESS = "Drawing curves"


@dataclass(frozen=True)
class _Plan:
    """A point to be: its runs, those that there are already included."""

    at: float
    asked: int | None
    parts: list[Part] = field(default_factory=list)
    """What is trained for it; nothing of the point that is in the ranking."""
    there: list[Path] = field(default_factory=list)
    """Folders of the runs that are in the ranking."""

    @property
    def folders(self) -> list[Path]:
        """Of its runs, one a seed."""
        return self.there or [starter.out for _, starters in self.parts for starter in starters]


@dataclass(frozen=True)
class _Planned:
    """A curve to be."""

    axis: Literal["rows", "rank"]
    entry: MethodEntry
    own: int
    points: list[_Plan]


@dataclass(frozen=True)
class CurveRuns:
    """The runs of all curves, which are over."""

    context: Context
    board: Leaderboard
    out: Path
    planned: Sequence[_Planned]
    results: Mapping[Path, AnyResult]

    @property
    def files(self) -> list[Path]:
        """What curves are drawn of."""
        folders = [each for curve in self.planned for point in curve.points for each in point.folders]
        return [folder / "result.json" for folder in folders]

    def curves(self) -> Curves:
        """What curve.json holds."""
        return Curves(
            schema_=SCHEMA,
            primary_metric=self.board.primary_metric,
            higher_is_better=self.board.higher_is_better,
            seeds=list(self.context.recipe.seeds),
            curves=[self._curve(planned) for planned in self.planned],
        )

    def _curve(self, planned: _Planned) -> Curve:
        runs = [
            Runs(point.at, point.asked, point.folders, list(map(self._result, point.folders)))
            for point in planned.points
        ]
        recipe, board = self.context.recipe, self.board
        measure = Measure(
            board.primary_metric,
            board.higher_is_better,
            recipe.task,
            recipe.evaluation.positive,
            recipe.worth,
            recipe.splits,
        )
        points = Points(runs, measure, self.out)
        return Curve(
            axis=planned.axis,
            name=planned.entry.name,
            method=planned.entry.method,
            own=planned.own,
            points=points.all,
            least=points.least(),
            last=points.last(),
            law=points.law() if planned.axis == "rows" else None,
        )

    def _result(self, folder: Path) -> AnyResult:
        """Of a run; of one in the ranking it is read.

        Raises:
            AdapterError: It is damaged, or gone.
        """
        result = self.results.get(folder) or read_result(folder, remedy=train_again(folder))
        if result is None:
            raise AdapterError(f"'{folder}' has lost its result.json.", remedy=train_again(folder))
        return result


def train_curves(context: Context, team: Team, board: Leaderboard, picks: Mapping[str, Pick]) -> CurveRuns:
    """Train what the recipe's curves need, or go on with it.

    Args:
        context: Of a recipe with a section `curve`.
        team: The processes at the comparison.
        board: Its ranking.
        picks: What was trained for each entry.

    Raises:
        ChangedError: A run of a curve is of other rows than there are now.
        DataError: The runs in the ranking are.
    """
    planned = [*_by_rows(context, team.out, board, picks), *_by_rank(context, team.out, board, picks)]
    _require_rows_of_ranking(context, planned)
    parts = _by_seed(
        [part for curve in planned for point in curve.points for part in point.parts], context.recipe.seeds
    )
    context.observer.start(PROGRESS, sum(len(starters) for _, starters in parts))
    results = attempt_parts(team, parts, PROGRESS)
    context.observer.finish(PROGRESS)
    for of, starters in parts:
        for starter in starters:
            _require_rows(results[starter.out], of, starter.out)
    return CurveRuns(context, board, team.out, planned, results)


def try_rows(context: Context) -> None:
    """Say which numbers of rows a curve cannot have, before anything is trained.

    Raises:
        DataError: The rows that a seed draws have all one number for a target, which teaches nothing.
    """
    spec = context.recipe.curve
    if spec is None or spec.rows is None:
        return
    total = min(rows_of_seeds(context))
    too_many = [number for number in spec.numbers if number >= total]
    if too_many:
        context.warn(
            f"curve.rows: {', '.join(map(str, too_many))} of {total} training rows is all of them; "
            "the run on all rows stands for it."
        )
    labels = context.dataset.labels or []
    if len(labels) > min([*spec.numbers, total]) and TASKS.get(context.recipe.task).has_classes:
        context.warn(
            f"curve.rows: {spec.numbers[0]} rows cannot hold each of {len(labels)} classes: those that are "
            "left out are not learned."
        )
    if TASKS.get(context.recipe.task).has_values:
        _require_scales(context, [number for number in spec.numbers if number < total])


def _require_scales(context: Context, numbers: Sequence[int]) -> None:
    """Refuse parts of the rows whose targets are all one number."""
    for number, seed in product(numbers, context.recipe.seeds):
        try:
            context_of(context, seed).narrowed(SubsetSpec(rows=number, seed=seed))
        except DataError as error:
            raise DataError(
                f"({number}) cannot be drawn with seed {seed}: {error.field} {error.what}",
                field="curve.rows",
                remedy="Name a larger number.",
            ) from error


def _by_rows(
    context: Context, out: Path, board: Leaderboard, picks: Mapping[str, Pick]
) -> Iterator[_Planned]:
    spec = context.recipe.curve
    if spec is None or spec.rows is None:
        return
    totals = rows_of_seeds(context)
    numbers = [number for number in spec.numbers if number < min(totals)]
    for row in _of_rows(context, spec, board, {name: pick.entry for name, pick in picks.items()}):
        entry, points = picks[row.name].entry, []
        for number in numbers:
            parts: list[Part] = []
            counts = []
            for seed in context.recipe.seeds:
                whole = context_of(context, seed)
                part = whole.narrowed(SubsetSpec(rows=number, seed=seed))
                train = as_long(entry.train, len(part.dataset.train), len(whole.dataset.train))
                named = entry.model_copy(update={"name": f"{entry.name} rows={number}", "train": train})
                folder = out / run_folder(entry, seed, f"rows-{number}")
                parts.append((part, [Starter(named, seed, folder)]))
                counts.append(training_rows(part.dataset))
            points.append(_Plan(fmean(counts), number, parts))
        total = fmean(totals)
        yield _Planned("rows", entry, round(total), [*points, _there(out, row, total)])


def _by_rank(
    context: Context, out: Path, board: Leaderboard, picks: Mapping[str, Pick]
) -> Iterator[_Planned]:
    spec = context.recipe.curve
    if spec is None or spec.rank is None:
        return
    ranked = {name: pick.entry for name, pick in picks.items() if has_rank(pick.entry)}
    for row in _of_rows(context, spec, board, ranked):
        entry = ranked[row.name]
        own, points = rank_of(entry), []
        for rank in sorted(set(spec.rank) - {own}):
            named = with_rank(entry, rank).model_copy(update={"name": f"{entry.name} rank={rank}"})
            starters = [
                Starter(named, seed, out / run_folder(entry, seed, f"rank-{rank}"))
                for seed in context.recipe.seeds
            ]
            parts: list[Part] = [(context_of(context, each.seed), [each]) for each in starters]
            points.append(_Plan(rank, rank, parts))
        points.append(_there(out, row, own))
        yield _Planned("rank", entry, own, sorted(points, key=lambda point: point.at))


def _there(out: Path, row: LeaderboardRow, at: float) -> _Plan:
    """The point that is in the ranking."""
    return _Plan(at, None, there=[out / run for run in row.runs])


def _of_rows(
    context: Context, spec: CurveSpec, board: Leaderboard, entries: Mapping[str, MethodEntry]
) -> list[LeaderboardRow]:
    """Rows of the leaderboard whose curves are drawn; of those that cannot be it is said why."""
    done = {row.name: row for row in board.rows if row.status == "done" and row.name in entries}
    if spec.entries is not None:
        for name in spec.entries:
            if name not in done:
                context.warn(f"curve: {name} failed or was stopped early, so no curve of it is drawn.")
        return [done[name] for name in spec.entries if name in done]
    trained = [
        row
        for row in done.values()
        if row.method not in BASELINES and entries[row.name].build_config().trains
    ] or [row for row in done.values() if entries[row.name].build_config().trains]
    if not trained:
        context.warn("curve: nothing that could have one came to its end, so none is drawn.")
        return []
    first = [row for row in trained if row.rank == trained[0].rank and row.rank is not None] or trained[:1]
    return [min(first, key=lambda row: (row.cost.trained_parameters if row.cost else None) or 0)]


def _by_seed(parts: Sequence[Part], seeds: Sequence[int]) -> list[Part]:
    """The same runs, those of the first seed first: when it is interrupted, a curve has all points of it."""
    found: dict[tuple[int, int], tuple[Context, list[Starter]]] = {}
    for of, starters in parts:
        for starter in starters:
            found.setdefault((starter.seed, id(of)), (of, []))[1].append(starter)
    return [found[key] for key in sorted(found, key=lambda key: seeds.index(key[0]))]


def _require_rows(result: AnyResult, of: Context, folder: Path) -> None:
    """Refuse a finished run on other rows than there are now.

    Raises:
        ChangedError: It is one.
    """
    now = {dataset.fingerprint for dataset in of.datasets.values()}
    if isinstance(result, RunResult) and result.data.fingerprint not in now:
        raise ChangedError(
            f"the run in '{folder}' has seen other rows than there are now.", remedy=train_again(folder)
        )


def _require_rows_of_ranking(context: Context, planned: Sequence[_Planned]) -> None:
    """Refuse to draw curves where the runs in the ranking have seen other rows than more runs would.

    Raises:
        DataError: They have.
    """
    now = {rows.fingerprint for split in every_context(context) for rows in split.datasets.values()}
    for folder in dict.fromkeys(
        folder for curve in planned for each in curve.points for folder in each.there
    ):
        result = read_result(folder, remedy=train_again(folder))
        if isinstance(result, RunResult) and result.data.fingerprint not in now:
            raise DataError(
                f"the run in '{folder}' has seen other rows than there are now, and a curve would mix both.",
                remedy="Restore the data, or start anew with --overwrite.",
            )
