"""Tags of words: schemes, and entities as seqeval finds them."""

from __future__ import annotations

import random

import pytest

from deltatune.tasks.tags import Entity, Tagging, ill_formed, scheme_of, whole_set

TAGS = {
    "IOB2": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-a-b", "I-a-b"],
    "IOBES": ["O", *(f"{place}-{kind}" for kind in ("PER", "LOC") for place in "BIES")],
    "IO": ["O", "I-PER", "I-LOC"],
    "untyped": ["O", "B", "I"],
    "a class like a letter": ["O", "B-E", "I-E"],
    "underscore": ["O", "B_PER", "I_PER", "B_LOC", "I_LOC"],
}


def sequences(tags: list[str], count: int, seed: int = 0) -> list[list[str]]:
    draw = random.Random(seed)
    return [[draw.choice(tags) for _ in range(draw.randint(1, 9))] for _ in range(count)]


@pytest.mark.parametrize("kind", TAGS)
def test_entities_are_those_of_seqeval_also_of_ill_formed_tags(kind: str) -> None:
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    tagging = Tagging.of(TAGS[kind])
    for tags in sequences(TAGS[kind], 2000):
        found = labeling.get_entities([tag.replace("_", "-") for tag in tags])
        theirs = [Entity(label, start, end + 1) for label, start, end in found]
        assert tagging.entities(tags) == theirs, tags


@pytest.mark.parametrize("joint", ["-", "_"])
def test_the_class_may_come_first(joint: str) -> None:
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    tags = ["O", *(f"{kind}{joint}{place}" for kind in ("PER", "a-b") for place in "BI")]
    tagging = Tagging.of(tags)
    assert scheme_of([tags]) == "IOB2"
    assert whole_set(["O", f"X{joint}B"], "IOB2") == ["O", f"X{joint}B", f"X{joint}I"]
    for sentence in sequences(tags, 300):
        theirs = labeling.get_entities(
            [tag.replace(f"{joint}B", "-B").replace(f"{joint}I", "-I") for tag in sentence], suffix=True
        )
        assert tagging.entities(sentence) == [(label, start, end + 1) for label, start, end in theirs]


def test_bilou_is_iobes_in_other_letters() -> None:
    translated = str.maketrans("LU", "ES")
    tags = [tag.replace("E-", "L-").replace("S-", "U-") for tag in TAGS["IOBES"]]
    tagging = Tagging.of(tags)
    for sentence in sequences(tags, 500):
        as_iobes = [tag[:1].translate(translated) + tag[1:] for tag in sentence]
        assert tagging.entities(sentence) == tagging.entities(as_iobes)


def test_bare_names_are_runs_beside_o_and_words_without_it() -> None:
    assert Tagging.of(["O", "PER"]).entities(["PER", "PER", "O", "PER"]) == [("PER", 0, 2), ("PER", 3, 4)]
    assert Tagging.of(["NN", "VB"]).entities(["NN", "NN", "VB"]) == [("NN", 0, 1), ("NN", 1, 2), ("VB", 2, 3)]


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["O B-X I-X B-X O", "B-Y"], "IOB2"),
        (["O B-X I-X", "O I-X I-X"], "IOB2"),  # with an ill-formed one
        (["O I-X I-X B-X O", "I-Y"], "IOB1"),
        (["O I-X I-X O", "I-Y"], "IO"),
        (["O X X O"], "IO"),
        (["B-X I-X E-X", "O S-Y"], "IOBES"),
        (["B-X I-X L-X", "O U-Y"], "BILOU"),
        (["NN VB NN"], "words"),
        (["O B I I O B"], "IOB2"),
        (["O B_X I_X B_X O", "B_Y"], "IOB2"),
        (["O X-I X-I X-B", "Y-I"], "IOB1"),
    ],
)
def test_schemes_are_recognised(sentences: list[str], scheme: str) -> None:
    assert scheme_of([sentence.split() for sentence in sentences]) == scheme


@pytest.mark.parametrize(
    ("tags", "scheme", "count"),
    [
        ("O B-X I-X B-X I-X", "IOB2", 0),
        ("O I-X I-X I-Y", "IOB2", 2),
        ("O I-X B-X I-X", "IOB1", 0),
        ("B-X I-X O B-Y", "IOB1", 2),
        ("B-X E-X S-X O B-Y I-Y E-Y", "IOBES", 0),
        ("B-X O", "IOBES", 1),
        ("B-X", "IOBES", 1),
        ("O E-X B-X S-X", "IOBES", 2),
        ("B-X L-X U-X L-X", "BILOU", 1),
        ("I-X I-Y", "IO", 0),
        ("NN NN", "words", 0),
    ],
)
def test_ill_formed_tags_are_counted(tags: str, scheme: str, count: int) -> None:
    tagging = Tagging.of(tags.split() if scheme == "words" else ["O", *tags.split()])
    assert ill_formed(tags.split(), scheme, tagging) == count


def test_a_class_has_all_its_tags() -> None:
    assert whole_set(["B-X", "O", "I-A"], "IOB2") == ["O", "B-A", "I-A", "B-X", "I-X"]
    assert whole_set(["U-X", "O"], "BILOU") == ["O", "B-X", "I-X", "L-X", "U-X"]
    assert whole_set(["NN", "VB"], "words") == ["NN", "VB"]
    assert whole_set(["PER", "O"], "IO") == ["O", "PER"]
    assert whole_set(["B", "I", "O"], "IOB2") == ["O", "B", "I"]
