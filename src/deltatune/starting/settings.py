"""Limits, steps and methods that suit some rows and this machine, each with the reason for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from deltatune.recipe.formats import ONE_PART_FORMATS
from deltatune.starting.look import Look
from deltatune.starting.propose import Proposal
from deltatune.tasks import Task

LIMITS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Tokens of a row that a limit allows."""
MOST_OF_WHOLE, MOST_OF_DECODER = 512, 2048
"""Of encoders, most of which have so many positions; and of decoders, for a first comparison."""
_CPU_ROWS = 2_000
"""Training rows of a first comparison without a GPU."""
_CPU_HELD_OUT = 500


@dataclass(frozen=True)
class Settings:
    """What stands in the sections `data`, `train`, `methods` and `evaluation`."""

    input_tokens: int
    input_why: str
    target_tokens: int | None
    """Of tasks that write; None of others."""
    target_why: str
    split: dict[str, Any] | None
    split_why: str
    limit: dict[str, int] | None
    epochs: int
    batch_size: int
    micro_batch_size: int | None
    methods: list[str] = field(default_factory=list)
    methods_why: list[str] = field(default_factory=list)
    by_themselves: str = ""
    """Rows of a comparison that the recipe need not name."""
    rows: int = 0
    """Rows that are trained on, about."""

    def with_room(self, tokens: int, most: int) -> Settings:
        """The same with room for inputs of so many tokens, as far as `most` allows."""
        return replace(self, input_tokens=max(self.input_tokens, _limit(tokens, most)))

    def with_lengths(self, cut: float, target_cut: float, most: int) -> Settings:
        """The same with limits that suit what the tokenizer made of the rows.

        Args:
            cut: Share of the training rows whose input is cut.
            target_cut: Share of those whose target is cut.
            most: No input limit is larger.
        """
        made = self
        if cut > 0.01 and self.input_tokens < most:
            made = replace(made, input_tokens=min(most, 2 * self.input_tokens))
        if self.target_tokens is not None and target_cut > 0.01 and self.target_tokens < most:
            made = replace(made, target_tokens=2 * self.target_tokens)
        return made


def settings_for(task: Task, look: Look, proposal: Proposal, *, on_gpu: bool) -> Settings:
    """Settings by what is known of the rows; a tokenizer has not looked at them yet."""
    most = most_tokens(task)
    needed = sum(column.longest for column in proposal.inputs)
    if task.embeds:  # each text by itself
        needed = max((column.longest for column in proposal.inputs), default=0)
    needed = needed or 128
    target = None
    if task.writes_text and not task.conversations:
        target = _limit(proposal.target.longest if proposal.target else 32, 512)
    rows = look.count
    limit = None
    if not on_gpu and rows > 2 * _CPU_ROWS:
        limit = {"train": _CPU_ROWS, "validation": _CPU_HELD_OUT, "test": _CPU_HELD_OUT}
    split, split_why = _split(look)
    share = sum(split.get(part, 0.0) for part in ("validation", "test")) if split else 0.0
    used = min(round(rows * (1 - share)), limit["train"] if limit else rows)
    batch, micro = (8 if used < 400 or task.conversations else 16), None
    if task.spans_rows:
        batch = max(2, min(64, used // 4))
        micro = 16 if batch > 16 else None
    methods, why, by_themselves = _methods(task)
    return Settings(
        input_tokens=_limit(needed, most),
        input_why="a guess from the characters of the longest rows",
        target_tokens=target,
        target_why="a guess from the characters of the longest targets",
        split=split,
        split_why=split_why,
        limit=limit,
        epochs=10 if used < 500 else 5 if used < 2_000 else 3 if used < 20_000 else 1,
        batch_size=batch,
        micro_batch_size=micro,
        methods=methods,
        methods_why=why,
        by_themselves=by_themselves,
        rows=used,
    )


def most_tokens(task: Task) -> int:
    """The largest limit of an input that a first recipe has."""
    return MOST_OF_DECODER if task.continues else MOST_OF_WHOLE


def _limit(needed: int, most: int) -> int:
    return next((limit for limit in LIMITS if limit >= needed and limit <= most), most)


def _split(look: Look) -> tuple[dict[str, Any] | None, str]:
    """Shares for the parts that the source does not bring."""
    missing = [part for part in ("validation", "test") if part not in look.rows]
    if not missing:
        # a file's suffix does not tell that it has parts, so that a recipe must say something of a split
        parts = {"seed": 0} if look.format in ONE_PART_FORMATS else None
        return parts, "the source has validation and test rows of its own"
    share = 0.2 if look.count < 500 else 0.15 if look.count < 2_000 else 0.1
    split = {part: share for part in missing}
    return split, "small data give more of them, since few tell little" if share > 0.1 else ""


def _methods(task: Task) -> tuple[list[str], list[str], str]:
    """A small comparison, why each method is in it, and what comes by itself."""
    lora = "low-rank changes of the weights: what others must beat"
    adapter = "small layers behind those of the base"
    if task.has_classes or task.has_values:
        rows = "the largest class and the head alone" if task.has_classes else "the head alone"
        return ["lora", "adapter"], [lora, adapter], f"rows for {rows} come by themselves"
    untuned = "the base as it is: what training must be better than"
    if task.writes_text:
        return (
            ["untuned", "lora", "prefix"],
            [untuned, lora, "learned keys and values; no weight changes"],
            "",
        )
    return ["untuned", "lora", "adapter"], [untuned, lora, adapter], ""
