"""The answer of several comparisons that differ in nothing but their data: across.json."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deltatune.comparison.critical import Ranked, judge, rank_on_sets, sets_that_could
from deltatune.comparison.judged import read_judged
from deltatune.comparison.over_sets import (
    FEWEST,
    MOST_COMPARED,
    JudgedSet,
    Marks,
    aggregate,
    compared,
    levels_of,
)
from deltatune.comparison.samples import with_choosing
from deltatune.comparison.scores import AnySample
from deltatune.comparison.statistics import shared_ranks, tie_matrix
from deltatune.phrasing import listing
from deltatune.report.across_words import answer
from deltatune.results import (
    SCHEMA,
    Across,
    Critical,
    Failure,
    Leaderboard,
    LeaderboardRow,
    MethodAcross,
    OnSet,
    PairAcross,
    Profile,
    SetUsed,
)

YARDSTICKS = ("majority", "untuned")
"""Methods that have learned nothing: the first of them that finished on all sets is 0."""
MOST_NEEDED = 1_000
"""Data sets: more is as good as never."""


@dataclass(frozen=True)
class Finished:
    """The comparison on one data set."""

    name: str
    folder: Path
    board: Leaderboard

    @cached_property
    def rows(self) -> Mapping[str, LeaderboardRow]:
        """Its methods by name."""
        return {row.name: row for row in self.board.rows}

    @cached_property
    def samples(self) -> dict[str, AnySample]:
        """What each method scored on the test rows, as far as it can be resampled; random guesses are not."""
        board = self.board
        files = {
            row.name: [self.folder / run / "predictions.jsonl" for run in row.runs]
            for row in board.rows
            if row.status == "done" and not row.random_head
        }
        positive = ((board.recipe or {}).get("evaluation") or {}).get("positive")
        judged = read_judged(
            files, board.primary_metric, str(board.task), board.data, positive, splits=board.splits
        )
        return {
            name: with_choosing(sample, self.rows[name].tuning) for name, sample in judged.samples.items()
        }

    def tells(self, yardstick: str | None, contest: Sequence[str]) -> bool | None:
        """Whether a method is shown to be better than the yardstick; without one, any better than another."""
        names = {*contest, *([yardstick] if yardstick else [])}
        sign = 1 if self.board.higher_is_better else -1
        known = [pair for pair in self.board.pairs if {pair.a, pair.b} <= names]
        if yardstick is not None:
            known = [pair for pair in known if yardstick in (pair.a, pair.b)]
        if not known:
            return None
        return any(
            not pair.tie
            and (yardstick is None or sign * pair.difference * (1 if pair.b == yardstick else -1) > 0)
            for pair in known
        )


def across(finished: Sequence[Finished], recipe: Mapping[str, Any], out: Path) -> Across:
    """Put the outcomes on all data sets together.

    Args:
        finished: The comparisons, in the order of the recipe; all of the same entries and metric.
        recipe: That they came of.
        out: The folder that theirs lie in.

    Raises:
        DataError: Predictions of a run are missing or damaged.
    """
    board = finished[0].board
    entries = [str(entry["name"]) for entry in (board.recipe or {})["methods"]]
    names = [name for name in entries if any(name in each.rows for each in finished)]
    everywhere = [name for name in names if all(name in each.samples for each in finished)]
    yardstick = _yardstick(everywhere, finished[0])
    contest = [name for name in everywhere if name != yardstick]
    sets = _judged(finished, contest, yardstick) if contest else []
    rows = {name: _row(name, finished) for name in names}
    pairs: list[PairAcross] = []
    critical, levels = None, np.zeros(0)
    if sets:
        levels = levels_of(sets)
        rows, pairs, critical = _contest(sets, contest, rows, levels, higher_is_better=board.higher_is_better)
    if yardstick is not None:
        rows[yardstick] = _normalised(rows[yardstick], [0.0] * len(finished))
    ordered = sorted(rows.values(), key=lambda row: _level(row, yardstick), reverse=True)
    result = Across(
        schema_=SCHEMA,
        task=board.task,
        models=board.models,
        primary_metric=board.primary_metric,
        higher_is_better=board.higher_is_better,
        seeds=max((len(row.seeds) for row in board.rows), default=0) or None,
        sets=[
            SetUsed(
                name=each.name,
                folder=each.folder.relative_to(out).as_posix(),
                test_rows=each.board.data.test if each.board.data else None,
                zero=sets[number].marks.zero if sets else None,
                one=sets[number].marks.one if sets else None,
                tells=each.tells(yardstick, contest) if sets else None,
            )
            for number, each in enumerate(finished)
        ],
        yardstick=yardstick,
        rows=ordered,
        pairs=pairs,
        critical=critical,
        levels=levels.tolist(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        recipe=dict(recipe),
    )
    result = result.model_copy(update={"warnings": _warnings(result, finished, contest)})
    return result.model_copy(update={"answer": answer(result)})


def _level(row: MethodAcross, yardstick: str | None) -> float:
    """Where a method stands in the table: what is not compared is last."""
    if row.iqm is not None:
        return row.iqm
    return 0.0 if row.name == yardstick else -np.inf


def _yardstick(everywhere: Sequence[str], first: Finished) -> str | None:
    """The entry whose score becomes 0."""
    for method in YARDSTICKS:
        for name in everywhere:
            if first.rows[name].method == method:
                return name
    return None


def _judged(finished: Sequence[Finished], contest: Sequence[str], yardstick: str | None) -> list[JudgedSet]:
    sets = []
    for number, each in enumerate(finished):
        samples = [each.samples[name] for name in contest]
        zero = None if yardstick is None else each.samples[yardstick].mean()
        scores = [sample.mean() for sample in samples]
        marks = Marks.of(scores, zero, higher_is_better=each.board.higher_is_better)
        sets.append(JudgedSet(samples, marks, number))
    return sets


def _row(name: str, finished: Sequence[Finished]) -> MethodAcross:
    """What a method scored on each set."""
    on_sets = []
    for each in finished:
        row = each.rows.get(name)
        if row is None:  # halving stopped it
            on_sets.append(OnSet(set=each.name))
            continue
        error = row.error.message if isinstance(row.error, Failure) else row.error
        on_sets.append(
            OnSet(
                set=each.name,
                score=(row.metrics or {}).get(each.board.primary_metric),
                interval=row.interval,
                rank=row.rank,
                error=error,
            )
        )
    method = next(each.rows[name].method for each in finished if name in each.rows)
    return MethodAcross(name=name, method=method, on_sets=on_sets)


def _normalised(row: MethodAcross, scores: Sequence[float]) -> MethodAcross:
    on_sets = [
        each.model_copy(update={"normalised": score}) for each, score in zip(row.on_sets, scores, strict=True)
    ]
    return row.model_copy(update={"on_sets": on_sets})


def _contest(
    sets: Sequence[JudgedSet],
    contest: Sequence[str],
    rows: Mapping[str, MethodAcross],
    levels: Any,
    *,
    higher_is_better: bool,
) -> tuple[dict[str, MethodAcross], list[PairAcross], Critical | None]:
    """Rank the methods over the sets: by their interquartile means here, and by their mean ranks."""
    aggregates = [aggregate(sets, i, levels) for i in range(len(contest))]
    means = [each.iqm for each in aggregates]
    scores = np.array([[sample.mean() for sample in each.samples] for each in sets])
    over = judge(rank_on_sets(scores, higher_is_better=higher_is_better)) if len(contest) > 1 else None
    pairs = [
        PairAcross(
            a=contest[pair.a],
            b=contest[pair.b],
            difference=pair.difference,
            low=pair.low,
            high=pair.high,
            p=pair.p,
            tie=pair.tie,
            apart_on_tasks=over.apart(pair.a, pair.b) if over and len(sets) >= FEWEST else None,
        )
        for pair in compared(sets, means)
    ]
    ranks = _ranks(contest, means, pairs)
    ranked = dict(rows)
    for i, (name, each) in enumerate(zip(contest, aggregates, strict=True)):
        row = _normalised(rows[name], [float(data_set.cells(i).mean()) for data_set in sets])
        ranked[name] = row.model_copy(
            update={
                "rank": ranks.get(name),
                "iqm": each.iqm,
                "interval": list(each.here),
                "interval_on_tasks": each.on_tasks and list(each.on_tasks),
                "mean_rank": float(over.means[i]) if over else None,
                "profile": Profile(
                    shares=each.shares.tolist(), low=each.lows.tolist(), high=each.highs.tolist()
                ),
            }
        )
    return ranked, pairs, _critical(over, len(sets)) if over else None


def _ranks(contest: Sequence[str], means: Sequence[float], pairs: Sequence[PairAcross]) -> dict[str, int]:
    """Ranks of the methods that were compared in pairs."""
    among = {name for pair in pairs for name in (pair.a, pair.b)} or set(contest)
    kept = [(name, mean) for name, mean in zip(contest, means, strict=True) if name in among]
    tied = tie_matrix([name for name, _ in kept], pairs)
    ranks = shared_ranks([mean for _, mean in kept], tied)
    return {name: rank for (name, _), rank in zip(kept, ranks, strict=True)}


def _critical(over: Ranked, sets: int) -> Critical:
    count = len(over.means)
    first, second = np.sort(over.means)[:2]
    apart, needed = float(second - first), None
    if (
        over.critical is not None and 0 < apart < over.critical
    ):  # it falls with the root of the number of sets
        wanted = int(np.ceil(sets * (over.critical / apart) ** 2))
        needed = wanted if wanted <= MOST_NEEDED else None
    return Critical(
        sets=sets,
        methods=count,
        statistic=over.statistic,
        p=over.p,
        difference=over.critical if sets >= FEWEST else None,
        least=max(FEWEST, sets_that_could(count)),
        needed=needed,
    )


def _guesses(finished: Finished, name: str) -> bool:
    """Whether a method has a random head on a set."""
    return name in finished.rows and finished.rows[name].random_head


def _warnings(result: Across, finished: Sequence[Finished], contest: Sequence[str]) -> list[str]:
    """What a reader of the answer should know."""
    told = []
    for row in result.rows:
        failed = [each.set for each in row.on_sets if each.error is not None]
        stopped = [each.name for each in finished if row.name not in each.rows]
        guesses = [each.name for each in finished if _guesses(each, row.name)]
        if failed:
            told.append(
                f"{row.name} failed on {listing(failed)}, so it is not compared over the data sets. The same "
                "command tries it again."
            )
        elif stopped:
            told.append(f"{row.name} was stopped early on {listing(stopped)}, so it is not compared.")
        elif guesses:
            told.append(
                f"{row.name} has a random head on {listing(guesses)} and only guesses, so it is not compared."
            )
        elif row.name not in contest and row.name != result.yardstick:
            told.append(f"{row.name} has no score for each test row, so it is not compared over the sets.")
    if result.yardstick is None and contest:
        told.append(
            "No entry that learns nothing finished on all data sets, so 0 is the worst method on each of "
            "them, and the interquartile means depend on it. Add the entry untuned for a fixed mark."
        )
    dull = [each.name for each in result.sets if each.tells is False]
    if dull:
        what = f"better than {result.yardstick}" if result.yardstick else "better than another"
        told.append(
            f"On {listing(dull)} no method is shown to be {what}: normalised scores there are mostly chance."
        )
    if len(contest) > MOST_COMPARED:
        told.append(
            f"Of {len(contest)} methods, the {MOST_COMPARED} with the highest interquartile means are "
            "compared in pairs; p-values are corrected for the number of all pairs."
        )
    told += [
        f"{each.name}: its own report has {len(each.board.warnings)} more."
        for each in finished
        if each.board.warnings
    ]
    return told
