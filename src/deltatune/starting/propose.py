"""Which tasks some rows may be for, and which columns mean what then.

A task is not asked for by its name but by what it says of its rows, so one of a package of one's own is
proposed as ours are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deltatune.data.conversations import LISTS as MESSAGE_LISTS
from deltatune.data.pairs import NAMES as PAIRS
from deltatune.data.positives import NAMES as POSITIVES
from deltatune.data.positives import SCORES
from deltatune.data.tagged import SPANS, TAGS, TEXTS, WORDS
from deltatune.errors import DataError, nearest
from deltatune.printable import printable
from deltatune.recipe.sections import IMAGE_FORMATS
from deltatune.starting.look import Column, Look, is_id, separator_of
from deltatune.tasks import TASKS, Task

LABELS = ("label", "labels", "target", "class", "category", "sentiment", "intent", "topic", "gold", "y")
"""Columns of classes, the likeliest first."""
NUMBERS = ("target", "score", "rating", "stars", "price", "value", "year", "label", "y", "similarity")
WRITTEN = (
    ("input", "target"), ("source", "target"), ("document", "summary"), ("article", "summary"),
    ("article", "highlights"), ("dialogue", "summary"), ("text", "summary"), ("text", "title"),
    ("table", "title"), ("context", "question"), ("question", "answer"), ("input", "output"),
)  # fmt: skip
"""Columns of a text to read and one to write."""
ANSWERS = (("prompt", "completion"), ("prompt", "response"), ("prompt", "chosen"), ("question", "chosen"))
SURE, LIKELY, POSSIBLE = 3, 2, 1
"""How well a task fits: by names or kinds that mean nothing else; by what columns hold; by a guess."""


@dataclass(frozen=True)
class Named:
    """Columns that the user names."""

    input: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Proposal:
    """A task, and how it reads the rows."""

    task: str
    fit: int
    why: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The section `data.columns`; empty where the defaults hold."""
    separator: str | None = None
    unclear: str = ""
    """The option that says which of several columns is meant; empty where it is clear."""
    inputs: Sequence[Column] = ()
    """What a model reads."""
    target: Column | None = None


def proposals(look: Look, named: Named | None = None) -> list[Proposal]:
    """The tasks that the rows may be for, the best first.

    Raises:
        DataError: A column that the user names is not there.
    """
    named = named or Named()
    require_named(look, named)
    fitting = [proposal for name in TASKS.names() if (proposal := fit(TASKS.get(name), look, named))]
    return sorted(fitting, key=lambda proposal: -proposal.fit)


def require_named(look: Look, named: Named) -> None:
    """Refuse a name that no column has.

    Raises:
        DataError: There is one.
    """
    whole = named.target in look.columns
    names = [named.input, *([named.target] if whole else _names(named))]
    for flag, name in zip(("--input", *("--target" for _ in names[1:])), names, strict=True):
        if name is not None and name.strip() not in look.columns:
            raise DataError(
                f"{name.strip()!r} is no column of '{look.source}'.",
                field=flag,
                remedy=nearest(name.strip(), look.columns),
            )


def fit(task: Task, look: Look, named: Named) -> Proposal | None:
    """How a task would read the rows; None if it could not."""
    if task.reads == "images" or look.format in IMAGE_FORMATS or look.of_kind("image"):
        return _images(task, look, named) if task.reads == "images" else None
    if look.format == "conll" and not task.tags_words:
        return None
    several = named.target is not None and named.target not in look.columns
    if several and not (task.has_label_sets or task.several_targets):
        return None
    for asked, read in _BY_TRAIT:
        if asked(task):
            return read(task, look, named)
    return None


