"""What a comparison came to: leaderboard.json."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from deltatune.results.lost import Lost
from deltatune.results.parts import DataUsed, Failure
from deltatune.results.record import SCHEMA, Number, Record
from deltatune.results.timeline import Phase


class MeanCost(Record):
    """Costs of a method: means over the runs of its seeds, in the units of `Cost`."""

    trained_parameters: Number | None = None
    """Parameters that got gradients, heads included."""
    stored_parameters: Number | None = None
    """Numbers in the saved delta."""
    total_parameters: Number | None = None
    """Of the base."""
    trained_share: Number | None = None
    """Trained parameters by those of the base."""
    peak_memory_bytes: Number | None = None
    """Peak of the process or of the GPU's allocator; null if runs were trained at once."""
    memory_kind: str | None = None
    """How the peak was measured."""
    raced: Number | None = None
    """Runs that made a step together."""
    race_peak_memory_bytes: Number | None = None
    """Peak of all runs that were trained at once."""
    train_seconds: Number | None = None
    """Time in training steps."""
    energy_joules: Number | None = None
    """Energy of training steps, of all of what `energy_of` names; null where no counter can be read."""
    energy_of: str | None = None
    """Whose counters it is of."""
    evaluation_seconds: Number | None = None
    """Time of evaluating the test rows."""
    tokens_per_second: Number | None = None
    """In training, padding not counted."""
    file_bytes: Number | None = None
    """Size of the delta's tensors on disk."""
    steps: Number | None = None
    """Optimizer steps."""
    micro_batch_size: Number | None = None
    """Rows that went through the model at once."""
    epochs: Number | None = None
    """Passes over the training rows."""
    step_memory_bytes: Number | None = None
    """Tensors at the peak of a training step; null if it is not known of each run."""


class Trial(Record):
    """One configuration that was tried, on validation rows."""

    label: str = ""
    """What sets it apart, in words."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Field of the recipe -> its value."""
    status: str = ""
    """`done`, `stopped` or `failed`."""
    value: Number | None = None
    """Its best validation result."""
    step: int | None = None
    """Steps done."""
    steps: int | None = None
    """Steps of the whole run."""
    error: str | None = None
    """Why it failed."""


class _Named(Record):
    name: str = ""
    """The entry's label."""
    method: str = ""
    """The entry's method."""


class StoppedTrial(Trial, _Named):
    """A configuration that was stopped early."""


class ChosenAgain(Record):
    """A configuration that is chosen now and then, when validation rows are drawn again."""

    label: str
    """What sets it apart, in words."""
    share: Number
    """Of the draws that choose it."""
    score: Number
    """On the validation rows, of the state that was best, by the metric that decides."""


class Tuning(Record):
    """What was tried for a method before its seeds were trained."""

    kind: str = ""
    """`rates` (learning rates) or `search`."""
    by: str = "loss"
    """The key by which validation rows chose."""
    seed: int | None = None
    """Of the runs that were tried."""
    chosen: dict[str, Any] | None = None
    """The settings that won; null if no trial succeeded."""
    at_edge: bool | None = None
    """Whether one of them is the outermost that was tried."""
    edges: dict[str, Number] | None = None
    """Field -> rate, of those at the edge."""
    tried: list[Trial] = Field(default_factory=list)
    """All that was tried."""
    train_seconds: Number | None = None
    """Time of training all of it."""
    steps: int | None = None
    """Steps of all of it."""
    steps_planned: int | None = None
    """Steps that it would have taken without early stopping."""
    again: list[ChosenAgain] | None = None
    """What is chosen on resampled validation rows, of what was trained to the end: intervals hold how far its
    scores are apart. Empty: the same always. Null: it is not known, and intervals leave it out."""


class Decision(Record):
    """Who was stopped at one share of the steps."""

    share: Number
    """Of a run's steps."""
    values: dict[str, Number | None] = Field(default_factory=dict)
    """Configuration -> validation result, best first."""
    not_settled: list[str] = Field(default_factory=list)
    """Those whose method's schedule was under way; they went on."""
    stopped: list[str] = Field(default_factory=list)
    """Those that ended there; at share 0, what there was no time to begin with."""
    jump: Number | None = None
    """How many times their best validation loss the median of them had, where that is so much that losses
    jumped and the order was a guess."""


class Halving(Record):
    """What successive halving stopped early, and the steps that it saved."""

    factor: int | None = None
    """One in so many went on from a decision."""
    rungs: int | Literal["auto"] | None = None
    """Number of decisions; `auto`: found out, and `decisions` has them."""
    finish: int | None = None
    """At least so many were trained to the end."""
    among: str | None = None
    """Who competed: `entry` or `all`."""
    by: str = "loss"
    """The key by which validation rows chose."""
    seed: int | None = None
    """Of the runs that were judged."""
    decisions: list[Decision] = Field(default_factory=list)
    """In their order."""
    stopped: list[StoppedTrial] = Field(default_factory=list)
    """What was stopped."""
    steps_planned: int | None = None
    """Steps without early stopping, all seeds counted."""
    steps_done: int | None = None
    """Steps that were made."""
    saved_share: Number = 0.0
    """Share of the steps that was saved."""
    risk: str = ""
    """What may be lost by it."""
    budget_time: str | None = None
    """About how long the comparison was to take."""
    foreseen_seconds: Number | None = None
    """How long it was foreseen to take, by the first steps."""


