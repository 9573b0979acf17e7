"""Do intervals hold the splits and the choosing of settings? Simulated comparisons of small learners.

Run `python benchmarks/chance_simulation.py --trials 1000`; it prints a table. With --out it writes JSON,
setting by setting, and goes on behind those that the file has.

A trial draws a pool of rows, splits it as a recipe does, and compares three entries. An entry is ridge
regression on random features of a seed: so training rows, seeds and test rows all have their part in what it
scores, in the way in which they have it in truth. Two entries are the same (A/A), the third has other
features. With candidates, the penalty is chosen by the loss of the first run's validation rows, for each
entry.

A score is held to the entry's mean over pools, splits and seeds, with the choosing done each time: the mean
of all trials. What other rows would make of a score is drawn from Student's t, which takes a tenth of the
time of a bootstrap and is the same for means. The second test of a comparison (randomisation) can only make
alarms fewer.

With one seed, a report speaks of the runs at hand, not of methods. So its intervals are held, too, to what
these runs score on 20,000 other rows.

Each setting is judged as comparisons are, without the choosing, and with the term that Nadeau & Bengio 2003
give for what splits of one pool have in common: test rows by training rows, beside one by their number.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deltatune.comparison.again import shares_of
from deltatune.comparison.chance import Chance
from deltatune.comparison.samples import side_by_side
from deltatune.comparison.scores import Sample
from deltatune.comparison.seeds import SeedSpread
from deltatune.files import write_json

Floats = NDArray[np.float64]
Random = np.random.Generator
FIELDS, FEATURES = 12, 24
DRAWS, CHOICES = 1000, 200
OTHERS = 20_000
"""Rows that tell what two runs differ by in truth."""
PENALTIES = {1: [3.0], 3: [0.3, 3.0, 30.0], 8: [0.03 * 3.0**power for power in range(8)]}
RULES = ("as it is", "without choosing", "with the term")


@dataclass(frozen=True)
class Setting:
    """One kind of comparison."""

    metric: str
    """`accuracy` or `loss`."""
    test: int
    """Rows."""
    share: float
    """Of test rows among all."""
    runs: int
    """Of each entry, each with a seed of its own."""
    splits: bool
    """Whether each has its own split, too."""
    candidates: int
    validation: int | None = None
    """Validation rows, where they are not as many as test rows."""

    @property
    def name(self) -> str:
        """In words."""
        chosen = f", best of {self.candidates}" if self.candidates > 1 else ""
        runs = f"{self.runs} {'splits' if self.splits else 'seeds' if self.runs > 1 else 'seed'}"
        few = f" ({self.validation} validation)" if self.validation else ""
        return f"{self.metric}, {self.test} of {self.pool} rows{few}, {runs}{chosen}"

    @property
    def pool(self) -> int:
        """Rows in all."""
        return round(self.test / self.share)

    @property
    def rules(self) -> list[str]:
        """Those that say anything of their own here."""
        says = {"without choosing": self.candidates > 1, "with the term": self.splits}
        return [rule for rule in RULES if says.get(rule, True)]


@dataclass(frozen=True)
class Outcome:
    """Shares of the trials."""

    setting: str
    rule: str
    trials: int
    false_alarms: float
    """Two entries that are the same are told apart."""
    coverage: float
    """The interval of a score holds its mean."""
    coverage_of_difference: float
    """The same of the difference of two entries that are not the same."""
    coverage_of_runs: float | None
    """With one seed, the interval of the difference of two entries that are the same holds what their runs
    differ by on other rows; null with several."""
    width: float
    """Of the interval of that difference, on average, by that of the first rule."""


def draw(random: Random, rows: int, border: Floats) -> tuple[Floats, Floats]:
    """Fields and labels (1 or -1) of two classes with a curved border; one label in ten is wrong."""
    fields = random.normal(0, 1, (rows, FIELDS))
    hidden = np.tanh(2 * fields @ border)
    side = hidden[:, 0] + hidden[:, 1] * hidden[:, 2] + 0.5 * hidden[:, 3:].sum(axis=1)
    return fields, np.where(random.random(rows) < 0.1, -1.0, 1.0) * np.sign(side)


@dataclass(frozen=True)
class Run:
    """What a model scores on rows, for each candidate."""

    losses: Floats
    """Of validation rows, [candidates, rows]."""
    validation: Floats
    """Scores of them."""
    test: Floats
    """Scores of test rows, [candidates, rows]."""
    others: Floats
    """Mean scores of other rows, [candidates]; none without such rows."""


def train(
    random: Random, kind: str, parts: Sequence[tuple[Floats, Floats]], penalties: Sequence[float], metric: str
) -> Run:
    """Fit the rows of the first part and judge those of the others: validation, test, and what no run has."""
    weights = random.normal(0, 1, (FIELDS, FEATURES)) / math.sqrt(FIELDS)
    shift = random.uniform(-1, 1, FEATURES)

    def features(fields: Floats) -> Floats:
        sums = fields @ weights + shift
        return np.tanh(sums) if kind == "A" else np.maximum(sums, 0)

    rows, labels = features(parts[0][0]), parts[0][1]
    values, vectors = np.linalg.eigh(rows.T @ rows)
    solved = vectors @ ((vectors.T @ (rows.T @ labels))[:, None] / (values[:, None] + np.array(penalties)))
    answers = [((features(fields) @ solved).T, truth) for fields, truth in parts[1:]]
    losses = [(answer - truth) ** 2 for answer, truth in answers]
    right = [(answer * truth > 0).astype(np.float64) for answer, truth in answers]
    validation, test, *others = right if metric == "accuracy" else losses
    return Run(losses[0], validation, test, np.array([scores.mean(axis=1) for scores in others]).ravel())


Places = NDArray[np.intp]


def split(random: Random, setting: Setting) -> tuple[Places, ...]:
    """Rows of the pool for training, validation and test; with one seed, those behind it as well."""
    order = random.permutation(setting.pool)
    held = setting.validation or setting.test
    behind = [np.arange(setting.pool, setting.pool + OTHERS)] if setting.runs == 1 else []
    return (
        order[setting.test + held :],
        order[setting.test : setting.test + held],
        order[: setting.test],
        *behind,
    )


def entry(
    random: Random,
    kind: str,
    setting: Setting,
    pool: tuple[Floats, Floats],
    splits: Sequence[tuple[Places, ...]],
) -> tuple[Sample, float]:
    """What an entry scores on the test rows, with all that is known of chance; its last run on other rows."""
    penalties, parts = PENALTIES[setting.candidates], []
    again: tuple[tuple[float, float], ...] = ()
    for number, places in enumerate(splits):
        run = train(random, kind, [(pool[0][at], pool[1][at]) for at in places], penalties, setting.metric)
        best = int(run.losses.sum(axis=1).argmin())
        if number == 0 and len(penalties) > 1:
            shares = shares_of(run.losses, range(run.losses.shape[1]), CHOICES)
            scores = run.validation.mean(axis=1).tolist()
            again = tuple((share, score) for share, score in zip(shares, scores, strict=True) if share > 0)
            penalties = [penalties[best]]
        parts.append(Sample.of(run.test[best]))
        elsewhere = float(run.others[best]) if run.others.size else math.nan
    if not setting.splits:
        values = np.concatenate([part.values for part in parts])
        return replace(parts[0], values=values, chance=Chance(again=again)), elsewhere
    tests = [places[2] for places in splits]
    tested = np.unique(np.concatenate(tests))
    places_of = [np.searchsorted(tested, test) for test in tests]
    present = np.zeros((len(tests), len(tested)), dtype=np.bool_)
    for number, at in enumerate(places_of):
        present[number, at] = True
    return side_by_side(parts, places_of, Chance(present, again)), elsewhere


def under(rule: str, spread: SeedSpread, shared: float) -> SeedSpread:
    """What all but rows adds by a rule, `shared` being test rows by training rows."""
    if rule == "without choosing":
        return replace(spread, chance=tuple(replace(each, again=()) for each in spread.chance))
    more = 1 + shared * float(spread.seeds[0]) if rule == "with the term" else 1.0
    return replace(spread, variances=more * spread.variances)


def reaches(samples: Sequence[Sample], spread: SeedSpread, seed: int) -> Floats:
    """How far the intervals of the first score, of A/A and of A/B reach, [3, low and high].

    What other rows would make is drawn from Student's t with the variance and the degrees of freedom by the
    jackknife, which the bootstrap of a mean comes to; everything else as ever.
    """
    influence = [sample.influence().mean(axis=0) for sample in samples]
    random = np.random.default_rng(seed)
    normal = random.standard_normal(DRAWS)
    found = []
    for methods, of in (
        ([0], influence[0]),
        ([0, 1], influence[0] - influence[1]),
        ([0, 2], influence[0] - influence[2]),
    ):
        squares = (of - of.mean()) ** 2
        total, count = float(squares.sum()), len(squares)
        excess = float((squares**2).sum()) / total**2 - 1 / count if total else 0.0
        freedom = max(1.0, 2 / max(excess, 1e-6))
        tails = np.sqrt(random.chisquare(freedom, DRAWS) / freedom)
        drawn = normal * math.sqrt(total * (count - 1) / count) / tails + spread.noise(methods, seed)
        found.append(np.quantile(drawn, [0.025, 0.975]))
    return np.array(found)


def simulate(setting: Setting, trials: int) -> list[Outcome]:
    """Run one setting; the rules are judged on the same trials."""
    random = np.random.default_rng(24)
    border = np.random.default_rng(25).normal(0, 1, (FIELDS, 6)) / math.sqrt(FIELDS)
    others = draw(np.random.default_rng(26), OTHERS, border)
    means, elsewhere = np.zeros((trials, 3)), np.zeros((trials, 3))
    reach = {rule: np.zeros((trials, 3, 2)) for rule in setting.rules}
    for trial in range(trials):
        fields, labels = draw(random, setting.pool, border)
        pool = (np.concatenate([fields, others[0]]), np.concatenate([labels, others[1]]))
        splits = [split(random, setting) for _ in range(setting.runs if setting.splits else 1)]
        splits = splits if setting.splits else splits * setting.runs
        shared = setting.test / len(splits[0][0])
        entries = [entry(random, kind, setting, pool, splits) for kind in ("A", "A", "B")]
        samples, elsewhere[trial] = [sample for sample, _ in entries], [score for _, score in entries]
        means[trial] = [sample.mean() for sample in samples]
        spread = SeedSpread.of(samples, DRAWS, trial)
        for rule in setting.rules:
            reach[rule][trial] = reaches(samples, under(rule, spread, shared), trial)
    truth = float(means[:, :2].mean())
    gap = truth - float(means[:, 2].mean())
    errors = np.stack(
        [means[:, 0] - truth, means[:, 0] - means[:, 1], means[:, 0] - means[:, 2] - gap], axis=1
    )
    of_runs = errors[:, 1] - (elsewhere[:, 0] - elsewhere[:, 1])
    plain = np.ptp(reach[setting.rules[0]][:, 2], axis=1).mean()
    outcomes = []
    for rule, found in reach.items():
        held = ((errors + found[..., 0] <= 0) & (errors + found[..., 1] >= 0)).mean(axis=0)
        width = float(np.ptp(found[:, 2], axis=1).mean() / plain)
        alarms, score, difference = 1 - float(held[1]), float(held[0]), float(held[2])
        runs = float(((of_runs + found[:, 1, 0] <= 0) & (of_runs + found[:, 1, 1] >= 0)).mean())
        coverages = (score, difference, runs if setting.runs == 1 else None)
        outcomes.append(Outcome(setting.name, rule, trials, alarms, *coverages, width))
    return outcomes


def settings() -> Iterator[Setting]:
    """All that are simulated."""
    for metric in ("accuracy", "loss"):
        for test, share in ((50, 0.1), (200, 0.2), (1000, 0.25)):
            for runs, splits in ((1, False), (3, False), (5, False), (3, True), (5, True), (10, True)):
                yield Setting(metric, test, share, runs, splits, 1)
            yield Setting(metric, test, share, 1, False, 3)
            for runs, splits in ((1, False), (3, False), (3, True), (5, True)):
                if test < 1000 or runs == 1:
                    yield Setting(metric, test, share, runs, splits, 8)
        for runs, candidates in ((1, 3), (1, 8), (3, 8)):
            yield Setting(metric, 1000, 0.25, runs, False, candidates, validation=50)


def main() -> None:
    """Simulate every setting and print what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--only", default="", help="settings whose name has this in it")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    outcomes = _known(asked.out, asked.trials)
    known = {each.setting for each in outcomes}
    heads = ("A/A alarms", "coverage", "difference", "of runs", "width")
    print(f"{'setting':<64}{'rule':<18}" + "".join(f"{head:>12}" for head in heads))
    for setting in settings():
        if asked.only not in setting.name or setting.name in known:
            continue
        for found in simulate(setting, asked.trials):
            outcomes.append(found)
            shares = (found.false_alarms, found.coverage, found.coverage_of_difference)
            cells = ("" if share is None else f"{share:.1%}" for share in (*shares, found.coverage_of_runs))
            told = "".join(f"{cell:>12}" for cell in (*cells, f"{found.width:.2f}"))
            print(f"{found.setting:<64}{found.rule:<18}{told}", flush=True)
        if asked.out:
            write_json(asked.out, [asdict(each) for each in outcomes])


def _known(path: Path | None, trials: int) -> list[Outcome]:
    """What a call that was killed has written, by as many trials."""
    if path is None or not path.exists():
        return []
    lines = json.loads(path.read_text(encoding="utf-8"))
    return [Outcome(**line) for line in lines if line["trials"] == trials and "coverage_of_runs" in line]


if __name__ == "__main__":
    main()
