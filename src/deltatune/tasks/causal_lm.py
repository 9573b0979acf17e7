"""Language modelling: prompt ids, target ids, one end token; only the latter two are supervised.

Prompt and target are tokenised apart and their ids joined, so that the prompt has the same ids in training
and in generation; a target that shall begin with a space needs one in `target_template`. Long prompts lose
tokens on the left (behind a begin token), always down to `max_input_tokens`: a room that depended on the
target's length would make training prompts differ from those of prediction. A chat prompt is shortened
within the user's text.

Without a target all tokens of the text are supervised; an end token is added if it was not cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from deltatune.errors import DataError
from deltatune.tasks import tokens
from deltatune.tasks.shapes import BatchShape
from deltatune.tasks.task import (
    IGNORED,
    INPUT,
    NEW,
    TARGET,
    Cuts,
    Feature,
    Fidelity,
    Model,
    Row,
    Task,
    Tools,
)

if TYPE_CHECKING:
    from torch import Tensor


class CausalLM(Task):
    """A decoder-only model (GPT-2, OPT, BLOOM, LLaMA) goes on with a text."""

    name: ClassVar = "causal-lm"
    title: ClassVar = "A decoder-only model goes on with a text."
    when: ClassVar = (
        "Instructions, one turn of chat, plain text; bases such as GPT-2, OPT, BLOOM, LLaMA and Qwen."
    )
    rows: ClassVar = (
        "A prompt (`input`) and how it goes on (`target`); with `columns: {target: null}` plain text alone."
    )
    example: ClassVar = (
        "task: causal-lm\nmodel: bundled:smollm2-135m\n"
        "data: {source: rows.jsonl, split: {test: 0.1}, template: chat}\nmethods: [lora]"
    )

    auto_class: ClassVar = "AutoModelForCausalLM"
    needs: ClassVar = "a decoder-only model"
    peft_type: ClassVar = "CAUSAL_LM"
    pipeline: ClassVar = "text-generation"
    packs: ClassVar = True

    plain_text: ClassVar = True
    chat: ClassVar = True
    several_references: ClassVar = True
    shows_rows: ClassVar = True
    senseless: ClassVar = tokens.IMAGE_SIZE

    writes_text: ClassVar = True
    continues: ClassVar = True
    metrics: ClassVar = (*tokens.TEXT_METRICS, *tokens.LOSSES)
    losses: ClassVar = tokens.LOSSES
    primary: ClassVar = "rougeL_f"

    def supports(self, config: Any, known: bool) -> bool:
        """A decoder alone."""
        return tokens.continues(config, known)

    def encode(self, row: Row, tools: Tools, supervised: bool) -> tuple[Feature, Cuts]:
        """`input_ids` of prompt and target, and `prompt_length`."""
        text, limit = tokens.text_of(row), tools.spec.max_input_tokens
        if tools.plain:
            ids, cut = tools.tokens.plain(text, limit)
            if supervised and len(ids) < 2:
                raise tokens.no_signal(row, "fewer than two tokens")
            return {"input_ids": ids, "prompt_length": 0}, (cut, False)
        if tools.chat:
            prompt, cut = tools.tokens.chat_prompt(text, limit, row.shots)
        else:
            prompt, cut = tokens.behind_shots(row, tools, tools.tokens.prompt)
        if not prompt:
            raise DataError("has an empty prompt.", field=f"row {row.id}", remedy="Fill or remove it.")
        target, cut_target = tokens.target_ids(row, tools, supervised, as_target=False)
        return {"input_ids": [*prompt, *target], "prompt_length": len(prompt)}, (cut, cut_target)

    def collate(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Prompts with targets, and `labels` [rows, length] with -100 at prompts and padding."""
        batch = tokens.padded([feature["input_ids"] for feature in features], tools)
        return {**batch, "labels": tokens.pad([_labels(feature) for feature in features], IGNORED)}

    def collate_prompts(self, features: Sequence[Feature], tools: Tools) -> dict[str, Tensor]:
        """Prompts alone, padded on the left."""
        prompts = [feature["input_ids"][: feature.get("prompt_length", 0)] for feature in features]
        if not all(prompts):
            raise DataError(
                "has no prompt to generate from.", field="data.columns.target", remedy="Name a target column."
            )
        return tokens.padded(prompts, tools, left=True)

    def supervised(self, feature: Feature) -> int:
        """Tokens of the target, or of a plain text all but the first."""
        return len(feature["input_ids"]) - max(feature["prompt_length"], 1)

    def preview(self, feature: Feature, tools: Tools) -> list[tuple[str, bool]]:
        """Prompt and target."""
        learned = [label != IGNORED for label in _labels(feature)]
        return list(zip(tools.tokens.pieces(feature["input_ids"]), learned, strict=True))

    def look(self, found: Fidelity, row: Row, feature: Feature, cuts: Cuts, tools: Tools) -> None:
        """Prompt and target; a plain text is what is learned."""
        text, ids, start = tokens.text_of(row), feature["input_ids"], feature["prompt_length"]
        if tools.plain:
            found.look_at_target(row, text, ids, tools.tokens, cut=cuts[0])
            return
        found.look_at_input(row, text, ids[:start], tools.tokens)
        found.look_at_target(row, row.target, ids[start:], tools.tokens, cut=cuts[1])

    def count(self, labels: Tensor) -> Tensor:
        """Labels that are not masked, but for the first token, which nothing predicts."""
        return tokens.count_behind(labels)

    def logits(self, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Each position's, for the label behind it."""
        return model.labelled_logits(batch)

    def shape(self, features: Sequence[Feature]) -> BatchShape:
        """Lengths of prompts with targets."""
        lengths = [len(feature["input_ids"]) for feature in features]
        labelled = [self.supervised(feature) for feature in features]
        padded = min(lengths) < max(lengths)
        return BatchShape(len(features), max(lengths), 0, sum(labelled), max(labelled), padded)

    def longest(self, rows: int, data: Any, has_targets: bool) -> BatchShape:
        """Prompt and target at their limits; a plain text at the input's."""
        if not has_targets:
            return BatchShape(rows, data.max_input_tokens, 0, rows * (data.max_input_tokens - 1))
        length = data.max_input_tokens + data.max_target_tokens
        return BatchShape(rows, length, 0, rows * data.max_target_tokens)

    def blank(self, shape: BatchShape) -> dict[str, Tensor]:
        """As many labels at the end of each row as the shape says."""
        return tokens.blank_behind(shape)

    def places(self, features: Sequence[Feature], new: int) -> list[tuple[str, dict[str, int]]]:
        """Prompt and target of the longest row; the longest prompt, and what is written behind it."""
        longest = max(features, key=lambda feature: len(feature["input_ids"]))
        count, prompt = len(longest["input_ids"]), longest["prompt_length"]
        if not prompt:  # the text is what is learned
            return [("input", {INPUT: count})]
        prompts = max(feature["prompt_length"] for feature in features)
        return [("input", {INPUT: prompt, TARGET: count - prompt}), ("input", {INPUT: prompts, NEW: new})]


def _labels(feature: Feature) -> list[int]:
    start = feature["prompt_length"]
    return [IGNORED] * start + list(feature["input_ids"][start:])


TASK: Task = CausalLM()
