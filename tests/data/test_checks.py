"""Guard rails: duplicates of every kind are found and named, and innocent rows are left in peace."""

from __future__ import annotations

import io
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import chi2_contingency

from deltatune.data import Row
from deltatune.data.checks import check_rows, truncation_warnings
from deltatune.data.encode import EncodeReport
from deltatune.data.leakage import SIMILAR, _Texts, apart, leaks
from deltatune.data.shift import shifts

WORDS = [
    f"{first}{second}" for first in ("ba", "no", "kel", "tri", "su") for second in ("ra", "mi", "ton", "ves")
]


def rows(inputs: Sequence[object], targets: Sequence[str] | None = None, name: str = "r") -> list[Row]:
    """Rows with free texts for targets, unless they are given."""
    targets = targets or [f"text {index}" for index in range(len(inputs))]
    return [
        Row(f"{name}{i}", value, target, {})  # type: ignore[arg-type]
        for i, (value, target) in enumerate(zip(inputs, targets, strict=True))
    ]


def texts(count: int, length: int = 12, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=length)) for _ in range(count)]


def test_equal_inputs_are_counted_by_part() -> None:
    found = leaks(rows(["a", "b"]), rows(["c", "b"]), rows(["c", "a", "d", "a"]))
    assert [(leak.part, leak.other, len(leak.exact), leak.rows) for leak in found] == [
        ("validation", "training", 1, 2),
        ("test", "training", 2, 4),
        ("test", "validation", 1, 4),
    ]
    assert (
        found[0]
        .warnings()[0]
        .startswith(
            "1 of 2 validation rows have the same input as a training row "
            "(the first: row r1 = training row r1, 'b')"
        )
    )
    assert leaks(rows(["a"]), rows(["b"]), rows(["c"])) == []
    assert leaks(rows(["a"]), [], []) == []


def test_near_duplicates_are_found_and_shown() -> None:
    known = texts(300)
    changed = known[17].replace(" ", "  ").upper(), known[40] + " indeed", known[99][:-4]
    found = leaks(rows(known), [], rows([*changed, *texts(50, seed=1)], name="t"))
    assert [(pair.row, pair.other) for pair in found[0].near] == [("t0", "r17"), ("t1", "r40"), ("t2", "r99")]
    assert found[0].near[0].similarity == 1  # case and blanks do not count
    assert all(pair.similarity >= SIMILAR for pair in found[0].near)
    (warning,) = found[0].warnings()
    assert "3 of 53 test rows have nearly the same input as a training row" in warning
    assert "row t0" in warning
    assert "training row r17" in warning


def test_a_template_does_not_make_texts_alike() -> None:
    frame = "Please read the following sentence with care and then say what it is about: {} Your answer:"
    assert leaks(rows([frame.format(t) for t in texts(200, 4)]), [],
                 rows([frame.format(t) for t in texts(50, 4, seed=1)])) == []  # fmt: skip


def test_near_duplicates_are_shown_where_they_differ() -> None:
    """Long texts that begin alike."""
    known = texts(40, 60)
    words = known[3].split()
    changed = [*words[:40], "ELSEWHERE", *words[41:]]
    found = leaks(rows(known), [], rows([" ".join(changed)], name="t"))
    (pair,) = found[0].near
    one, other = pair.excerpt, pair.other_excerpt
    assert one != other
    assert "ELSEWHERE" in one
    assert words[40] in other
    assert all(len(shown) <= 60 and shown.startswith("…") and shown.endswith("…") for shown in (one, other))
    before = one.partition("ELSEWHERE")[0]
    assert other.startswith(before)
    assert before[1:].strip() in known[3]


def test_the_place_where_two_texts_differ() -> None:
    long = "the same words again and again " * 6
    assert apart("one  text", "one texts") == ("one text", "one texts")
    assert apart(long + "end.", long + "end") == (f"…{long[-16:]}end.", f"…{long[-16:]}end")
    assert apart("The " + long + "A", "the " + long + "B")[0].endswith("again A")  # not the case of its t
    assert apart("The " + long, "the " + long) == (
        "The the same words again and again the same words again and…",
        "the the same words again and again the same words again and…",
    )
    for same in (apart(long, long), apart(long, long.replace(" ", "  "))):
        assert same[0] == same[1] == "the same words again and again the same words again and aga…"
    assert apart("", "x") == ("", "x")


