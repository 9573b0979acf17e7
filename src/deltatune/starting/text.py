"""The text of a first recipe: YAML with the reason for each choice beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deltatune.printable import printable
from deltatune.recipe.sections import PLAIN_CHAT, Format
from deltatune.recipe.written import inline
from deltatune.starting.propose import Proposal
from deltatune.starting.settings import Settings

_WIDTH = 100
_BEHIND = 36
"""Where a comment behind a field begins."""


@dataclass(frozen=True)
class Content:
    """What a recipe is made of."""

    proposal: Proposal
    settings: Settings
    source: str
    """As the recipe names it."""
    format: Format | None
    """Where the name of the source does not tell it."""
    rows: str
    """How many there are, in words."""
    model: str
    others: Sequence[str]
    """Other models, for a comment."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The section `data.columns`."""
    unread: Sequence[str] = ()
    """Columns that nothing is made of, for a comment."""
    plain_chat: str = ""
    """Why the model's own chat template does not serve; empty if it does."""


def recipe_text(content: Content) -> str:
    """The recipe as a file has it. Names of others stand in it as values that YAML reads back as they are."""
    return "\n".join(line.rstrip() for line in _lines(content)) + "\n"


def _lines(content: Content) -> Iterator[str]:
    proposal, settings = content.proposal, content.settings
    yield from _comment(f"A first recipe for {content.source}: {content.rows}. Change what you know better.")
    yield ""
    yield from _field("task", proposal.task, proposal.why)
    yield from _field("model", content.model, "the base; it is never changed")
    if content.others:
        yield from _comment(f"others: {', '.join(content.others)}")
    yield "data:"
    yield from _field("  source", content.source)
    if content.format is not None:
        yield from _field("  format", content.format, "the name does not tell it")
    if content.columns:
        yield from _field("  columns", dict(content.columns), "what is read, and what is learned")
    if content.unread:
        yield from _comment(f"not read: {', '.join(content.unread)}", "  ")
    if proposal.separator is not None:
        yield from _field("  separator", proposal.separator, "stands between the labels of a row")
    if content.plain_chat:
        yield from _field("  chat_template", PLAIN_CHAT, "the model's own does not serve:")
        yield from _comment(content.plain_chat, "  ")
    yield from _split(settings)
    if settings.limit is not None:
        yield from _field("  limit", settings.limit, "there is no GPU: a first comparison on a part")
    yield from _field("  max_input_tokens", settings.input_tokens, settings.input_why)
    if settings.target_tokens is not None:
        yield from _field("  max_target_tokens", settings.target_tokens, settings.target_why)
    yield from _behind("methods:", settings.by_themselves)
    for name, why in zip(settings.methods, settings.methods_why, strict=True):
        yield from _behind(f"  - {name}", why)
    yield "train:"
    yield from _field("  epochs", settings.epochs, f"passes over about {settings.rows:,} training rows")
    yield from _field("  batch_size", settings.batch_size, "rows to a step" + (
        ", of which each is told from all others" if settings.micro_batch_size else ""
    ))  # fmt: skip
    if settings.micro_batch_size:
        yield from _field(
            "  micro_batch_size", settings.micro_batch_size, "rows in memory at once; the same result"
        )
    if settings.target_tokens is not None:
        yield "evaluation:"
        yield from _field("  max_new_tokens", settings.target_tokens, "as long as a target may be")
    yield from _field("seeds", [0], "three or more, such as [0, 1, 2], show the noise of training")


def _split(settings: Settings) -> Iterator[str]:
    if settings.split == {"seed": 0}:
        yield from _field("  split", settings.split, settings.split_why)
    elif settings.split is not None:
        why = "validation rows choose, test rows judge"
        more = f"; {settings.split_why}" if settings.split_why else ""
        yield from _field("  split", settings.split, why + more)
    elif settings.split_why:
        yield from _comment(settings.split_why, "  ")


def _field(name: str, value: Any, why: str = "") -> Iterator[str]:
    return _behind(f"{name}: {inline(value)}", why)


def _behind(line: str, why: str) -> Iterator[str]:
    """A line with a comment behind it, or above where it would be long; nothing in it begins another line."""
    if not why:
        yield line
    elif len(line) < _BEHIND and _BEHIND + len(_one_line(why)) <= _WIDTH:
        yield f"{line.ljust(_BEHIND)} # {_one_line(why)}"
    else:
        yield from _comment(why, " " * (len(line) - len(line.lstrip())))
        yield line


def _comment(text: str, indent: str = "") -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(_one_line(text), _WIDTH) or [""]]


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())
