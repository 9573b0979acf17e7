"""What a reader of a ranking should know: of the data, of how its runs were made, of what they came to."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deltatune.comparison.scores import AnySample
from deltatune.phrasing import listing
from deltatune.results import Halving, LeaderboardRow, RunResult


def warnings_of(
    rows: Sequence[LeaderboardRow],
    finished: Sequence[RunResult],
    groups: Sequence[int],
    splits: int | None = None,
) -> list[str]:
    """What a reader of the ranking should know: of the data, of budgets, of rates at the edge."""
    found = _of_data(finished) if splits else [warning for run in finished for warning in run.data.warnings]
    if (inputs := len(set(groups))) < len(groups):
        of_all = " of all splits" if splits else ""
        found.append(
            f"The {len(groups):,} test rows{of_all} have {inputs:,} different inputs. Rows with one input "
            "are not independent, so intervals and tests draw them together, as one example."
        )
    found += [f"{run.name} {run.budget.warning}" for run in finished if run.budget and run.budget.warning]
    found += dict.fromkeys(run.origin.warning for run in finished if run.origin)
    raced = sorted({run.name for run in finished if run.cost.raced > 1})
    if raced:
        found.append(
            f"{', '.join(raced)} shared steps over one base (multi-run training). The training time of each "
            "is its share of these steps, by tokens; alone it may take another time. Nothing measured the "
            "peak memory of each alone."
        )
    if joined := sorted({run.name for run in finished if run.cost.joined}):
        found.append(
            f"{', '.join(joined)} trained while other processes worked on the comparison. Processes on one "
            "machine share its time, so these times say little of what each takes alone."
        )
    for name, answers in _answers(finished).items():
        found += [f"{name} {answer}" for answer in answers]
    random = [row.name for row in rows if row.random_head]
    if random:
        numbers = any(run.data.scale for run in finished)
        what = "such numbers" if numbers else "these classes"
        found.append(
            f"{', '.join(random)}: the base brings no head for {what}, so a random head guesses, and the row "
            "has no rank. A method must beat head, which trains the new head alone, and "
            f"{'an R2 of 0, which the mean of the rows has' if numbers else 'majority'}."
        )
    for row in rows:
        for field, rate in ((row.tuning and row.tuning.edges) or {}).items():
            what = "learning rate of the head" if field == "train.head_lr" else "learning rate"
            edge = f"the best {what}, {rate:g}, is at the edge of those tried"
            found.append(f"{row.name}: {edge}; a better one may lie beyond it.")
    return list(dict.fromkeys(found))


def jumps_of(halving: Halving | None) -> list[str]:
    """What there is to say of early decisions that were guesses."""
    decisions = halving.decisions if halving else []
    return [
        jumped(decision.share, decision.jump, stopped=bool(decision.stopped))
        for decision in decisions
        if decision.jump is not None
    ]


def jumped(share: float, jump: float, *, stopped: bool) -> str:
    """What there is to say of a decision that losses which jump made a guess."""
    what = "who goes on was a guess" if stopped else "nobody was stopped"
    return (
        f"At {share:.0%} of the steps half of the configurations had {jump:.1f} times their best validation "
        f"loss or more: losses jump, so {what}. Smaller learning rates or larger batches calm them."
    )


def too_much(worth: float | None, samples: Sequence[AnySample], metric: str) -> list[str]:
    """That no difference could be as large as one that matters, which is most likely a mistaken unit.

    Args:
        worth: The smallest difference that matters.
        samples: Of the methods.
        metric: The key of what they hold.
    """
    low = min((sample.low for sample in samples), default=0.0)
    high = max((sample.high for sample in samples), default=0.0)
    if worth is None or not 0 < high - low <= worth:
        return []
    return [
        f"worth ({worth:g}) is no less than the whole range of {metric} here, {low:.3g} to {high:.3g}, so no "
        "difference can matter. It is in the unit of result.json: 0.01 is a point of a share. Set it to "
        "less; nothing is trained again."
    ]


def _of_data(finished: Sequence[RunResult]) -> list[str]:
    """What is said of the rows: once with the numbers of a split, where others differ in nothing else."""
    found: dict[str, list[str]] = {}
    for warning in dict.fromkeys(warning for run in finished for warning in run.data.warnings):
        found.setdefault(_without_numbers(warning), []).append(warning)
    return [
        first if not others else f"{first} (So in other splits, with other numbers.)"
        for first, *others in found.values()
    ]


def _answers(finished: Sequence[RunResult]) -> dict[str, list[str]]:
    """By entry, what is said of runs that have one answer for almost all rows; of several seeds with them.

    Where it is the same answer, it is said once, with the numbers of the first.
    """
    seeds = {run.seed for run in finished}
    alike: dict[tuple[str, str], list[RunResult]] = {}
    for run in finished:
        if run.one_answer:
            alike.setdefault((run.name, _without_numbers(run.one_answer)), []).append(run)
    found: dict[str, list[str]] = {}
    for (name, _), runs in alike.items():
        numbers = listing([str(run.seed) for run in runs[1:]])
        of_seed = f"(seed {runs[0].seed}{f', and alike {numbers}' if numbers else ''}) "
        found.setdefault(name, []).append((of_seed if len(seeds) > 1 else "") + str(runs[0].one_answer))
    return found


def _without_numbers(text: str) -> str:
    """A text whose numbers are left out; a number in a name, as in `t5-small`, is none."""
    return re.sub(r"(?<![\w-])\d[\d.,]*(?![\w-])", "#", text)
