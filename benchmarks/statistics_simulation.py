"""Are the statistics of comparisons as good as they promise? Simulated comparisons whose truth is known.

Run `python benchmarks/statistics_simulation.py --trials 2000`; it prints a table and writes JSON with --out.

Each study has a population of 4,000 examples with the results of two systems. A trial draws examples from it
(with replacement, so that the population's score is the truth), and asks the same functions that rank a
leaderboard:

- A/A: both systems' results are swapped at random in each example, so neither is better. The share of trials
  in which they are told apart must be at most 5 %.
- coverage of one system's score, and of the difference between two unequal systems, by the 95 % intervals.

With seeds, a system is a draw of runs: each seed shifts the scores of all examples alike, and adds noise of
its own to each. Comparisons of several entries with seeds are judged in two ways: with the spread of seeds
pooled over entries, as deltatune does, and with that of each entry alone (Welch's degrees of freedom), as it
did at first. So are rows of which several have one input: drawn by input, and one by one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltatune.comparison.resampling import Draws
from deltatune.comparison.scores import Sample, corpus_sample, row_sample
from deltatune.comparison.statistics import bootstrap_interval, holm, paired_bootstrap

Random = np.random.Generator
POPULATION = 4000
_SELDOM = 4  # one trial of so many has the better entry
GAIN = 0.4  # of the better entry: four to eight times the spread of seeds


@dataclass(frozen=True)
class Outcome:
    """Shares of the trials."""

    study: str
    examples: int
    trials: int
    false_alarms: float
    coverage: float
    coverage_of_difference: float


@dataclass(frozen=True)
class Population:
    """Two systems' results on the same examples, [examples, numbers] each, and how sums become a score."""

    better: Sample
    worse: Sample

    def draw(self, random: Random, examples: int, *, alike: bool) -> tuple[Sample, Sample]:
        """A test set; `alike` swaps the systems in half of its examples."""
        rows = random.integers(0, POPULATION, examples)
        a, b = self.better.values[:, rows], self.worse.values[:, rows]
        if alike:
            swap = random.integers(0, 2, (1, examples, 1)).astype(bool)
            a, b = np.where(swap, b, a), np.where(swap, a, b)
        return replace(self.better, values=a), replace(self.better, values=b)


def graded(random: Random) -> Population:
    """Skewed scores in 0..1, such as ROUGE: many zeros, hard and easy examples."""
    ease = random.beta(0.6, 1.2, POPULATION)
    one, two = (np.clip(ease * shift + random.normal(0, 0.15, POPULATION), 0, 1) for shift in (1.0, 0.9))
    return Population(Sample.of(one), Sample.of(two))


def sparse(random: Random) -> Population:
    """Accuracies of two systems that agree on all but 4 % of the examples: where a bootstrap is fooled."""
    one = (random.random(POPULATION) < 0.8).astype(float)
    differs = random.random(POPULATION) < 0.04
    return Population(Sample.of(one), Sample.of(np.where(differs, 1 - one, one)))


def _sentences(random: Random) -> tuple[list[str], list[list[str]]]:
    """References of 4 to 14 words, and two systems that get 60 % and 55 % of an average sentence right."""
    references, systems = [], [[], []]
    for _ in range(POPULATION):
        words = random.zipf(1.4, random.integers(4, 15)) % 500
        ease = random.beta(2, 2)
        references.append(" ".join(f"w{word}" for word in words))
        for outputs, skill in zip(systems, (0.6, 0.55), strict=True):
            kept = random.random(len(words)) < np.clip(ease + skill - 0.5, 0, 1)
            made = [w for w, keep in zip(words, kept, strict=True) if keep or random.random() < 0.7]
            outputs.append(" ".join(f"w{w if random.random() < skill + 0.3 else w + 1}" for w in made))
    return references, systems


def bleu(random: Random) -> Population:
    """Texts scored by corpus BLEU."""
    references, systems = _sentences(random)
    return Population(*(corpus_sample("bleu", [outputs], references) for outputs in systems))


def chrf(random: Random) -> Population:
    """Texts scored by corpus chrF."""
    references, systems = _sentences(random)
    return Population(*(corpus_sample("chrf", [outputs], references) for outputs in systems))


def macro_f1(random: Random) -> Population:
    """Four classes of 50, 30, 15 and 5 %, scored by macro F1."""
    labels = random.choice(4, POPULATION, p=[0.5, 0.3, 0.15, 0.05])
    guesses = [
        np.where(random.random(POPULATION) < skill, labels, random.integers(0, 4, POPULATION))
        for skill in (0.8, 0.72)
    ]
    texts = [f"c{label}" for label in labels]
    return Population(*(corpus_sample("macro_f1", [[f"c{g}" for g in one]], texts) for one in guesses))