def test_similarity_is_that_of_sets_of_runs() -> None:
    sketch = _Texts(rows(["abcdefgh", "abcdefgx", "abc", "", "zzzzz"]))
    assert sketch.similarity(0, 1) == pytest.approx(3 / 5)
    assert sketch.similarity(0, 0) == 1
    assert sketch.nearest([2, 3, 4], range(0, 2)) == []


def test_short_empty_and_foreign_texts_are_no_trouble() -> None:
    found = leaks(rows(["ü", "日本語のテキストです", "x", "e"]), [], rows(["ü", "日本語のテキストです", "y"]))
    assert [pair.row for pair in found[0].exact] == ["r0", "r1"]
    assert found[0].near == []


def test_ten_thousand_rows_take_seconds() -> None:
    known = texts(9000, 30)
    fresh = texts(998, 30, seed=1)
    begun = time.process_time()
    found = leaks(rows(known), [], rows([*fresh, known[3] + ".", known[4] + "!"]))
    assert time.process_time() - begun < 20  # about 3 on one idle core
    assert len(found[0].near) == 2


def picture(seed: int, size: int = 96) -> NDArray[np.uint8]:
    """A smooth image: all share a bright centre, as X-rays of a chest do."""
    noise = np.random.default_rng(seed).uniform(0, 90, (6, 6)).astype(np.uint8)
    soft = np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return np.clip(soft + 120 * np.exp(-2 * (x**2 + y**2)), 0, 255).astype(np.uint8)


def recompressed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(image).resize((70, 70)).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


def test_images_that_were_saved_anew_or_brightened_are_found() -> None:
    known = [picture(seed) for seed in range(40)]
    brighter = np.clip(known[7] * 0.8 + 30, 0, 255).astype(np.uint8)
    fresh = [picture(seed) for seed in range(100, 120)]
    found = leaks(rows(known), [], rows([known[3], recompressed(known[5]), brighter, *fresh]))
    assert [(pair.row, pair.other) for pair in found[0].exact] == [("r0", "r3")]
    assert [(pair.row, pair.other) for pair in found[0].near] == [("r1", "r5"), ("r2", "r7")]


def test_image_files_are_compared_by_content(tmp_path: Path) -> None:
    files = []
    for seed in range(12):
        files.append(tmp_path / f"{seed}.png")
        Image.fromarray(picture(seed)).save(files[-1])
    saved_anew = tmp_path / "copy.jpg"
    Image.fromarray(picture(4)).save(saved_anew)
    found = leaks(rows(files), [], rows([saved_anew]))
    assert (found[0].near[0].excerpt, found[0].near[0].other_excerpt) == ("copy.jpg", "4.png")


def test_classes_are_counted_and_the_majority_is_the_baseline() -> None:
    labels = ["no"] * 54 + ["yes"] * 6
    train = rows(texts(60), labels)
    check = check_rows(train, [], rows(texts(10, seed=1), ["no"] * 9 + ["yes"], name="t"))
    assert check.classes == {"train": {"no": 54, "yes": 6}, "validation": {}, "test": {"no": 9, "yes": 1}}
    assert check.majority == ("no", 0.9)
    assert check.warnings() == [
        "always answering 'no' is right in 90% of the test rows, so accuracy tells little; set "
        "evaluation.primary to macro_f1 or mcc."
    ]
    assert check.warnings("macro_f1") == [
        "always answering 'no' is right in 90% of the test rows, so accuracy tells little."
    ]
    rare = check_rows(rows(texts(60), ["no"] * 28 + ["yes"] * 29 + ["maybe"] * 3), [], [])
    assert rare.warnings() == ["the class 'maybe' has 3 training rows only."]


def test_targets_of_a_classification_are_classes_however_few_the_rows() -> None:
    train, test = rows(texts(12), list("abcdef") * 2), rows(texts(6, seed=1), list("aaaabc"), name="t")
    assert check_rows(train, [], test).classes is None  # they might be texts to write
    check = check_rows(train, [], test, labelled=True)
    assert check.classes is not None
    assert check.classes["train"] == dict.fromkeys("abcdef", 2)
    assert check.majority == ("a", 4 / 6)
    assert check.warnings() == [
        *(f"the class {label!r} has 2 training rows only." for label in "def"),
        "3 more classes have fewer than 5 training rows each.",
        "the classes 'd', 'e', 'f' have no test row, so no score says anything about them.",
    ]


