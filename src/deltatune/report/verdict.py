"""The outcome of a comparison in words that claim no more than the statistics do."""

from __future__ import annotations

from typing import NamedTuple

from deltatune.phrasing import listing
from deltatune.report import display
from deltatune.report.claims import claims_of, of_runs
from deltatune.report.costs import best, cheapest
from deltatune.report.display import difference, in_sentence, interval, metric, style
from deltatune.report.leads import Lead, find_pair
from deltatune.report.load import Comparison, Method
from deltatune.report.lost_words import lost_words
from deltatune.report.naming import MOST_NAMES, MOST_TIED, joined, names_of, verb
from deltatune.report.not_yet import equivalents, needed
from deltatune.report.ranking import RANK_RULE
from deltatune.report.words import Name, Sentence
from deltatune.report.worth_tuning import worth_tuning

NUMBERS = {2: "Both", 3: "All three", 4: "All four", 5: "All five"}
YARDSTICKS = {
    "untuned": "the untuned base",
    "majority": "always answering with the largest class",
    "head": "training the head alone",
}
"""What methods are held against, in words."""
MOST_LOSERS = 2  # of more only the closest is told; the table has the rest
UNSURE = 0.1  # share of the draws: fewer are not worth a sentence
MOST_SENTENCES = 3  # of one kind; the table of pairs has the rest


class _Beaten(NamedTuple):
    """A method that others beat, and the least of their leads."""

    method: Method
    pair: Lead
    several: bool


def verdict(comparison: Comparison) -> list[Sentence]:
    """Sentences, each a list of plain words and of `Name`s; joined, they read as one text."""
    ranked = comparison.contest
    if not ranked:
        return [["No method finished, so there is nothing to compare."]]
    if len(comparison.ranked) > 1 and not comparison.board.pairs:
        return [_untested(comparison, ranked[0]), *_failures(comparison)]
    top = best(comparison)
    rest = ranked[len(top) :]
    sentences = [_opening(comparison, top)]
    sentences += _beaten(comparison, top, rest) + of_runs(comparison)
    sentences += _level(comparison, top, rest)
    sentences += _lower_ties(comparison, rest)
    for kind in YARDSTICKS:
        sentences += _against(comparison, top, kind)
    bases = [method for method in top if method.untuned]
    if len(top) > 1 and any(method.on for method in bases):
        sentences.append(["No method is shown to beat ", *names_of(bases), "."])
    elif len(top) > 1 and bases:
        sentences.append([f"No method is shown to beat {_yardstick(comparison, 'untuned')}."])
    elif len(top) > 1 and any(method.row.method == "majority" for method in top):
        sentences.append([f"No method is shown to beat {_yardstick(comparison, 'majority')}."])
    elif len(top) > 1:
        sentences += cheapest(top)
    sentences += worth_tuning(comparison)
    sentences += equivalents(comparison, top[0])
    sentences += needed(comparison, top)
    sentences += _tuned(comparison)
    sentences += _stopped(comparison)
    sentences += lost_words(comparison)
    return sentences + _failures(comparison)


def caveat(comparison: Comparison) -> str:
    """What the intervals are made of, and what does not compare."""
    return " ".join(filter(None, [_of_intervals(comparison), _of_seeds(comparison), _of_tokens(comparison)]))


def _of_tokens(comparison: Comparison) -> str:
    """That losses a token of several models are no common measure, unless they were shown to be one."""
    classes = (comparison.board.task or "").endswith("classification")
    shown = any("loss" in method.metrics for method in comparison.ranked)
    if not comparison.several_models or classes or not shown or comparison.primary in ("loss", "perplexity"):
        return ""
    return "Loss and perplexity are means over tokens of each model's own tokenizer: compare them within one."


def _of_intervals(comparison: Comparison) -> str:
    first = comparison.first_result
    data = comparison.board.data or (first and first.data)
    tests = data and data.test
    seeds = max((len(method.row.seeds) or 1 for method in comparison.methods), default=1)
    examples = f"{tests} test examples" if tests else "the test examples"
    splits, choosing = comparison.board.splits, comparison.board.choosing
    if not any(method.row.interval for method in comparison.methods):
        return (
            f"{style(comparison.primary).label} on {examples}; it has no value for one example, so there "
            "are no intervals and differences were not tested."
        )
    held = [f"{examples} in each of {splits} splits" if splits else examples]
    held += [f"{seeds} seeds"] if seeds > 1 else []
    held += ["the choosing of settings on validation rows"] if choosing else []
    text = f"Brackets are 95\u202f% intervals, by bootstrap over {listing(held)}. {RANK_RULE}"
    if choosing is False:
        text += " They leave out that other validation rows might have chosen other settings."
    if seeds == 1:
        text += (
            " Each method was trained with one seed: the intervals leave out the luck of training, and "
            "another seed may shift each method."
        )
    return text


