from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltatune.cli import show
from deltatune.report import display
from deltatune.report.costs import take
from deltatune.report.load import Comparison, of_board
from deltatune.report.verdict import caveat, verdict
from deltatune.report.words import plain
from deltatune.results import Leaderboard


def board(
    methods: dict[str, tuple[float | None, int | None]],
    ties: set[frozenset[str]] = frozenset(),
    *,
    metric: str = "rougeL_f",
    higher: bool = True,
    tested: bool = True,
) -> Comparison:
    """Build a comparison from {name: (value, rank)}; every pair not in `ties` differs."""
    rows: list[dict[str, Any]] = []
    for name, (value, rank) in methods.items():
        done = value is not None
        cost = (
            {"train_seconds": len(name) * 10.0, "trained_parameters": len(name) * 1000, "file_bytes": 4e3}
            if name != "untuned"
            else {}
        )
        rows.append(
            {
                "name": name, "method": name, "status": "done" if done else "failed", "rank": rank,
                "seeds": [0],
                "metrics": {metric: value} if done else {}, "cost": cost, "runs": [],
                "interval": [value - 0.01, value + 0.01] if done and tested else None,
            }
        )  # fmt: skip
    names = [name for name, (value, _) in methods.items() if value is not None]
    pairs = []  # a tie has p = .41
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            gap = methods[a][0] - methods[b][0]
            pairs.append(
                {
                    "a": a, "b": b, "difference": gap, "low": gap - 0.01, "high": gap + 0.01,
                    "p": 0.41 if frozenset((a, b)) in ties else 0.01, "tie": frozenset((a, b)) in ties,
                }
            )  # fmt: skip
    content = {"primary_metric": metric, "higher_is_better": higher, "pairs": pairs if tested else []}
    return of_content(content | {"rows": rows})


def of_content(content: dict[str, Any]) -> Comparison:
    return of_board(Leaderboard.of(content, "leaderboard.json", remedy=""), Path())


def changed(comparison: Comparison, change: Callable[[dict[str, Any]], object]) -> Comparison:
    """The comparison whose leaderboard.json is changed."""
    content = comparison.board.as_dict()
    change(content)
    return of_content(content)


def words(comparison: Comparison) -> str:
    return plain(verdict(comparison)).replace("\u202f", " ").replace("\u00a0", " ")


def test_one_winner():
    found = words(board({"untuned": (0.3, 3), "lora": (0.6, 1), "prefix": (0.57, 2)}))
    assert found == (
        "lora is best: ROUGE-L F 60.0 [59.0, 61.0]. "
        "It beats prefix by 3.0 ROUGE-L points [2.0, 4.0] and untuned by 30.0 [29.0, 31.0]."
    )


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


def with_times(comparison: Comparison, times: dict[str, list[float]]) -> Comparison:
    def change(content: dict[str, Any]) -> None:
        for row in content["rows"]:
            row["train_seconds"] = times[row["name"]]

    return changed(comparison, change)


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
        "For 1 configuration more there was no time within 20m."
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


def test_training_that_was_for_nothing_or_worse():
    methods = {"lora": (0.6, 1), "untuned": (0.5, 2), "prompt": (0.49, 2), "full": (0.3, 4)}
    found = words(board(methods, {frozenset(("untuned", "prompt"))}))
    assert "prompt ties with the untuned base." in found
    assert "full is worse than the untuned base." in found


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("text-classification", "always answering with the largest class"),
        ("multi-label-classification", "always giving the same labels"),
        ("token-classification", "giving every word the commonest tag"),
    ],
)
def test_what_the_majority_does_is_said_of_the_task(task, said):
    tie = board({"lora": (0.6, 1), "majority": (0.6, 1)}, {frozenset(("lora", "majority"))})
    assert f"shown to beat {said}." in words(changed(tie, lambda content: content.update(task=task)))


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


def of_models(comparison: Comparison, models: dict[str, str]) -> Comparison:
    """The comparison with a base for each method."""
    content = comparison.board.as_dict() | {"models": list(dict.fromkeys(models.values()))}
    for row in content["rows"]:
        row["model"] = models[row["name"]]
    return of_content(content)


def of_first_words(content: dict[str, Any]) -> None:
    """The method of each row is the first word of its name."""
    for row in content["rows"]:
        row["method"] = row["name"].split()[0]


def test_methods_on_several_models_are_named_with_them():
    methods = {"lora": (0.6, 1), "adalora": (0.55, 2), "lora bart": (0.5, 3)}
    bases = {"lora": "org/t5", "adalora": "org/bart", "lora bart": "org/bart"}
    found = words(of_models(board(methods), bases))
    assert found.startswith("lora on t5 is best")
    assert "adalora on bart by 5.0 ROUGE-L points" in found
    assert "lora bart by 10.0" in found  # its label says it