def _losses(random: Random) -> list[NDArray[np.float64]]:
    """Summed loss and tokens of each example, of two systems: most texts short, few long."""
    tokens = np.minimum(3 + random.geometric(0.08, POPULATION), 120)
    hard = random.gamma(4, 0.5, POPULATION)
    systems = []
    for factor in (1.0, 1.04):
        noise = random.normal(0, 1, POPULATION) * np.sqrt(tokens) * 0.5
        systems.append(np.stack([np.maximum(hard * factor * tokens + noise, 0.01), tokens], axis=1)[None])
    return systems


def loss(random: Random) -> Population:
    """Mean loss a token of a corpus."""
    return Population(*(row_sample("loss", values) for values in _losses(random)))


def perplexity(random: Random) -> Population:
    """The exponential of the same."""
    return Population(*(row_sample("perplexity", values) for values in _losses(random)))


STUDIES: dict[str, Callable[[Random], Population]] = {
    "scores in 0..1": graded,
    "accuracy, 4 % differ": sparse,
    "BLEU": bleu,
    "chrF": chrf,
    "macro F1": macro_f1,
    "loss": loss,
    "perplexity": perplexity,
}


def simulate(study: str, examples: int, trials: int, resamples: int) -> Outcome:
    """Run a study of single runs."""
    random = np.random.default_rng(20)
    population = STUDIES[study](random)
    truth = population.better.mean()
    gap = truth - population.worse.mean()
    alarms = hits = hits_of_gap = 0
    for trial in range(trials):
        a, b = population.draw(random, examples, alike=True)
        alarms += paired_bootstrap(a, b, resamples=resamples, seed=trial).p < 0.05
        a, b = population.draw(random, examples, alike=False)
        low, high = bootstrap_interval(a, resamples=resamples, seed=trial)
        hits += low <= truth <= high
        found = paired_bootstrap(a, b, resamples=resamples, seed=trial)
        hits_of_gap += found.low <= gap <= found.high
    return Outcome(study, examples, trials, alarms / trials, hits / trials, hits_of_gap / trials)


def simulate_seeds(seeds: int, spread: float, examples: int, trials: int, resamples: int) -> Outcome:
    """Run a study of several seeds, whose own shifts have the standard deviation `spread`."""
    random = np.random.default_rng(21)
    alarms = hits = hits_of_gap = 0

    def method(ease: NDArray[np.float64], skill: float) -> NDArray[np.float64]:
        shifts = random.normal(0, spread, (seeds, 1))
        return ease + skill + shifts + random.normal(0, 0.3, (seeds, examples))

    for trial in range(trials):
        ease = random.normal(0, 0.3, examples)
        a, b, worse = method(ease, 0.5), method(ease, 0.5), method(ease, 0.45)
        alarms += paired_bootstrap(a, b, resamples=resamples, seed=trial).p < 0.05
        low, high = bootstrap_interval(a, resamples=resamples, seed=trial)
        hits += low <= 0.5 <= high
        found = paired_bootstrap(a, worse, resamples=resamples, seed=trial)
        hits_of_gap += found.low <= 0.05 <= found.high
    name = f"{seeds} seeds, spread {spread:g}"
    return Outcome(name, examples, trials, alarms / trials, hits / trials, hits_of_gap / trials)


@dataclass(frozen=True)
class Compared:
    """Shares of the trials (alarms: any pair of equal entries told apart) or of the pairs within them."""

    study: str
    rule: str
    trials: int
    false_alarms: float
    coverage: float
    coverage_of_difference: float
    found: float
    """Of the pairs with the last entry, when that is better by `GAIN`."""


class _Alone:
    """The noise of seeds by each entry's own variance, as Student's t with Welch's degrees of freedom."""

    def __init__(self, samples: Sequence[Sample], resamples: int) -> None:
        self.parts = [float(sample.by_seed().var(ddof=1)) / sample.seeds for sample in samples]
        self.freedom, self.resamples = samples[0].seeds - 1, resamples

    def noise(self, methods: Sequence[int], seed: int) -> NDArray[np.float64]:
        """Draws for one entry, or the difference of two."""
        parts = np.array([self.parts[i] for i in methods])
        freedom = parts.sum() ** 2 / (parts**2 / self.freedom).sum()
        return np.sqrt(parts.sum()) * np.random.default_rng((seed, 2)).standard_t(freedom, self.resamples)


def _judged(samples: Sequence[Sample], resamples: int, trial: int) -> dict[str, tuple[Any, ...]]:
    """By each rule: every entry's interval, the differences of all pairs, and which of these are no ties."""
    pairs = list(combinations(range(len(samples)), 2))
    resamples = max(resamples, 100 * len(pairs))  # as `pairwise` does
    draws = Draws(samples, resamples, trial)
    judged = {}
    for rule, spread in (("each alone", _Alone(samples, resamples)), ("pooled", draws.spread)):
        draws.spread = spread
        found = draws.differences(pairs, 0.95)
        apart = np.array(holm([each.p for each in found])) < 0.05
        judged[rule] = (draws.intervals(0.95), found, dict(zip(pairs, apart, strict=True)))
    return judged


