"""What the verdict goes by: untuned bases and baselines, and the chance that intervals hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deltatune.report.costs import take
from deltatune.report.verdict import caveat
from tests.report.boards import board, changed, of_models, with_cost, words


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
        "Runs of lora that differ in nothing but the seed (3) are 0.8 apart on average, 1.3 at most, in "
        "ROUGE-L: a difference of that size between two runs means nothing." in said
    )
    assert "nothing but the seed" not in caveat(comparison)


def test_one_seed_is_owned_up_to():
    assert "luck of training" in caveat(board({"lora": (0.6, 1), "prefix": (0.5, 2)}, seeds=[0]))


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