def _images(task: Task, look: Look, named: Named) -> Proposal | None:
    if look.format in IMAGE_FORMATS:
        return Proposal(task.name, SURE, f"{look.format} holds images and their classes")
    pictures = look.of_kind("image")
    target = _target(look, named, LABELS, [c for c in look.columns.values() if c.is_name(look.count)])
    if not pictures or target is None:
        return None
    columns = {"input": named.input or pictures[0].name, "target": target.name}
    return Proposal(task.name, SURE, "rows have an image and a class", columns, target=target)


def _conversation(task: Task, look: Look, named: Named) -> Proposal | None:
    names = look.columns
    if named.input and named.target:
        columns = {"input": named.input, "target": named.target}
        return Proposal(
            task.name, POSSIBLE, "an answer to a text", columns, inputs=_of(look, *columns.values())
        )
    lists = look.of_kind("messages")
    if lists:
        # of preference data one answer is learned, and the format knows which
        known = any(column.name in (*MESSAGE_LISTS, "chosen", "prompt", "completion") for column in lists)
        columns = {} if known else {"input": lists[0].name}
        return Proposal(task.name, SURE, "rows hold messages with roles", columns, inputs=lists[:1])
    if "instruction" in names and {"output", "response"} & names.keys():
        fields = [name for name in ("instruction", "input", "context", "output", "response") if name in names]
        return Proposal(task.name, SURE, "rows hold instructions and answers", inputs=_of(look, *fields))
    pair = next((pair for pair in ANSWERS if set(pair) <= names.keys()), None)
    if pair is not None:
        return Proposal(task.name, SURE, f"rows hold {pair[0]} and {pair[1]}", inputs=_of(look, *pair))
    return None


def _tags(task: Task, look: Look, named: Named) -> Proposal | None:
    if look.format == "conll":
        return Proposal(task.name, SURE, "the file has a word and its tag in each line")
    words = [name for name in WORDS if name in look.columns and look.columns[name].kind == "list"]
    tags = [name for name in TAGS if name in look.columns and look.columns[name].kind == "list"]
    texts = [name for name in TEXTS if name in look.columns and look.columns[name].kind == "text"]
    spans = [name for name in SPANS if name in look.columns and look.columns[name].kind == "spans"]
    for inputs, targets, why in (
        (words, tags, "a list of words with tags"),
        (texts, spans, "spans in a text"),
    ):
        if inputs and targets:
            columns = {"input": named.input or inputs[0], "target": named.target or targets[0]}
            return Proposal(task.name, SURE, f"rows have {why}", columns, inputs=_of(look, columns["input"]))
    return None


def _found(task: Task, look: Look, named: Named) -> Proposal | None:
    names, negatives = look.columns, [name for name in look.columns if name.lower().startswith("negative")]
    pair = next((pair for pair in POSITIVES if set(pair) <= names.keys()), None)
    if named.input and named.target:
        pair, how = (named.input, named.target), POSSIBLE
    elif pair is None or any(name in names for name in (*SCORES, *LABELS)):
        return None
    else:
        how = SURE if negatives or pair[1] in ("positive", "passage", "document", "entailment") else POSSIBLE
    columns: dict[str, Any] = {"input": pair[0], "target": pair[1]}
    why = "texts that belong together" + (", and texts that do not" if negatives else "")
    return Proposal(task.name, how, f"rows hold {why}", columns, inputs=_of(look, *pair))


def _scores(task: Task, look: Look, named: Named) -> Proposal | None:
    pair = _pair(look)
    target = _target(look, named, SCORES, look.of_kind("number"))
    if pair is None or target is None or target.kind not in ("number", "flag"):
        return None
    how = SURE if target.distinct > 5 else POSSIBLE
    columns = {"input": pair[0], "pair": pair[1], "target": target.name}
    if not task.pairs:
        columns = {"input": pair[0], "target": target.name}
    return Proposal(
        task.name,
        how,
        "rows hold two texts and how alike they are",
        columns,
        inputs=_of(look, *pair),
        target=target,
    )


