"""The outcome of a comparison in words that claim no more than the statistics do."""

from __future__ import annotations

from typing import Any

from deltatune.report.display import duration, interval, listing, metric, size, style
from deltatune.report.load import Comparison, Method

NUMBERS = {2: "Both", 3: "All three", 4: "All four", 5: "All five"}


class Name(str):
    """The name of a method within a sentence, so that a page can set it in bold."""

    __slots__ = ()


Sentence = list[str]


def verdict(comparison: Comparison) -> list[Sentence]:
    """Sentences, each a list of plain words and of `Name`s; joined, they read as one text."""
    ranked = comparison.ranked
    if not ranked:
        return [["No method finished, so there is nothing to compare."]]
    if len(ranked) > 1 and not comparison.board.get("pairs"):
        return [_untested(comparison, ranked[0]), *_failures(comparison)]
    top = [method for method in ranked if method.row.get("rank") == ranked[0].row.get("rank")]
    rest = [method for method in ranked if method not in top]
    sentences = [_opening(comparison, top, alone=len(ranked) == 1)]
    sentences += _beaten(comparison, top, rest)
    sentences += _against_untuned(comparison, top)
    if len(top) > 1 and any(method.row.get("method") == "untuned" for method in top):
        sentences.append(["So no method is shown to be better than leaving the base untuned."])
    elif len(top) > 1:
        sentences += _cheapest(top)
    return sentences + _failures(comparison)


def plain(sentences: list[Sentence]) -> str:
    """The sentences as one text."""
    return " ".join("".join(sentence) for sentence in sentences)


def caveat(comparison: Comparison) -> str:
    """What the intervals are made of."""
    tests = comparison.first_result.get("data", {}).get("test")
    seeds = max((len(method.row.get("seeds") or [0]) for method in comparison.methods), default=1)
    examples = f"{tests} test examples" if tests else "the test examples"
    if not any(method.row.get("interval") for method in comparison.methods):
        return (
            f"{style(comparison.primary).label} on {examples}; it has no value for one example, so there "
            "are no intervals and differences were not tested."
        )
    text = (
        f"Brackets are 95\u202f% intervals, by bootstrap over {examples}"
        f"{f' and {seeds} seeds' if seeds > 1 else ''}. Methods share a rank unless their difference is "
        "significant after correction for the number of pairs (Holm)."
    )
    if seeds == 1:
        text += " With one seed the intervals leave out the luck of training: another may shift each method."
    return text


def find_pair(comparison: Comparison, a: Method, b: Method) -> dict[str, Any] | None:
    """The comparison of `a` with `b`, as a lead of `a` (positive is better), or None if it was not made."""
    sign = 1 if comparison.higher_is_better else -1
    for pair in comparison.board.get("pairs") or []:
        if {pair["a"], pair["b"]} != {a.name, b.name} or a.name == b.name:
            continue
        turn = sign if pair["a"] == a.name else -sign
        bounds = sorted([turn * pair["low"], turn * pair["high"]])
        return {"lead": turn * pair["difference"], "interval": bounds, "tie": pair["tie"], "p": pair["p"]}
    return None


def _opening(comparison: Comparison, top: list[Method], *, alone: bool) -> Sentence:
    key, label = comparison.primary, style(comparison.primary).label
    first = top[0]
    value = (
        f"{label} {metric(key, comparison.value(first))} {interval(key, first.row.get('interval'))}".strip()
    )
    if alone:
        return ["Only ", Name(first.name), f" finished: {value}."]
    if len(top) == 1:
        return [Name(first.name), f" is best: {value}."]
    values = listing([metric(key, comparison.value(method)) for method in top])
    if len(top) == len(comparison.ranked):
        return ["No method can be told apart from the best: ", *_names(top), f" tie ({label} {values})."]
    return [*_names(top), f" tie for first place ({label} {values})."]


def _untested(comparison: Comparison, first: Method) -> Sentence:
    key = comparison.primary
    extreme = "highest" if comparison.higher_is_better else "lowest"
    value = metric(key, comparison.value(first))
    return [
        Name(first.name),
        f" has the {extreme} {style(key).label}, {value}, but whether the difference is real was not tested.",
    ]


