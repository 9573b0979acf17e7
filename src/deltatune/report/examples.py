"""Test examples with the answers of every method, and where these differ from the reference."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from markupsafe import Markup

from deltatune.report import display
from deltatune.report.entities import predicted_entities, true_entities
from deltatune.report.load import Comparison, Method
from deltatune.results import Prediction
from deltatune.tasks.label_sets import NONE, labels_of

EXAMPLES = 10
LONGEST = 4000
# A word, or signs, with the space after it; scripts without spaces are compared by the letter.
_TOKENS = re.compile(r"(?:[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]+)\s*|\s+")


class Answer(NamedTuple):
    """What a method made of an example."""

    method: Method
    marked: Markup
    score: str
    right: bool
    cut_off: bool
    length: int


class Example(NamedTuple):
    """A test row with its answers."""

    id: str
    input: str
    references: list[str]
    answers: list[Answer]
    reader: str = ""
    """Whose input it is, where methods have templates of their own."""
    tagged: bool = False
    """Whether words have tags, so that entities are marked."""
    pair: str | None = None
    """The second text of the row, where it has two."""


def examples(comparison: Comparison) -> list[Example]:
    """The same test examples for every method, evenly spaced over the rows: none is picked by hand."""
    methods = [method for method in comparison.ranked if method.runs]
    if not methods:
        return []
    # By id, so that a row whose line one run has lost has no answer of it, and the others keep theirs.
    ids = max((list(method.runs[0].predictions()) for method in methods), key=len)
    chosen = [ids[position] for position in _evenly(len(ids), EXAMPLES)]
    found: dict[str, Example] = {}
    for method in methods:
        lines = method.runs[0].predictions()
        for name in chosen:
            if (line := lines.get(name)) is None:
                continue
            example = found.setdefault(name, _example(line))
            if _example(line).input != example.input:
                found[name] = example._replace(reader=example.answers[0].method.shown)
            example.answers.append(_answer(comparison, method, line))
    return [found[name] for name in chosen if name in found]


def marked(text: str, reference: str) -> Markup:
    """`text` with `<ins>` around words that the reference lacks, and the missing ones in `<del>`.

    Capitals make no difference. Missing words are shown only where at least half are there: what a text left
    out tells something, but of one about another matter that would be the whole reference.
    """
    have, want = _TOKENS.findall(text), _TOKENS.findall(reference)
    matches = SequenceMatcher(None, _words(want), _words(have), autojunk=False)
    words = [token[0].isalnum() for token in want]
    found = sum(sum(words[m.a : m.a + m.size]) for m in matches.get_matching_blocks())
    if not found:
        return Markup("<ins>{}</ins>").format(text) if text != reference else Markup("{}").format(text)
    parts: list[Markup] = []
    for kind, want_from, want_to, from_, to in matches.get_opcodes():
        missing, extra = "".join(want[want_from:want_to]).strip(), "".join(have[from_:to])
        if kind == "equal":
            parts.append(Markup("{}").format(extra))
            continue
        if missing and 2 * found >= sum(words):
            gap = " " if parts and not parts[-1][-1:].isspace() else ""
            parts.append(Markup("{}<del>{}</del> ").format(gap, missing))
        if extra:
            kept = extra.rstrip()
            parts.append(Markup("<ins>{}</ins>{}").format(kept, extra[len(kept) :]))
    return Markup("").join(parts)


def marked_labels(text: str, reference: str) -> Markup:
    """Labels that are given: `<ins>` around those that are not true, and the missing ones in `<del>`."""
    given, true = labels_of(text), labels_of(reference)
    parts = [Markup("{}" if label in true else "<ins>{}</ins>").format(label) for label in given]
    parts += [Markup("<del>{}</del>").format(label) for label in true if label not in given]
    return Markup(", ").join(parts) if parts else Markup("{}").format(NONE)


def _words(tokens: Sequence[str]) -> list[str]:
    return [token.strip().casefold() for token in tokens]


def _example(line: Prediction) -> Example:
    texts = [display.shorten(text, LONGEST) for text in (line.input, line.pair) if text is not None]
    if line.words is not None:
        return Example(line.id, texts[0], [true_entities(line)], [], tagged=True)
    pair = texts[1] if texts[1:] else None
    return Example(line.id, texts[0], line.references or [line.reference], [], pair=pair)


def _answer(comparison: Comparison, method: Method, line: Prediction) -> Answer:
    score = _own_score(line, comparison.primary)
    text = display.shorten(line.prediction, LONGEST)
    references = line.references or [line.reference]
    reference = display.shorten(_nearest(line.prediction, references), LONGEST)
    if line.words is not None:
        shown = predicted_entities(line)
    elif comparison.has_label_sets:
        shown = marked_labels(line.prediction, line.reference)
    else:
        shown = marked(text, reference) if text.strip() else Markup("")
    for place, other in enumerate((line.nearest or ())[1:], start=2):  # of a search, the next nearest
        shown += Markup('<br><span class="dim">{}. {}</span>').format(place, display.shorten(other, LONGEST))
    return Answer(
        method,
        shown,
        "" if score is None else display.metric(comparison.primary, score, unit=False),
        any(line.prediction.split() == text.split() for text in references),
        line.stopped is False,
        len(text),
    )


def _nearest(text: str, references: Sequence[str]) -> str:
    """The reference that has most words in common with a text; the first of those that have as many."""
    if len(references) == 1:
        return references[0]
    words = _words(_TOKENS.findall(text[:LONGEST]))
    return max(
        references,
        key=lambda reference: SequenceMatcher(
            None, _words(_TOKENS.findall(reference[:LONGEST])), words, autojunk=False
        ).ratio(),
    )


def _own_score(line: Prediction, key: str) -> float | None:
    """The example's own value of a metric, if it has one."""
    known = line.scores.get(key)
    if known is None and key in ("loss", "perplexity") and line.tokens and line.nll is not None:
        loss = line.nll / line.tokens
        return loss if key == "loss" else math.exp(min(loss, 700.0))
    return known


def _evenly(count: int, most: int) -> Sequence[int]:
    if count <= most:
        return range(count)
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]
