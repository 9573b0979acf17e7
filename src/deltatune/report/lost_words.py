"""What is lost, in words: of the method to take, and of those that forget least and most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from deltatune.report import display
from deltatune.report.costs import best
from deltatune.report.load import Comparison, Method
from deltatune.report.lost import bounds, general_of, latency_of, shared_machine, signed, times
from deltatune.report.words import Name, Sentence
from deltatune.results import GeneralLoss, Prediction
from deltatune.tasks import TASKS

Z = 1.959964
"""Standard deviations to either side that 95 % of a normal distribution are within."""


def lost_words(comparison: Comparison) -> list[Sentence]:
    """What a reader of the verdict should know; nothing of what was not measured."""
    top = [method for method in best(comparison) if method.trained] if comparison.contest else []
    if not top:
        return []
    chosen = min(top, key=lambda method: method.cost.trained_parameters or 0)
    return [
        *_forgetting(comparison, chosen),
        *_answers(chosen),
        *_energy(comparison, chosen),
        *_sureness(comparison, chosen),
    ]


class _Change(NamedTuple):
    """How the loss of a method on general text changed, where there is an interval."""

    method: Method
    general: GeneralLoss
    low: float
    high: float


def _forgetting(comparison: Comparison, chosen: Method) -> list[Sentence]:
    general = general_of(chosen)
    if general is None:
        return []
    before, after = general.perplexities
    where = f"from {general.base:.2f} to {general.delta:.2f} (perplexity {before:.4g} to {after:.4g})"
    if general.low is not None and general.high is not None and general.low <= 0 <= general.high:
        shown = f" is shown: {signed(general.difference)} nats per token {bounds(general)}, {where}."
        sentences: list[Sentence] = [
            ["On general text, no change of the loss of ", Name(chosen.shown), shown]
        ]
    else:
        change = f"{signed(general.difference)} {bounds(general)}".rstrip()
        sentences = [
            [
                "On general text, the loss of ",
                Name(chosen.shown),
                f" changes by {change} nats per token, {where}.",
            ]
        ]
    return [*sentences, *_least_and_most(comparison, chosen)]


def _least_and_most(comparison: Comparison, chosen: Method) -> list[Sentence]:
    """Methods that clearly forget less, or more, than the one to take: of each side the outermost."""
    changes = [
        _Change(method, general, general.low, general.high)
        for method in comparison.ranked
        if method.trained
        and (general := general_of(method))
        and general.low is not None
        and general.high is not None
    ]
    of_chosen = next((change for change in changes if change.method is chosen), None)
    if of_chosen is None:
        return []
    ordered = sorted(changes, key=lambda change: change.general.difference)
    ends = []
    if ordered[0].high < of_chosen.low:
        ends.append((ordered[0], "least"))
    if ordered[-1].low > of_chosen.high:
        ends.append((ordered[-1], "most"))
    return [
        [
            Name(change.method.shown),
            f" forgets {word}: {signed(change.general.difference)} {bounds(change.general)}.",
        ]
        for change, word in ends
    ]


def _answers(chosen: Method) -> list[Sentence]:
    latency = latency_of(chosen)
    if latency is None:
        return []
    words = f" take {times(latency.delta.median)} the time of the base's [{latency.delta.low:.2f},\u00a0"
    words += f"{latency.delta.high:.2f}]"
    if latency.merged is not None:
        words += f", merged {times(latency.merged.median)} [{latency.merged.low:.2f},\u00a0"
        words += f"{latency.merged.high:.2f}]"
    return [["Answers of ", Name(chosen.shown), f"{words}."]]


def _energy(comparison: Comparison, chosen: Method) -> list[Sentence]:
    """Nothing where runs shared the machine: its counters are of all of them."""
    joules = chosen.cost.energy_joules
    if not joules or shared_machine(comparison):
        return []
    spent = f" took {display.energy(joules)}, by the counters of {chosen.cost.energy_of}."
    return [["Training ", Name(chosen.shown), spent]]


class Sureness(NamedTuple):
    """How sure a classifier is, and how often right."""

    confidence: float
    """Mean of the highest probabilities."""
    accuracy: float
    """Share of the rows that it is right on."""
    low: float
    """Of the 95 % interval of confidence less accuracy, over other inputs."""
    high: float

    @property
    def gap(self) -> float:
        """Above zero it is too sure."""
        return self.confidence - self.accuracy

    @property
    def holds(self) -> bool:
        """Whether no gap is shown."""
        return self.low <= 0 <= self.high


def _sureness(comparison: Comparison, chosen: Method) -> list[Sentence]:
    """Whether probabilities hold: said where they do not, beside the head alone, or the base's own head."""
    task = comparison.board.task
    if task not in TASKS or TASKS.get(task or "").scored_as != "classes":
        return []
    mine = sureness([list(run.predictions().values()) for run in chosen.runs])
    if mine is None or mine.holds:
        return []
    sign = "too sure" if mine.gap > 0 else "not sure enough"
    low, high = sorted((abs(mine.low), abs(mine.high)))
    words: Sentence = [
        Name(chosen.shown),
        f" is {sign}: {100 * mine.confidence:.1f}\u202f% on average where it is right in "
        f"{100 * mine.accuracy:.1f}\u202f%, a gap of {100 * abs(mine.gap):.1f} points "
        f"[{100 * low:.1f},\u00a0{100 * high:.1f}]",
    ]
    yardstick = next(
        (
            method
            for kind in ("head", "untuned")
            for method in comparison.contest
            if method.row.method == kind and method.on == chosen.on and method is not chosen
        ),
        None,
    )
    other = sureness([list(run.predictions().values()) for run in yardstick.runs]) if yardstick else None
    if yardstick is not None and other is not None:
        words += ["; ", Name(yardstick.shown), f" has {_said(other)}"]
    return [[*words, "."]]


def _said(other: Sureness) -> str:
    if other.holds:
        return "none that is shown"
    way = "" if other.gap > 0 else " the other way"
    return f"one of {100 * abs(other.gap):.1f} points{way}"


def sureness(runs: Sequence[Sequence[Prediction]]) -> Sureness | None:
    """Confidence and accuracy over the runs of a method; rows of one input count as one in the interval.

    Args:
        runs: The predictions of each seed.

    Returns:
        None where rows have no probabilities, or there are fewer than two inputs.
    """
    rows = [row for run in runs for row in run]
    if not rows or any(not row.probabilities for row in rows):
        return None
    gaps: dict[object, list[float]] = {}
    for row in rows:
        sure = max((row.probabilities or {}).values())
        gaps.setdefault(row.of_input, []).append(sure - (row.prediction == row.reference))
    if len(gaps) < 2:
        return None
    confidence = fmean(max((row.probabilities or {}).values()) for row in rows)
    accuracy = fmean(float(row.prediction == row.reference) for row in rows)
    gap, sums = (
        confidence - accuracy,
        [math.fsum(of) - len(of) * (confidence - accuracy) for of in gaps.values()],
    )
    error = math.sqrt(math.fsum(value * value for value in sums) * len(gaps) / (len(gaps) - 1)) / len(rows)
    return Sureness(confidence, accuracy, gap - Z * error, gap + Z * error)