def simulate_entries(
    seeds: int, spreads: Sequence[float], examples: int, trials: int, resamples: int
) -> list[Compared]:
    """Run a study of equal entries whose seeds' shifts have these standard deviations."""
    entries = len(spreads)
    random = np.random.default_rng(22)
    sums = {"each alone": np.zeros(4), "pooled": np.zeros(4)}
    for trial in range(trials):
        ease = random.normal(0, 0.3, examples)
        shifts = random.normal(0, 1, (entries, seeds, 1)) * np.asarray(spreads)[:, None, None]
        values = 0.5 + ease + shifts + random.normal(0, 0.3, (entries, seeds, examples))
        for rule, (bounds, pairs, apart) in _judged(
            [Sample.of(each) for each in values], resamples, trial
        ).items():
            held = np.mean([low <= 0.5 <= high for low, high in bounds])
            held_gap = np.mean([each.low <= 0 <= each.high for each in pairs])
            sums[rule] += [any(apart.values()), held, held_gap, 0]
        if trial % _SELDOM == 0:
            values[-1] += GAIN
            for rule, (*_, apart) in _judged([Sample.of(each) for each in values], resamples, trial).items():
                with_last = [told for pair, told in apart.items() if entries - 1 in pair]
                sums[rule][3] += np.mean(with_last) * trials / len(range(0, trials, _SELDOM))
    kind = "equal" if len(set(spreads)) == 1 else "unequal"
    name = f"{entries} entries, {seeds} seeds, {kind} spread"
    return [Compared(name, rule, trials, *(float(each) / trials for each in sums[rule])) for rule in sums]


def simulate_groups(rows: int, inputs: int, trials: int, resamples: int) -> list[Compared]:
    """Run a study of two equal systems on rows of which several have one input.

    How much better one system is on a row is half a matter of its input, half of its own.
    """
    outcomes = []
    for rule in ("row by row", "by input"):
        random = np.random.default_rng(23)
        alarms = hits = hits_of_gap = found = 0.0
        for trial in range(trials):
            groups = np.concatenate([np.arange(inputs), random.integers(0, inputs, rows - inputs)])
            shared = random.normal(0, 0.3, (2, inputs))[:, groups]
            values = 0.5 + shared + random.normal(0, 0.5, (2, rows))
            samples = [Sample.of(each) for each in values]
            better = Sample.of(values[0] + GAIN / 2)
            if rule == "by input":
                numbers = [int(group) for group in groups]
                samples, better = [each.grouped(numbers) for each in samples], better.grouped(numbers)
            tested = paired_bootstrap(*samples, resamples=resamples, seed=trial)
            low, high = bootstrap_interval(samples[0], resamples=resamples, seed=trial)
            alarms += tested.p < 0.05
            hits += low <= 0.5 <= high
            hits_of_gap += tested.low <= 0 <= tested.high
            found += paired_bootstrap(better, samples[1], resamples=resamples, seed=trial).p < 0.05
        shares = (each / trials for each in (alarms, hits, hits_of_gap, found))
        outcomes.append(Compared(f"{rows} rows of {inputs} inputs", rule, trials, *shares))
    return outcomes


def _studies_of_entries(asked: argparse.Namespace) -> Iterator[list[Compared]]:
    for seeds in (2, 3, 5):
        for entries in (2, 4, 8):
            for spreads in ([0.05] * entries, [0.03, 0.1] * (entries // 2)):
                yield simulate_entries(seeds, spreads, asked.examples, asked.trials, asked.resamples)
    yield simulate_groups(893, 120, asked.trials, asked.resamples)


def main() -> None:
    """Run every study and print what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--only", help="one study, by name")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    outcomes = []
    print(f"{'study':<24}{'examples':>9}{'A/A alarms':>12}{'coverage':>10}{'of difference':>15}")
    jobs = [(simulate, (name,)) for name in STUDIES]
    jobs += [(simulate_seeds, (seeds, spread)) for seeds in (2, 3, 5) for spread in (0.0, 0.02, 0.1)]
    if asked.only:
        jobs = [(simulate, (asked.only,))]
    for function, arguments in jobs:
        found = function(*arguments, asked.examples, asked.trials, asked.resamples)
        outcomes.append(asdict(found))
        print(
            f"{found.study:<24}{found.examples:>9}{found.false_alarms:>12.2%}{found.coverage:>10.2%}"
            f"{found.coverage_of_difference:>15.2%}",
            flush=True,
        )
    print(f"\n{'study':<42}{'judged':<12}{'A/A alarms':>12}{'coverage':>10}{'of difference':>15}{'found':>8}")
    for compared in () if asked.only else _studies_of_entries(asked):
        for each in compared:
            outcomes.append(asdict(each))
            print(
                f"{each.study:<42}{each.rule:<12}{each.false_alarms:>12.2%}{each.coverage:>10.2%}"
                f"{each.coverage_of_difference:>15.2%}{each.found:>8.1%}",
                flush=True,
            )
    if asked.out:
        asked.out.write_text(json.dumps(outcomes, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