def _label_sets(task: Task, look: Look, named: Named) -> Proposal | None:
    text = _input(look, named)
    flags = [column.name for column in look.of_kind("flag") if not is_id(column, look.count)]
    several = [column for column in look.of_kind("list", "labels") if column.name != (text and text.name)]
    if text is None or "tokens" in look.columns:
        return None
    columns: dict[str, Any]
    if named.target is not None:
        names = _names(named) if named.target not in look.columns else [named.target]
        target = look.columns[names[0]]
        columns = {"input": text.name, "target": names if len(names) > 1 else names[0]}
        how = LIKELY if len(names) > 1 or target.kind in ("list", "labels") else 0
        return (
            Proposal(task.name, how, "rows may have several labels", columns, inputs=[text]) if how else None
        )
    if several:
        target = next((c for c in several if c.name in LABELS), several[0])
        sign = separator_of([str(r.columns.get(target.name) or "") for r in look.records[:2000]])
        columns = {"input": text.name, "target": target.name}
        told = "a list of labels" if target.kind == "list" else f"labels with {sign!r} between them"
        how = LIKELY if target.kind == "labels" else SURE
        between = sign if target.kind == "labels" else None
        why = f"{_shown(target)} holds {told}"
        return Proposal(task.name, how, why, columns, between, inputs=[text], target=target)
    if len(flags) > 2:
        columns = {"input": text.name, "target": flags}
        return Proposal(
            task.name, LIKELY, f"rows have {len(flags)} columns of 0 and 1", columns, inputs=[text]
        )
    return None


def _values(task: Task, look: Look, named: Named) -> Proposal | None:
    numbers = [c for c in look.of_kind("number") if not is_id(c, look.count) and c.distinct > 1]
    target = _target(look, named, NUMBERS, numbers)
    text = _input(look, named, without=target)
    names = _names(named)
    if text is not None and len(names) > 1 and task.several_targets:
        kinds = {look.columns[name].kind for name in names}
        columns = {"input": text.name, "target": names}
        fits = kinds <= {"number", "flag"}
        return Proposal(task.name, POSSIBLE, "rows hold numbers", columns, inputs=[text]) if fits else None
    if text is None or target is None or target.kind not in ("number", "flag"):
        return None
    continuous = target.kind == "number" and (not target.whole or target.distinct > 20)
    clear = _is_clear(named, target, NUMBERS, numbers)
    how = LIKELY if continuous and clear else POSSIBLE
    columns, inputs = _with_pair(task, look, {"input": text.name, "target": target.name}, named)
    why, unclear = f"{_shown(target)} holds numbers", "" if clear else "--target"
    return Proposal(task.name, how, why, columns, unclear=unclear, inputs=inputs, target=target)


def _classes(task: Task, look: Look, named: Named) -> Proposal | None:
    candidates = [c for c in look.columns.values() if c.is_name(look.count) and not is_id(c, look.count)]
    target = _target(look, named, LABELS, candidates)
    text = _input(look, named, without=target)
    if text is None or target is None or target.kind not in ("text", "flag", "number"):
        return None
    if target.kind == "number" and (not target.whole or target.distinct > 20):
        return None
    if named.target is None and not target.is_name(look.count):
        return None
    columns, inputs = _with_pair(task, look, {"input": text.name, "target": target.name}, named)
    candidates = [column for column in candidates if column is not text]
    how = SURE if target.name.lower() in LABELS or named.target else LIKELY
    clear = _is_clear(named, target, LABELS, candidates)
    how = how if clear else POSSIBLE
    if look.format == "sentence-label":
        columns, how = {}, SURE
    why = f"{_shown(target)} names one of {target.distinct} classes"
    unclear = "" if clear or not columns else "--target"
    return Proposal(task.name, how, why, columns, unclear=unclear, inputs=inputs, target=target)


