"""The kit for tasks, over our own and the one of docs/how-to/extending.md; and tasks that break a promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from deltatune.tasks import TASKS
from deltatune.testing import Check, task_checks
from deltatune.testing import tasks as kit
from tests.extending import module

test_as_on_the_page = module("test_stars").test_stars
Stars = type(module("stars").TASK)
TEXTS = ("one bad book", "two fair songs", "three good ships and so on", "four great stars of the year")
ROWS = [{"input": TEXTS[number % 4], "target": TEXTS[number % 4][:3]} for number in range(40)]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path / "cache"))


SLOW = {"methods_are_compared": [pytest.mark.slow]}
CHATS = {"source": ROWS, "split": {"validation": 0.1, "test": 0.1}, "chat_template": "plain"}
OURS = [
    pytest.param(check, id=f"{name}-{check}", marks=SLOW.get(check.name, []))
    for name in ("text-to-text", "causal-lm", "conversation", "text-classification")
    for check in task_checks(TASKS.get(name), CHATS if name == "conversation" else ROWS)
]


@pytest.mark.parametrize("check", OURS)
def test_our_tasks_about_text(check: Check) -> None:
    check()


def test_our_task_about_images(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for label, shade in (("dark", 50), ("light", 200)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(shade - 30, shade + 30, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    data = {"source": str(tmp_path / "photos"), "split": {"validation": 0.2, "test": 0.2}}
    kit.check_task(TASKS.get("image-classification"), data)


class Padded(Stars):
    """Its loss counts a row as often as it has tokens."""

    def loss(self, outputs: Any, targets: Any) -> Any:
        return super().loss(outputs, targets) * len(outputs)


class Miscounted(Stars):
    def supervised(self, feature: Any) -> int:
        return 2


class Bare(Stars):
    example: ClassVar = "task: moons"


class Short(Stars):
    def longest(self, rows: int, data: Any, has_targets: bool) -> Any:
        return super().longest(rows, data.model_copy(update={"max_input_tokens": 2}), has_targets)


class Lost(Stars):
    def places(self, features: Any, new: int) -> Any:
        return [("encoder", {})]


@pytest.mark.parametrize(
    ("task", "check", "words"),
    [
        (Padded, "the_loss_is_a_sum", "and its rows' losses add up to"),
        (Miscounted, "targets_are_counted", r"`supervised` says \[2, 2, 2, 2, 2\], and `count` \[1"),
        (Bare, "explains_itself", "its example is no recipe with `task: stars`"),
        (Short, "sizes_are_those_of_batches", "and `longest` says 2 at most"),
        (Lost, "places_are_bounded", "'encoder' is neither"),
    ],
)
def test_a_broken_promise_is_named(task: Any, check: str, words: str) -> None:
    rows = [{"input": row["input"], "target": str(number % 4)} for number, row in enumerate(ROWS)]
    [broken] = [each for each in task_checks(task(), rows) if each.name == check]
    with pytest.raises(AssertionError, match=words) as caught:
        broken()
    assert str(caught.value).startswith(f"stars breaks the promise {check!r}: ")


def test_a_base_without_a_tiny_one_has_to_be_named() -> None:
    class Tables(Stars):
        auto_class: ClassVar = "AutoModelForTableQuestionAnswering"

    checks = {check.name: check for check in task_checks(Tables(), ROWS)}
    with pytest.raises(AssertionError, match="no tiny model for AutoModelForTableQuestionAnswering: name a"):
        checks["a_run_proves_itself"]()