def shifted(
    train: dict[str, int], test: dict[str, int], validation: dict[str, int] | None = None
) -> list[str]:
    """Warnings about rows of these classes."""
    parts = []
    for seed, counts in enumerate((train, validation or {}, test)):
        labels = [label for label, count in counts.items() for _ in range(count)]
        parts.append(rows(texts(len(labels), 16, seed=seed), labels, name="tvx"[seed]))
    return [text for text in check_rows(*parts).warnings() if "spread alike" in text]


def test_a_shift_of_classes_is_told_with_its_shares() -> None:
    (found,) = shifted({"1": 900, "0": 100}, {"1": 62, "0": 38}, {"1": 180, "0": 20})
    assert found.startswith(
        "the classes are not spread alike: '1' is 90% of the training rows, 90% of the validation rows and "
        "62% of the test rows (test against training: chi-square "
    )
    assert "test against validation" in found
    assert "validation against training" not in found


def test_small_or_random_differences_of_classes_are_let_pass() -> None:
    assert shifted({"1": 600, "0": 400}, {"1": 5, "0": 5}) == []
    assert shifted({"1": 700, "0": 300}, {"1": 72, "0": 28}) == []
    large = {"train": {"1": 60_000, "0": 40_000}, "test": {"1": 6_200, "0": 3_800}}
    assert shifts(large) == []  # real, and of no weight


def test_random_splits_are_hardly_ever_warned_of() -> None:
    random_ = np.random.default_rng(0)
    labels = random_.choice(["a", "b", "c"], p=[0.7, 0.2, 0.1], size=400)
    alarms = 0
    for _ in range(150):
        random_.shuffle(labels)
        train, test = (dict(Counter(map(str, part))) for part in (labels[60:], labels[:60]))
        alarms += bool(shifts({"train": train, "test": test}))
    assert alarms <= 2


def test_the_statistic_is_that_of_scipy() -> None:
    train, test = {"a": 100, "b": 60, "c": 40}, {"a": 20, "b": 50, "c": 30}
    (found,) = shifts({"train": train, "test": test})
    reference = chi2_contingency([list(train.values()), list(test.values())], correction=False)
    assert found.chi_square == pytest.approx(reference.statistic)
    assert found.p == pytest.approx(reference.pvalue, abs=5e-4)
    assert found.distance == pytest.approx(0.3)


def test_words_for_a_missing_label_are_told() -> None:
    check = check_rows(rows(texts(60), ["x"] * 28 + ["y"] * 29 + ["NaN"] * 3), [], [])
    assert check.unlabelled == {"train": {"NaN": 3}}
    assert any("3 training rows have the target 'NaN'" in text for text in check.warnings())
    opinions = rows(texts(60), ["-1", "0", "1"] * 20)
    assert check_rows(opinions, [], []).unlabelled == {}
    marks = rows(texts(80), ["-1", "0", "1", "2"] * 20)
    assert check_rows(marks, [], []).unlabelled == {"train": {"-1": 20}}


def test_free_texts_are_no_classes() -> None:
    check = check_rows(rows(texts(30)), [], [])
    assert (check.classes, check.majority, check.warnings()) == (None, None, [])


def test_contradictory_labels_are_shown() -> None:
    inputs = [*texts(40), "the same", "the same", "twice", "twice"]
    check = check_rows(rows(inputs, ["a", "b"] * 20 + ["a", "b", "a", "a"]), [], [])
    (found,) = check.contradictions
    assert (found.rows, found.labels, found.excerpt) == (["r40", "r41"], ["a", "b"], "the same")
    assert check.repeated == 2
    assert "1 input of the training rows has contradictory labels" in check.warnings()[0]


def test_truncation_is_told_from_one_in_a_hundred_on() -> None:
    assert truncation_warnings(EncodeReport(200, 1000, 2, 2)) == []
    assert truncation_warnings(EncodeReport(200, 1000, 3, 100), "test") == [
        "3 of 200 test inputs are longer than data.max_input_tokens and are cut off (2%).",
        "100 of 200 test targets are longer than data.max_target_tokens and are cut off (50%).",
    ]