def _of_seeds(comparison: Comparison) -> str:
    """How far two equal things lie apart."""
    noise = comparison.board.noise
    if noise is None:
        return ""
    mean, most = (
        display.difference(comparison.primary, gap, None, named=False) for gap in (noise.mean, noise.largest)
    )
    differ = "the seed and the split" if comparison.board.splits else "the seed"
    apart = f"{mean} apart" if noise.seeds == 2 else f"{mean} apart on average, {most} at most"
    shown = next((method.shown for method in comparison.methods if method.name == noise.name), noise.name)
    return (
        f"Runs of {shown} that differ in nothing but {differ} ({noise.seeds}) are {apart}, in "
        f"{in_sentence(comparison.primary)}: a difference of that size between two runs means nothing."
    )


def _opening(comparison: Comparison, top: list[Method]) -> Sentence:
    key, label = comparison.primary, style(comparison.primary).label
    first = top[0]
    value = f"{label} {metric(key, comparison.value(first))} {interval(key, first.row.interval)}".strip()
    if len(comparison.contest) == 1 and comparison.failed:
        return ["Only ", Name(first.shown), f" finished: {value}."]
    if len(comparison.contest) == 1:
        return [Name(first.shown), f" reaches {value}. Nothing was compared with it."]
    if len(top) == 1:
        useless = "" if first.trained else ", which trains nothing,"
        return [Name(first.shown), f"{useless} {claims_of(comparison).best}: {value}."]
    values = listing([metric(key, comparison.value(method)) for method in top])
    if len(top) > MOST_TIED:
        values = f"{metric(key, comparison.value(top[0]))} to {metric(key, comparison.value(top[-1]))}"
    p = _tie_p(comparison, top)
    numbers = f"({label} {values}{f'; {p}' if p else ''})"
    if len(top) == len(comparison.contest):
        return [f"No method{claims_of(comparison).beats[0]}another: ", *names_of(top), f" tie {numbers}."]
    return [*names_of(top), f" tie for first place {numbers}."]


def _untested(comparison: Comparison, first: Method) -> Sentence:
    key = comparison.primary
    extreme = "highest" if comparison.higher_is_better else "lowest"
    value = metric(key, comparison.value(first))
    return [
        Name(first.shown),
        f" has the {extreme} {in_sentence(key)}, {value}. No test says whether the difference is real.",
    ]


def _failures(comparison: Comparison) -> list[Sentence]:
    if not comparison.failed:
        return []
    return [[*names_of(comparison.failed), " failed; the reason is given below."]]


def _beaten(comparison: Comparison, top: list[Method], rest: list[Method]) -> list[Sentence]:
    """What the top methods beat, by the least of their leads; then what only some of them beat."""
    clear: list[_Beaten] = []
    partly: dict[tuple[str, ...], list[_Beaten]] = {}  # by the names of those that win
    for method in rest:
        leads = {best.name: find_pair(comparison, best, method) for best in top}
        won = {name: pair for name, pair in leads.items() if pair and not pair.tie and pair.lead > 0}
        if not won:
            continue
        least = min(won.values(), key=lambda pair: pair.lead)
        group = clear if len(won) == len(top) else partly.setdefault(tuple(won), [])
        group.append(_Beaten(method, least, several=len(won) > 1))
    sentences: list[Sentence] = []
    claims = claims_of(comparison)
    if clear:
        who = "It" if len(top) == 1 else NUMBERS.get(len(top), "All of them")
        subject = f"{who}{verb(top, *claims.beats)}"
        every = len(clear) == len(rest)
        sentences.append([subject, *_losers(comparison, clear, every=every), "."])
    for winners, beaten in list(partly.items())[:MOST_SENTENCES]:
        others = [best for best in top if best.name not in winners]
        words = [*names_of([best for best in top if best.name in winners]), verb(winners, *claims.beats)]
        but = verb(others, *claims.not_so)
        sentences.append([*words, *_losers(comparison, beaten), "; ", *names_of(others), but])
    return sentences


def _losers(comparison: Comparison, beaten: list[_Beaten], *, every: bool = False) -> Sentence:
    """`prefix by 3.1 ROUGE-L points [2.2, 4.0] and prompt by 9.0 [7.7, 10.3]`; of many only the closest.

    Args:
        comparison: Of which methods.
        beaten: Those that lose, and by how much.
        every: Whether nothing else is left.
    """
    key = comparison.primary
    if len(beaten) <= MOST_LOSERS:
        words_of: list[Sentence] = [
            [
                Name(loser.method.shown),
                f" by {'at least ' if loser.several else ''}",
                difference(key, loser.pair.lead, loser.pair.interval, named=index == 0),
            ]
            for index, loser in enumerate(beaten)
        ]
        return joined(words_of)
    closest = min(beaten, key=lambda loser: loser.pair.lead)
    least = "at least " if closest.several else ""
    behind = difference(key, closest.pair.lead, closest.pair.interval, behind=True)
    count = f"{'all ' if every else ''}{len(beaten)} others"
    return [f"{count}; the closest, ", Name(closest.method.shown), f", is {least}{behind}"]


