"""The verdict: which method is best, which tie, what to take, and what more data would tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deltatune.cli import show
from deltatune.report import display
from deltatune.report.costs import take
from deltatune.report.verdict import caveat
from deltatune.report.words import plain
from tests.report.boards import board, changed, of_models, with_times, words


def test_one_winner():
    found = words(board({"untuned": (0.3, 3), "lora": (0.6, 1), "prefix": (0.57, 2)}))
    assert found == (
        "lora is best: ROUGE-L F 60.0 [59.0, 61.0]. "
        "It beats prefix by 3.0 ROUGE-L points [2.0, 4.0] and untuned by 30.0 [29.0, 31.0]."
    )


def test_with_one_seed_leads_are_said_of_runs():
    methods = {"untuned": (0.3, 3), "lora": (0.6, 1), "prefix": (0.57, 2)}
    of_runs = (
        "Each method was trained with one seed, so this is said of these runs: another seed may turn it. "
        "Three seeds (seeds: [0, 1, 2]) say it of the methods."
    )
    assert words(board(methods, seeds=[0])) == (
        "lora is ahead: ROUGE-L F 60.0 [59.0, 61.0]. "
        "It is ahead of prefix by 3.0 ROUGE-L points [2.0, 4.0] and untuned by 30.0 [29.0, 31.0]. " + of_runs
    )
    ties = {frozenset(pair) for pair in ("ab", "bc", "bd", "cd")}
    four = {"a": (0.6, 1), "b": (0.59, 1), "c": (0.57, 2), "untuned": (0.56, 2)}
    found = words(board(four, ties, seeds=[0]))
    assert "a is ahead of c by 3.0 ROUGE-L points [2.0, 4.0]; b is not." in found
    assert not {"best:", "beats", "beat", "better", "worse"} & set(found.split())
    # where nothing is ahead, nothing has to be taken back
    both = {"a": (0.6, 1), "b": (0.59, 1)}
    assert words(board(both, {frozenset("ab")}, seeds=[0])).startswith("No method is ahead of another: a and")
    assert "another seed" not in words(board(both, {frozenset("ab")}, seeds=[0]))
    assert "another seed" not in words(board(methods))
    # what trains nothing has no luck of training
    assert "beats copy" in words(board({"knn": (0.6, 1), "copy": (0.5, 2)}, seeds=[0]))


def test_a_tie_at_the_top_names_the_least_lead_and_the_cheapest():
    found = words(
        board(
            {"lora": (0.6, 1), "adalora": (0.605, 1), "prefix": (0.57, 3)}, {frozenset(("lora", "adalora"))}
        )
    )
    assert found == (
        "adalora and lora tie for first place (ROUGE-L F 60.5 and 60.0; p = .41). "
        "Both beat prefix by at least 3.0 ROUGE-L points [2.0, 4.0]. "
        "Among the best, lora has the fewest trained parameters (4.00 k, 1.8\u00d7 fewer than adalora)."
    )


def test_times_are_compared_where_runs_took_turns_and_do_not_overlap():
    comparison = board({"lora": (0.6, 1), "qlora": (0.605, 1)}, {frozenset(("lora", "qlora"))})
    same = {"trained_parameters": 4000}  # equally many parameters are nobody's merit
    comparison = changed(comparison, lambda content: [row["cost"].update(same) for row in content["rows"]])
    fastest = "Among the best, lora trains fastest (40 s, 1.5\u00d7 faster than qlora)."
    assert words(with_times(comparison, {"lora": [38, 42], "qlora": [58, 62]})).endswith(fastest)
    for nothing_told in (
        {"lora": [38], "qlora": [62]},  # one run of each: the machine may have been busy
        {"lora": [38, 60], "qlora": [58, 62]},
        {"lora": [38, 42], "qlora": []},  # trained at once with others
    ):
        assert "Among the best" not in words(with_times(comparison, nothing_told))


def test_what_to_take_is_the_smallest_of_those_that_tie():
    comparison = board({"lora": (0.6, 1), "adalora": (0.605, 1)}, {frozenset(("lora", "adalora"))})
    runs = ["runs/my lora-s0", "runs/my lora-s1"]
    comparison = changed(comparison, lambda content: content["rows"][0].update(runs=runs))
    advice = take(comparison, Path("out dir"))
    assert plain([advice.words]).replace("\u202f", " ").replace("\u00a0", " ") == (
        "Take lora: ROUGE-L F 60.0 [59.0, 61.0], 4.00 k trained parameters, a file of 4.00 kB. "
        "It is the smallest of the 2 that tie for first place."
    )
    assert advice.command == "deltatune predict 'out dir/runs/my lora-s0' INPUT"


def test_nothing_is_taken_where_training_is_not_shown_to_help():
    methods = {"untuned": (0.6, 1), "lora": (0.605, 1)}
    advice = take(board(methods, {frozenset(("lora", "untuned"))}), Path())
    assert plain([advice.words]) == "Take untuned, which trains nothing: no method is shown to beat it."
    assert advice.command is None
    assert take(board({"lora": (0.6, 1), "prefix": (0.5, 2)}, tested=False), Path()) is None


def test_ties_below_the_first_rank_are_named():
    methods = {"lora": (0.6, 1), "prefix": (0.5, 2), "prompt": (0.49, 2)}
    assert "prefix and prompt tie for rank 2 (p = .41)." in words(
        board(methods, {frozenset(("prefix", "prompt"))})
    )
    # The same rank without a tie: each is beaten by equally many.
    assert "prefix and prompt share rank 2." in words(board(methods))


def test_of_many_losers_the_closest_is_named():
    methods = {"lora": (0.6, 1)} | {f"m{i}": (0.5 - i / 100, i + 2) for i in range(6)}
    closest = "the closest, m0, is 10.0 ROUGE-L points behind [9.0, 11.0]."
    assert f"It beats all 6 others; {closest}" in words(board(methods))
    # the third of them ties with the best, and the first two beat it
    found = words(board(methods, {frozenset(("lora", "m2"))}))
    assert f"It beats 5 others; {closest} It ties with m2, which other methods beat." in found


def test_a_best_method_that_trains_nothing_is_said_to():
    found = words(board({"untuned": (0.6, 1), "lora": (0.5, 2)}))
    assert found == (
        "untuned, which trains nothing, is best: ROUGE-L F 60.0 [59.0, 61.0]. "
        "It beats lora by 10.0 ROUGE-L points [9.0, 11.0]."
    )


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ("rougeL_f", "3.1 ROUGE-L points behind"),
        ("rougeL_p", "3.1 ROUGE-L precision points behind"),
        ("accuracy", "3.1 accuracy points behind"),
        ("loss", "0.031 behind in loss"),
        ("pearson", "0.031 behind in Pearson"),
        ("r2", "0.031 behind in R\u00b2"),
        ("Score_of_mine", "0.031 behind in Score_of_mine"),
    ],
)
def test_differences_say_of_what(metric, text):
    assert display.difference(metric, 0.031, None, behind=True) == text


def test_how_much_more_data_would_part_a_tie():
    comparison = board({"lora": (0.6, 1), "adalora": (0.605, 1)}, {frozenset(("lora", "adalora"))})
    assert "To tell" not in words(comparison)

    def needing(examples: int, seeds: int | None) -> str:
        need = {"examples_needed": examples, "seeds_needed": seeds}
        return words(changed(comparison, lambda content: content["pairs"][0].update(need)))

    assert needing(1200, None).endswith(
        "It would take about 1,200 test examples in all to tell adalora and lora apart, if they differ as "
        "much as they seem to."
    )
    assert "about 1,200 test examples in all or 9 seeds of each to tell" in needing(1200, 9)
    assert "about 2,600 test examples in all or 9 seeds" in needing(2549, 9)  # no guess is so exact


def test_equivalent_is_more_than_a_tie():
    names = ("lora", "adalora", "prefix")
    comparison = board(
        {"lora": (0.6, 1), "adalora": (0.605, 1), "prefix": (0.59, 1)},
        {frozenset((a, b)) for a in names for b in names},
    )

    def said(content: dict[str, Any]) -> None:
        content["worth"] = 0.01
        for pair in content["pairs"]:
            alike = {pair["a"], pair["b"]} == {"lora", "adalora"}
            pair |= {"equivalent": alike, "examples_needed": None if alike else 900}

    text = words(changed(comparison, said))
    assert "lora is equivalent to adalora: the difference is less than 1.0 ROUGE-L points." in text
    assert text.endswith(
        "It would take about 900 test examples in all to tell whether adalora and prefix differ by "
        "1.0 ROUGE-L points, if they differ as much as they seem to."
    )
    assert "equivalent" not in words(comparison)


def test_what_is_neither_better_nor_equivalent_is_said_to_be_unknown():
    names = ("lora", "adalora", "prefix")
    comparison = board(
        {"lora": (0.6, 1), "adalora": (0.59, 1), "prefix": (0.58, 1)},
        {frozenset((a, b)) for a in names for b in names},
    )

    def said(content: dict[str, Any]) -> None:
        content["worth"] = 0.01
        for pair in content["pairs"]:
            pair |= {"equivalent": {pair["a"], pair["b"]} == {"lora", "adalora"}, "examples_needed": None}

    text = words(changed(comparison, said))
    assert "Whether lora and prefix differ by 1.0 ROUGE-L points is not known yet." in text
    assert "not known" not in words(comparison)


def test_tuning_is_told():
    comparison = board({"lora": (0.6, 1), "prefix": (0.5, 2)})

    def tuned(kind: str) -> str:
        tuning = {"kind": kind, "tried": [{}, {}]}
        return words(changed(comparison, lambda content: content["rows"][0].update(tuning=tuning)))

    assert tuned("rates").endswith("The learning rate of each method is the best of 2 on validation rows.")
    assert tuned("search").endswith("The settings of each method are the best of 2 on validation rows.")


def test_early_stopping_tells_its_gain_and_its_risk():
    comparison = board({"lora": (0.6, 1), "prefix": (0.5, 2)})

    def halved(stopped: list[Any], saved: float, **more: Any) -> str:
        halving = {"stopped": stopped, "saved_share": saved, **more}
        return words(changed(comparison, lambda content: content.update(halving=halving)))

    assert "early" not in halved([], 0.0)
    assert halved([{}, {}], 0.375).endswith(
        "Halving stopped 2 configurations early, saved 38 % of the steps, and may have lost a slow starter."
    )
    untried = [{"share": 0.0, "stopped": ["a"]}]
    assert halved([{}, {}], 0.375, decisions=untried, budget_time="20m").endswith(
        "Halving stopped 1 configuration early, saved 38 % of the steps, and may have lost a slow starter. "
        "For 1 configuration there was no time within 20m."
    )


def test_a_tie_of_many_is_not_listed_in_full():
    names = [f"m{i}" for i in range(12)]
    methods = {name: (0.6 - i / 100, 1) for i, name in enumerate(names)}
    found = words(board(methods, {frozenset((a, b)) for a in names for b in names if a != b}))
    assert "m0, m1, m2, m3 and 8 others tie (ROUGE-L F 60.0 to 49.0; p \u2265 .41)." in found


def test_no_p_is_said_to_be_above_one():
    comparison = board(
        {"a": (0.6, 1), "b": (0.6, 1), "c": (0.6, 1)}, {frozenset(p) for p in ("ab", "bc", "ac")}
    )
    comparison = changed(comparison, lambda content: [pair.update(p=1.0) for pair in content["pairs"]])
    assert "a, b and c tie (ROUGE-L F 60.0, 60.0 and 60.0; p = 1)." in words(comparison)


def test_losers_to_the_same_methods_share_a_sentence():
    ties = {frozenset(pair) for pair in ("ab", "bc", "bd", "cd")}
    found = words(board({"a": (0.6, 1), "b": (0.59, 1), "c": (0.57, 2), "d": (0.56, 2)}, ties))
    assert "a beats c by 3.0 ROUGE-L points [2.0, 4.0] and d by 4.0 [3.0, 5.0]; b does not." in found


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0002, "p < .001"), (0.004, "p = .004"), (0.41, "p = .41"), (0.9999, "p = 1"), (0.0999, "p = .10")],
)
def test_p_values(p, text):
    assert display.p_value(p) == text.replace(" ", "\u00a0")


def test_ties_that_are_not_transitive():
    found = words(board({"a": (0.6, 1), "b": (0.59, 1), "c": (0.57, 2)}, {frozenset("ab"), frozenset("bc")}))
    assert "a beats c by 3.0 ROUGE-L points [2.0, 4.0]; b does not." in found


def test_all_tie():
    found = words(board({"lora": (0.6, 1), "untuned": (0.59, 1)}, {frozenset(("lora", "untuned"))}))
    assert found.startswith("No method beats another: lora and untuned tie")
    assert found.endswith("No method is shown to beat the untuned base.")


def test_lower_is_better():
    found = words(board({"lora": (1.2, 1), "prefix": (1.5, 2)}, metric="loss", higher=False))
    assert found == (
        "lora is best: Loss 1.200 [1.190, 1.210]. It beats prefix by 0.300 in loss [0.290, 0.310]."
    )
    methods = {"lora": (1.2, 1), "adalora": (1.21, 1), "prefix": (1.5, 3), "prompt": (1.6, 4)}
    found = words(board(methods, {frozenset(("lora", "adalora"))}, metric="perplexity", higher=False))
    assert "Both beat prefix by at least 0.29 in perplexity [0.28, 0.30]" in found
    assert " and prompt by at least 0.39 [0.38, 0.40]." in found
    many = {"lora": (1.0, 1)} | {f"m{i}": (1.5 + i / 10, i + 2) for i in range(6)}
    found = words(board(many, metric="loss", higher=False))
    assert "It beats all 6 others; the closest, m0, is 0.500 behind in loss [0.490, 0.510]." in found


def test_without_tests_nothing_is_claimed():
    comparison = board({"lora": (30.0, 1), "prefix": (20.0, 2)}, metric="bleu", tested=False)
    found = words(comparison)
    assert "beats" not in found
    assert "highest" in found
    assert "is best" not in found
    assert "differences were not tested" in caveat(comparison)


@pytest.mark.parametrize(
    ("methods", "start"),
    [
        ({"lora": (0.6, 1), "prompt": (None, None)}, "Only lora finished: ROUGE-L F 60.0"),
        ({"lora": (0.6, 1)}, "lora reaches ROUGE-L F 60.0 [59.0, 61.0]. Nothing was compared with it."),
        ({"lora": (None, None)}, "No method finished"),
    ],
)
def test_when_few_finish(methods, start):
    assert words(board(methods)).startswith(start)


def test_the_terminal_says_the_same_and_names_models(capsys):
    methods = {"untuned": (0.3, 3), "lora": (0.6, 1), "adalora": (0.605, 1)}
    comparison = board(methods, {frozenset(("lora", "adalora"))})

    def change(content: dict[str, Any]) -> None:
        for pair in content["pairs"]:
            ties = {pair["a"], pair["b"]} == {"lora", "adalora"}
            pair |= {"examples_needed": 1200 if ties else None, "seeds_needed": 9 if ties else None}
        for row in content["rows"]:
            row["cost"]["total_parameters"] = 77_000_000

    comparison = changed(comparison, change)
    comparison = of_models(comparison, {"untuned": "org/t5", "lora": "org/t5", "adalora": "org/bart"})
    show.leaderboard(comparison.board, Path("out"))
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "It would take about 1,200 test examples in all or 9 seeds of each to tell adalora on bart and lora "
        "on t5 apart" in said
    )
    assert said.count("would take about") == 1
    assert "model, parameters" in said
    assert "bart, 77.0 M" in said
