"""Whether tuning is worth it: the best that is trained beside the best that answers without training."""

from __future__ import annotations

from deltatune.report import display
from deltatune.report.claims import claims_of
from deltatune.report.leads import Lead, find_pair
from deltatune.report.load import Comparison, Method
from deltatune.report.words import Name, Sentence

KNOWING_NOTHING = ("untuned", "majority")
"""Of what trains nothing those that know no row; the verdict speaks of them anyway."""
SLOWER = 1.2
"""Times the time of answering from which on it is told."""


def worth_tuning(comparison: Comparison) -> list[Sentence]:
    """For each base with such entries a sentence; none for comparisons without."""
    ranked = comparison.contest
    sentences: list[Sentence] = []
    for base in dict.fromkeys(method.on for method in ranked):
        here = [method for method in ranked if method.on == base]
        trained = [method for method in here if method.trained]
        free = [method for method in here if not method.trained]
        if not trained or all(method.row.method in KNOWING_NOTHING for method in free):
            continue
        best = trained[0]
        pairs = [(method, pair) for method in free if (pair := find_pair(comparison, best, method))]
        level = [(method, pair) for method, pair in pairs if pair.tie or pair.lead < 0]
        knowing = [each for each in level if each[0].row.method not in KNOWING_NOTHING]
        if knowing:
            sentences.append(_spared(comparison, best, *knowing[0]))
        elif pairs and not level:
            sentences.append(_worth(comparison, best, pairs))
    return sentences


def _spared(comparison: Comparison, best: Method, free: Method, pair: Lead) -> Sentence:
    """That the training was for nothing, so far as can be shown, and what it would have spared."""
    better = claims_of(comparison).better
    how = better if not pair.tie else " is equivalent to " if pair.equivalent else " ties with "
    return [
        "Tuning is not shown to be worth it here: ",
        Name(free.shown),
        f", which trains nothing,{how}",
        Name(best.shown),
        f", the best that is trained{_cost(best, free)}.",
    ]


def _cost(best: Method, free: Method) -> str:
    """`; it spares 41 s of training, and takes 2.3x the time to answer`."""
    spared, kept = best.cost.train_seconds, free.cost.train_seconds
    facts = []
    if spared is not None and kept is not None and spared > kept:
        facts.append(f"spares {display.duration(spared - kept)} of training")
    own, other = free.cost.evaluation_seconds, best.cost.evaluation_seconds
    if own and other and own > SLOWER * other:
        facts.append(f"takes {display.times(own / other)} the time to answer the test rows")
    elif own and other and other > SLOWER * own:
        facts.append(f"answers the test rows {display.times(other / own)} faster")
    return f"; it {' and '.join(facts)}" if facts else ""


def _worth(comparison: Comparison, best: Method, pairs: list[tuple[Method, Lead]]) -> Sentence:
    """That it beats all that trains nothing, by the least of its leads."""
    closest, pair = min(pairs, key=lambda each: each[1].lead)
    lead = display.difference(comparison.primary, pair.lead, pair.interval)
    return [
        "Tuning is worth it here: ",
        Name(best.shown),
        f"{claims_of(comparison).beats[0]}all that trains nothing, ",
        Name(closest.shown),
        f" by {lead}.",
    ]