def test_a_method_is_held_against_the_untuned_form_of_its_own_base():
    methods = {"lora t5": (0.6, 1), "untuned t5": (0.5, 2), "lora bart": (0.3, 3), "untuned bart": (0.29, 3)}
    comparison = board(methods, {frozenset(("lora bart", "untuned bart"))})
    comparison = changed(comparison, of_first_words)
    found = words(of_models(comparison, {name: name.split()[1] for name in methods}))
    assert "lora bart ties with the base that it tunes." in found
    assert "worse than" not in found
    tied = {frozenset(("lora t5", "untuned bart"))}
    comparison = board({"lora t5": (0.6, 1), "untuned bart": (0.59, 1), "untuned t5": (0.3, 3)}, tied)
    comparison = changed(comparison, of_first_words)
    found = words(of_models(comparison, {name: name.split()[1] for name in methods}))
    assert "No method is shown to beat untuned bart." in found


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


def test_what_intervals_hold_is_said():
    comparison = board({"lora": (0.6, 1), "prefix": (0.5, 2)})

    def said(**fields: object) -> str:
        return caveat(changed(comparison, lambda content: content.update(fields)))

    assert "splits" not in said()
    assert "choosing" not in said()
    assert "in each of 3 splits" in said(splits=3)
    assert " and the choosing of settings on validation rows. " in said(choosing=True)
    assert "They leave out that other validation rows might have chosen other settings." in said(
        choosing=False
    )


def test_whose_choice_hangs_on_the_validation_rows_is_said():
    comparison = board({"lora": (0.6, 1), "prefix": (0.5, 2)})

    def said(*shares: float) -> str:
        again = [
            {"label": f"lr={number}", "share": share, "score": 0.5} for number, share in enumerate(shares)
        ]
        tuning = {"kind": "rates", "tried": [{}, {}], "again": again}
        return words(changed(comparison, lambda content: content["rows"][1].update(tuning=tuning)))

    assert "Other validation rows would have chosen otherwise for prefix in 38" in said(0.62, 0.38)
    assert "otherwise" not in said(0.95, 0.05)
    assert "otherwise" not in said()


def test_how_far_two_equal_things_lie_apart_is_said():
    comparison = board({"lora": (0.6, 1), "prefix": (0.5, 2)})
    noise = {"name": "lora", "seeds": 3, "mean": 0.008, "largest": 0.013}
    said = caveat(changed(comparison, lambda content: content.update(noise=noise)))
    assert (
        "Trainings of lora that differ in nothing but the seed (3) are 0.8 apart on average, 1.3 at most, in "
        "ROUGE-L: a difference of that size between two runs means nothing." in said
    )
    assert "nothing but the seed" not in caveat(comparison)


def test_one_seed_is_owned_up_to():
    assert "luck of training" in caveat(board({"lora": (0.6, 1), "prefix": (0.5, 2)}))


def with_cost(comparison: Comparison, costs: dict[str, dict[str, float]]) -> Comparison:
    def change(content: dict[str, Any]) -> None:
        for row in content["rows"]:
            row["cost"] = costs[row["name"]]

    return changed(comparison, change)


def test_whether_tuning_is_worth_it_is_said_where_something_answers_without() -> None:
    found = {"lora": (0.6, 1), "few_shot": (0.59, 1), "copy": (0.3, 3), "untuned": (0.2, 4)}
    ties = {frozenset(("lora", "few_shot"))}
    costs = {
        name: {"train_seconds": 0.0, "evaluation_seconds": 2.0, "trained_parameters": 0} for name in found
    }
    costs["lora"] = {"train_seconds": 40.0, "evaluation_seconds": 2.0, "trained_parameters": 1000}
    costs["few_shot"]["evaluation_seconds"] = 6.0
    said = words(with_cost(board(found, ties), costs))
    assert (
        "Tuning is not shown to be worth it here: few_shot, which trains nothing, ties with lora, the best "
        "that is trained; it spares 40 s of training and takes 3.0\u00d7 the time to answer the test rows."
    ) in said
    assert "largest class" not in said
    assert take(with_cost(board(found, ties), costs), Path()).words[1] == "few_shot"
    assert "Tuning is worth it here: lora beats all that trains nothing, few_shot by 1.0 ROUGE-L" in words(
        board(found)
    )
    better = {"knn": (0.7, 1), "lora": (0.6, 2)}
    assert "knn, which trains nothing, is better than lora, the best that is trained" in words(board(better))
    assert "Tuning" not in words(board({"lora": (0.6, 1), "untuned": (0.5, 2)}))
