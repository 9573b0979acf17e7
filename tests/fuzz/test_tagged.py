"""Whatever a file of tagged words holds, its rows are read, or it is a `DataError` that says why."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from deltatune.data.load import load_data
from deltatune.errors import DataError
from deltatune.recipe.sections import DataSpec
from deltatune.runs.inputs import named_inputs
from tests.fuzz import mutations

SENTENCES = [
    [(f"word{number}", "O"), ("Zürich", "B-LOC"), ("West", "I-LOC"), ("#tag", "B-X"), (".", "O")]
    for number in range(8)
]
TEXT = "In Zürich \u201cWest\u201d lives Anna."
FILES = {
    "tabs.conll": "".join(
        "".join(f"{word}\tX\t{tag}\n" for word, tag in words) + "\n" for words in SENTENCES
    ),
    "blanks.bio": "-DOCSTART- O\n\n"
    + "".join("".join(f"{word} {tag}\n" for word, tag in words) + "\n" for words in SENTENCES),
    "words.jsonl": "".join(
        json.dumps({"tokens": [word for word, _ in words], "tags": [tag for _, tag in words]}) + "\n"
        for words in SENTENCES
    ),
    "spans.jsonl": "".join(
        json.dumps(
            {"text": f"{TEXT} {n}", "spans": [[3, 9, "LOC"], {"start": 23, "end": 27, "label": "PER"}]}
        )
        + "\n"
        for n in range(8)
    ),
}
PIECES = (
    "\t",
    " ",
    "\n",
    "\n\n",
    "\r",
    "\x00",
    "\u2028",
    "#",
    "B-",
    "I-",
    "-",
    "O",
    "[",
    "]",
    "{",
    '"',
    ",",
    "null",
)


def read(path: Path) -> bool:
    """Whether the rows are read, each with a tag for each word; and whether inputs of a prediction are."""
    try:
        for _ in named_inputs(path, images=False):
            pass
    except DataError:
        pass
    spec = DataSpec.model_validate({"source": str(path), "split": {"validation": 0, "test": 0}})
    try:
        rows = load_data(spec, "token-classification").train
    except DataError as error:
        if len(str(error)) > 5000:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
        return False
    for row in rows:
        assert row.words is not None
        assert len(row.words.places) == len(row.words.tags) == len(row.target.split())
        assert all(0 <= start <= end <= len(row.input) for start, end in row.words.places)
    return True


@pytest.mark.parametrize("name", FILES)
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FILES[name], "utf-8")
    assert read(path)
    outcomes = []
    for seed in range(60):
        chance = random.Random(seed)
        if chance.random() < 0.7:
            mutated = mutations.text(FILES[name], chance, PIECES).encode(errors="surrogatepass")
        else:
            mutated = mutations.raw(FILES[name].encode(), chance)
        path.write_bytes(mutated)
        outcomes.append(read(path))
    assert any(outcomes)
    assert not all(outcomes)