def _level(comparison: Comparison, top: list[Method], rest: list[Method]) -> list[Sentence]:
    """Methods of a lower rank that tie with the best one alone: others beat them, it does not."""
    if len(top) > 1:
        return []
    pairs = [(method, find_pair(comparison, top[0], method)) for method in rest]
    level = [method for method, pair in pairs if pair and pair.tie]
    return [["It ties with ", *names_of(level), f", {claims_of(comparison).beaten}."]] if level else []


def _lower_ties(comparison: Comparison, rest: list[Method]) -> list[Sentence]:
    """Methods below the first rank that share one."""
    groups: dict[int, list[Method]] = {}
    for method in rest:
        groups.setdefault(method.row.rank or 0, []).append(method)
    sentences: list[Sentence] = []
    for rank, group in groups.items():
        tuned = all(method.trained for method in group)
        if rank and len(group) > 1 and tuned and len(group) <= MOST_NAMES:
            p = _tie_p(comparison, group)
            words = f" tie for rank {rank} ({p})." if p else f" share rank {rank}."
            sentences.append([*names_of(group), words])
    return sentences[:MOST_SENTENCES]


def _tuned(comparison: Comparison) -> list[Sentence]:
    """How many learning rates, or other settings, each method was given to choose from."""
    tunings = [method.row.tuning for method in comparison.ranked if method.row.tuning]
    if not tunings:
        return []
    untried = {("stopped", 0)}  # there was no time to begin with it
    most = max(sum((each.status, each.step) not in untried for each in tuning.tried) for tuning in tunings)
    rates = all(tuning.kind == "rates" for tuning in tunings)
    what = "The learning rate of each method is" if rates else "The settings of each method are"
    return [[f"{what} the best of {most} on validation rows."], *_unsure(comparison)]


def _unsure(comparison: Comparison) -> list[Sentence]:
    """The method whose choice hangs most on which rows there are for it."""
    others = {
        method.shown: 1 - max(each.share for each in method.row.tuning.again)
        for method in comparison.ranked
        if method.row.tuning and method.row.tuning.again
    }
    name = max(others, key=others.__getitem__, default="")
    if not name or others[name] < UNSURE:
        return []
    share = display.share(others[name], 1)
    return [
        ["Other validation rows would have chosen otherwise for ", Name(name), f" in {share} of the draws."]
    ]


def _stopped(comparison: Comparison) -> list[Sentence]:
    """What early stopping saved, and what may be lost by it."""
    halving = comparison.board.halving
    if halving is None or not halving.stopped:
        return []
    untried = sum(len(decision.stopped) for decision in halving.decisions if not decision.share)
    stopped, saved = len(halving.stopped) - untried, display.share(halving.saved_share, 1)
    sentences: list[Sentence] = []
    if stopped:
        what = _configurations(stopped)
        sentences.append(
            [f"Halving stopped {what} early, saved {saved} of the steps, and may have lost a slow starter."]
        )
    if untried:
        sentences.append([f"For {_configurations(untried)} there was no time within {halving.budget_time}."])
    return sentences


def _configurations(count: int) -> str:
    return "1 configuration" if count == 1 else f"{count:,} configurations"


def _tie_p(comparison: Comparison, group: list[Method]) -> str:
    """`p = .41` of a tie, of the closest call among several; nothing if not all of them tie."""
    pairs = [find_pair(comparison, a, b) for i, a in enumerate(group) for b in group[i + 1 :]]
    if not all(pair and pair.tie for pair in pairs):
        return ""
    least = display.p_value(min(pair.p for pair in pairs if pair))
    only = len(group) == 2 or least == display.p_value(1.0)
    return least if only else least.replace("=", "\u2265")


def _against(comparison: Comparison, top: list[Method], kind: str) -> list[Sentence]:
    """Methods whose training was for nothing, so far as can be shown: each against a baseline on its base."""
    ranked = comparison.contest
    bases = {method.on: method for method in ranked if method.row.method == kind}
    useless, harmful = [], []
    for method in ranked:
        base = bases.get(method.on)
        if base is None or base in top or not method.trained or method.row.method == kind:
            continue
        pair = find_pair(comparison, method, base)
        if pair and pair.tie:
            useless.append(method)
        elif pair and pair.lead < 0:
            harmful.append(method)
    words = _yardstick(comparison, kind)
    if kind == "untuned" and len(bases) > 1:
        words = "the base that it tunes"
    elif any(base.row.random_head for base in bases.values()):
        words = f"{words} with a random head"
    sentences: list[Sentence] = []
    if useless:
        sentences.append([*names_of(useless), verb(useless, " ties with ", " tie with "), f"{words}."])
    if harmful:
        worse = verb(harmful, *claims_of(comparison).worse)
        sentences.append([*names_of(harmful), f"{worse}{words}."])
    return sentences


def _yardstick(comparison: Comparison, kind: str) -> str:
    """What methods are held against, in words, as it is in this task."""
    if kind == "majority" and comparison.has_label_sets:
        return "always giving the same labels"
    if kind == "majority" and comparison.tags_words:
        return "giving every word the commonest tag"
    return YARDSTICKS[kind]