def _failures(comparison: Comparison) -> list[Sentence]:
    if not comparison.failed:
        return []
    return [[*_names(comparison.failed), " failed; the reason is given below."]]


def _beaten(comparison: Comparison, top: list[Method], rest: list[Method]) -> list[Sentence]:
    """What the top methods beat, by the least of their leads; then what only some of them beat."""
    clear: Sentence = []
    partly: list[Sentence] = []
    for method in rest:
        leads = {best.name: find_pair(comparison, best, method) for best in top}
        won = {name: pair for name, pair in leads.items() if pair and not pair["tie"] and pair["lead"] > 0}
        if not won:
            continue
        least = min(won.values(), key=lambda pair: float(pair["lead"]))
        if len(won) == len(top):
            words = _gap(comparison, least, named=not clear, least=len(won) > 1)
            clear += [", " if clear else "", Name(method.name), words]
        else:
            level = [best for best in top if best.name not in won]
            words = _gap(comparison, least, named=True, least=len(won) > 1)
            winners = [best for best in top if best.name in won]
            verb = " beats " if len(winners) == 1 else " beat "
            apart = [", which cannot be told apart from ", *_names(level), "."]
            partly.append([*_names(winners), verb, Name(method.name), words, *apart])
    if not clear:
        return partly
    if (last := max((i for i, part in enumerate(clear) if part == ", "), default=None)) is not None:
        clear[last] = " and "
    subject = "It beats " if len(top) == 1 else f"{NUMBERS.get(len(top), 'All of them')} beat "
    return [[subject, *clear, "."], *partly]


def _gap(comparison: Comparison, pair: dict[str, Any], *, named: bool, least: bool) -> str:
    """` by at least 3.1 ROUGE-L F [2.2, 4.0]`; the metric is named once a sentence."""
    key = comparison.primary
    words = [" by at least" if least else " by", metric(key, pair["lead"], unit=False)]
    words += [style(key).label] if named else []
    return " ".join([*words, interval(key, pair["interval"])])


def _against_untuned(comparison: Comparison, top: list[Method]) -> list[Sentence]:
    """Methods whose training was for nothing, so far as can be shown."""
    ranked = comparison.ranked
    untuned = next((method for method in ranked if method.row.get("method") == "untuned"), None)
    if untuned is None or untuned in top:
        return []
    useless, harmful = [], []
    for method in ranked:
        pair = find_pair(comparison, method, untuned)
        if pair and pair["tie"]:
            useless.append(method)
        elif pair and pair["lead"] < 0:
            harmful.append(method)
    sentences: list[Sentence] = []
    if useless:
        sentences.append([*_names(useless), " cannot be told apart from the untuned base."])
    if harmful:
        verb = " is" if len(harmful) == 1 else " are"
        sentences.append([*_names(harmful), f"{verb} worse than the untuned base."])
    return sentences


def _cheapest(top: list[Method]) -> list[Sentence]:
    """Which of the methods that tie costs least."""
    timed = [method for method in top if method.cost.get("train_seconds")]
    sized = [method for method in top if method.cost.get("file_bytes")]
    if len(timed) < 2 or len(sized) < 2:
        return []
    fastest = min(timed, key=lambda method: float(method.cost["train_seconds"]))
    smallest = min(sized, key=lambda method: float(method.cost["file_bytes"]))
    fast = f"trains fastest ({duration(fastest.cost['train_seconds'])})"
    small = f"has the smallest file ({size(smallest.cost['file_bytes'])})"
    if fastest is smallest:
        return [["Of these, ", Name(fastest.name), f" costs least: it {fast} and {small}."]]
    return [["Of these, ", Name(fastest.name), f" {fast} and ", Name(smallest.name), f" {small}."]]


def _names(methods: list[Method]) -> Sentence:
    """`a`, `a and b`, `a, b and c`, with the names marked."""
    words: Sentence = []
    for index, method in enumerate(methods):
        if index:
            words.append(" and " if index == len(methods) - 1 else ", ")
        words.append(Name(method.name))
    return words