class LeaderboardRow(Record):
    """A method of a comparison."""

    rank: int | None = None
    """1 + the number of methods that are significantly better; null if differences were not tested."""
    name: str
    """The entry's label in the recipe."""
    method: str = ""
    """Its method."""
    model: str | None = None
    """Name of its base."""
    group: str | None = None
    """The entry from whose grid it was made."""
    status: Literal["done", "failed"] = "failed"
    """`failed` if one of its runs is."""
    error: Failure | str | None = None
    """What went wrong."""
    seeds: list[int] = Field(default_factory=list)
    """Of its runs."""
    runs: list[str] = Field(default_factory=list)
    """Folders of its runs within the comparison's, one a seed."""
    metrics: dict[str, Number] | None = None
    """Means over seeds, of the test rows, by key; null if it failed."""
    interval: list[Number] | None = None
    """Ends of the 95 % interval of the metric that decides: [low, high]."""
    cost: MeanCost | None = None
    """Means over seeds."""
    tuning: Tuning | None = None
    """What was tried for it."""
    random_head: bool = False
    """Whether it is an untuned base with a random head, which has no rank and is in no pair."""
    train_seconds: list[float] | None = None
    """Seconds of training of each seed; left out if runs were trained at once."""
    lost: Lost | None = None
    """What is lost by it: forgetting, time of an answer; null if that was not asked for."""


class Pair(Record):
    """Two methods compared, by the metric that decides.

    `examples_needed` and `seeds_needed` are for ties: so many test rows, or seeds of each method, in all,
    would tell apart methods that differ as much as these seem to, or show that they are equivalent; more than
    there are. Null: it is known, or (for examples) seeds differ too much for any number of examples to
    suffice, and the other way round.
    """

    a: str
    """A method's name."""
    b: str
    """Another's."""
    difference: Number
    """How much higher the score of `a` is than that of `b`."""
    low: Number
    """Lower end of its 95 % interval."""
    high: Number
    """Upper end of its 95 % interval."""
    p: Number
    """How likely such a difference is by chance alone, corrected for the number of pairs."""
    tie: bool
    """Whether they cannot be told apart."""
    equivalent: bool | None = None
    """Whether they are shown to differ by less than `worth`; null if none was given. A tie that is not
    equivalent is not known yet. A difference can be real and too small to matter."""
    p_equivalent: Number | None = None
    """How likely results as near as these are by chance if they differ by `worth` or more, corrected for the
    number of pairs."""
    examples_needed: int | None = None
    """Test rows in all that would tell."""
    seeds_needed: int | None = None
    """Seeds of each that would tell."""


class NoiseFloor(Record):
    """How far apart trainings of one entry lie that differ in nothing but the seed (and its split)."""

    name: str
    """The best entry whose seeds differ."""
    seeds: int
    """How often it was trained."""
    mean: Number
    """Of the distances between every two of its scores."""
    largest: Number
    """Of them."""


class Leaderboard(Record):
    """The ranking of a comparison, and all that a reader must know of it."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    """Version of the file."""
    task: str | None = None
    """The recipe's task."""
    model: str | dict[str, Any] | None = None
    """Name of the first base."""
    models: list[str] = Field(default_factory=list)
    """Names of all bases."""
    primary_metric: str
    """Key of the metric that decides."""
    higher_is_better: bool = True
    """Its direction."""
    worth: Number | None = None
    """The smallest difference of that metric that matters, as the recipe says."""
    rank_rule: str | None = None
    """What a rank means, in words."""
    rows: list[LeaderboardRow]
    """The methods, best first."""
    noise: NoiseFloor | None = None
    """How far two equal things lie apart; null with one seed."""
    pairs: list[Pair] = Field(default_factory=list)
    """Every two methods that finished; none if differences could not be tested."""
    created: str | None = None
    """ISO time, UTC."""
    recipe: dict[str, Any] | None = None
    """The recipe with every default."""
    data: DataUsed | None = None
    """The rows, of the first run that finished."""
    warnings: list[str] | None = None
    """What a reader of the ranking should know."""
    halving: Halving | None = None
    """What early stopping did."""
    splits: int | None = None
    """How many times validation and test rows were drawn anew, each seed having its own; null: never."""
    choosing: bool | None = None
    """Whether intervals hold that other validation rows would have chosen other settings; null: nothing was
    tuned or searched."""
    timeline: list[Phase] | None = None
    """What the last call spent on the comparison until it wrote this file, by phase, `other` last. Runs that
    were done before it are not in it; each has its own. The report is written afterwards."""
