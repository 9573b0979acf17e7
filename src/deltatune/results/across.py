"""What a comparison over several data sets came to: across.json."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from deltatune.results.record import SCHEMA, Number, Record

KIND = "comparison of data sets"
"""What its folder is, by its manifest."""
FOLDER = "sets"
"""Where the comparisons on each data set lie in it."""


class SetUsed(Record):
    """A data set, and what scores on it are measured by."""

    name: str
    """As the recipe calls it, or by its source."""
    folder: str
    """Of its own comparison, within this one's."""
    test_rows: int | None = None
    """How many rows judged the methods."""
    zero: Number | None = None
    """The score, by the deciding metric, that becomes 0; null if no method finished on all sets."""
    one: Number | None = None
    """The score that becomes 1."""
    tells: bool | None = None
    """Whether any method is shown to be better here than what is 0; null if that was not tested."""


class OnSet(Record):
    """What a method scored on one data set."""

    set: str
    """Its name."""
    score: Number | None = None
    """The deciding metric, mean over seeds; null if it failed there."""
    interval: list[Number] | None = None
    """Ends of its 95 % interval."""
    rank: int | None = None
    """In the leaderboard of the set."""
    normalised: Number | None = None
    """The score between the set's marks, 0 and 1; null for a method that is not compared over the sets."""
    error: str | None = None
    """Why it failed there."""


class Profile(Record):
    """At what share of its runs a method scores more than each of `levels`."""

    shares: list[Number]
    """At each level."""
    low: list[Number]
    """Lower ends of 95 % intervals, for other test rows and seeds of these sets."""
    high: list[Number]
    """Upper ends."""


class MethodAcross(Record):
    """A method on all data sets."""

    name: str
    """The entry's label in the recipe."""
    method: str = ""
    """Its method."""
    on_sets: list[OnSet] = Field(default_factory=list)
    """In the order of `sets`."""
    rank: int | None = None
    """1 + the number of methods that are significantly better over these sets, by the interquartile mean;
    null for one that is not compared over the sets."""
    iqm: Number | None = None
    """Interquartile mean of the normalised scores of all its runs."""
    interval: list[Number] | None = None
    """Its 95 % interval for other test rows and seeds of these sets."""
    interval_on_tasks: list[Number] | None = None
    """Its 95 % interval for other sets like these; null if they are too few."""
    mean_rank: Number | None = None
    """Mean over sets of its place among the methods compared, 1 for the best."""
    profile: Profile | None = None
    """Its performance profile."""


class PairAcross(Record):
    """Two methods over the data sets."""

    a: str
    """A method's name."""
    b: str
    """Another's."""
    difference: Number
    """How much higher the interquartile mean of `a` is."""
    low: Number
    """Lower end of its 95 % interval, for these sets."""
    high: Number
    """Upper end."""
    p: Number
    """How likely such a difference is by chance on these sets, corrected for the number of pairs."""
    tie: bool
    """Whether they cannot be told apart on these sets."""
    apart_on_tasks: bool | None = None
    """Whether their mean ranks differ by the critical difference; null if the sets are too few to tell."""


class Critical(Record):
    """Friedman's test of the ranks over sets, and the critical difference (Nemenyi)."""

    sets: int
    """How many."""
    methods: int
    """How many were ranked on each."""
    statistic: Number
    """Friedman's, corrected for ties."""
    p: Number
    """How likely as large a one is if the methods are equally good, by dealing ranks anew."""
    difference: Number | None = None
    """Mean ranks at least so far apart are told apart at 5 %; null if no difference would be."""
    least: int
    """Data sets that it takes to tell two of so many methods apart, if all of them agree."""
    needed: int | None = None
    """Data sets in all that would tell the first two apart, if their mean ranks stay as they are; null if
    they are told apart, or if no difference is."""


class Across(Record):
    """The answer of a comparison over several data sets, and all that a reader must know of it."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    """Version of the file."""
    task: str | None = None
    """The recipe's task."""
    models: list[str] = Field(default_factory=list)
    """Names of all bases."""
    primary_metric: str
    """Key of the metric that decides on each set."""
    higher_is_better: bool = True
    """Its direction."""
    seeds: int | None = None
    """How often each method was trained on each set."""
    sets: list[SetUsed]
    """The data sets, in the recipe's order."""
    yardstick: str | None = None
    """The entry whose score is 0; null: on each set the worst of the methods compared."""
    rows: list[MethodAcross]
    """The methods, best first; last those that are not compared over the sets."""
    pairs: list[PairAcross] = Field(default_factory=list)
    """Every two methods compared, by draws of test rows and seeds."""
    critical: Critical | None = None
    """Of mean ranks; null if fewer than two methods were compared."""
    levels: list[Number] = Field(default_factory=list)
    """Normalised scores at which profiles are known."""
    answer: str = ""
    """Which method, in words."""
    created: str | None = None
    """ISO time, UTC."""
    recipe: dict[str, Any] | None = None
    """The recipe with every default; `data` is a list."""
    warnings: list[str] = Field(default_factory=list)
    """What a reader should know."""
