"""What a lead is called: said of methods, or, where each was trained with one seed, of the runs at hand.

Two trainings of one method differ, and many test rows show it: with one seed, two equal methods are told
apart in 9 to 30 % of comparisons on 1,000 rows (docs/adr/0016). How far another seed moves a method cannot be
known from one. That the one run is ahead of the other on rows like these is true all the same.
"""

from __future__ import annotations

from typing import NamedTuple

from deltatune.report.load import Comparison
from deltatune.report.words import Sentence


class Claims(NamedTuple):
    """The words of a comparison; of a pair, the first is for one subject and the second for several."""

    best: str
    beats: tuple[str, str]
    better: str
    not_so: tuple[str, str]
    worse: tuple[str, str]
    beaten: str
    """Of what others lead."""


OF_METHODS = Claims(
    best="is best",
    beats=(" beats ", " beat "),
    better=" is better than ",
    not_so=(" does not.", " do not."),
    worse=(" is worse than ", " are worse than "),
    beaten="which other methods beat",
)
OF_RUNS = Claims(
    best="is ahead",
    beats=(" is ahead of ", " are ahead of "),
    better=" is ahead of ",
    not_so=(" is not.", " are not."),
    worse=(" is behind ", " are behind "),
    beaten="which others are ahead of",
)
ONE_SEED = (
    "Each method was trained with one seed, so this is said of these runs: another seed may turn it. "
    "Three seeds (seeds: [0, 1, 2]) say it of the methods."
)


def claims_of(comparison: Comparison) -> Claims:
    """The words for its leads."""
    trained = [method for method in comparison.contest if method.trained]
    return OF_RUNS if trained and all(len(method.row.seeds) <= 1 for method in trained) else OF_METHODS


def of_runs(comparison: Comparison) -> list[Sentence]:
    """That leads are said of runs alone, where any is."""
    contest = comparison.contest
    names = {method.name for method in contest}
    told = [pair for pair in comparison.board.pairs if {pair.a, pair.b} <= names]
    leads = any(not pair.tie or pair.equivalent for pair in told)
    return [[ONE_SEED]] if leads and claims_of(comparison) is OF_RUNS else []