def _written(task: Task, look: Look, named: Named) -> Proposal | None:
    names = look.columns
    pair = next(
        (pair for pair in WRITTEN if set(pair) <= names.keys() and not _is_class(look, pair[1])), None
    )
    how, unclear = LIKELY, ""
    if named.input and named.target:
        pair = (named.input, named.target)
    elif look.format == "table-folder":
        pair = ("table", "title")
    elif pair is None and task.plain_text and len(look.texts) == 1:
        text = look.texts[0]
        columns = {"input": text.name, "target": None}
        alone = all(c is text or c.kind == "empty" or is_id(c, look.count) for c in look.columns.values())
        how = LIKELY if alone else POSSIBLE
        return Proposal(task.name, how, f"{_shown(text)} may be learned by itself", columns, inputs=[text])
    elif pair is None and len(look.texts) == 2 and not _pair(look):
        pair, how, unclear = (look.texts[0].name, look.texts[1].name), POSSIBLE, "--input"
    if pair is None:
        return None
    if task.continues or _is_class(look, pair[1]):
        how = POSSIBLE  # an encoder-decoder, or a classifier, is made for this
    columns = {"input": pair[0], "target": pair[1]}
    why = f"a text to read ({printable(pair[0])}) and one to write ({printable(pair[1])})"
    return Proposal(
        task.name,
        how,
        f"rows hold {why}",
        columns,
        unclear=unclear,
        inputs=_of(look, pair[0]),
        target=look.columns.get(pair[1]),
    )


_BY_TRAIT = (
    (lambda task: task.conversations, _conversation),
    (lambda task: task.tags_words, _tags),
    (lambda task: task.finds_targets, _found),
    (lambda task: task.has_scores, _scores),
    (lambda task: task.has_label_sets, _label_sets),
    (lambda task: task.has_values, _values),
    (lambda task: task.has_classes, _classes),
    (lambda task: task.writes_text, _written),
)
"""What a task says of its rows, and how such rows are told."""


def _names(named: Named) -> list[str]:
    """The columns of several targets."""
    return [name.strip() for name in (named.target or "").split(",") if name.strip()]


def _of(look: Look, *names: str) -> list[Column]:
    return [look.columns[name] for name in names if name in look.columns]


def _shown(column: Column) -> str:
    return f"the column {printable(column.name)!r}"


def _is_class(look: Look, name: str) -> bool:
    return name in look.columns and look.columns[name].is_name(look.count)


def _pair(look: Look) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if set(pair) <= look.columns.keys()), None)


def _with_pair(
    task: Task, look: Look, columns: dict[str, Any], named: Named
) -> tuple[dict[str, Any], list[Column]]:
    """The columns with a second text, where there is one by its name."""
    pair = _pair(look) if task.pairs and named.input is None else None
    if pair is None or columns["target"] in pair:
        return columns, _of(look, columns["input"])
    return {"input": pair[0], "pair": pair[1], "target": columns["target"]}, _of(look, *pair)


def _input(look: Look, named: Named, without: Column | None = None) -> Column | None:
    """The column that a model reads: the one with the longest texts."""
    if named.input is not None:
        return look.columns[named.input]
    usual = ("text", "sentence", "input", "review", "content", "premise", "sentence1")
    texts = [column for column in look.texts if column is not without and column.filled > 0.5]
    return next((column for column in texts if column.name.lower() in usual), texts[0] if texts else None)


def _is_clear(named: Named, target: Column, usual: Sequence[str], among: Sequence[Column]) -> bool:
    """Whether no other column could be the target as well."""
    return named.target is not None or target.name.lower() in usual or len(among) == 1


def _target(look: Look, named: Named, usual: Sequence[str], among: Sequence[Column]) -> Column | None:
    """The column of targets: the user's; else one of a usual name; else the last that could be one."""
    if named.target is not None:
        return look.columns.get(named.target)
    by_name = {column.name.lower(): column for column in among}
    return next((by_name[name] for name in usual if name in by_name), among[-1] if among else None)
