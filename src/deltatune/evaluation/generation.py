"""Text made by a model on its own, and the proof that it was.

A model that is shown the reference while it is scored (teacher forcing, argmax over the logits) looks far
better than it is: it is put back on the right path after every token. So text metrics accept `Generation`
only, and a `Generation` comes from `generate` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from deltatune.core.devices import to_device
from deltatune.core.fast.padding import padding_told
from deltatune.evaluation.beams import read_once
from deltatune.evaluation.greedy import Over, greedy_ids
from deltatune.evaluation.interfaces import (
    BatchEncoder,
    EncodedRows,
    Model,
    Progress,
    evaluating,
    longest_first,
)
from deltatune.tasks import TASKS
from deltatune.tasks.task import ANSWER, UNTIL

_PROOF = object()

TAIL = 16
"""Last tokens in which a text that ends a row has come, if it has."""
# A checkpoint's generation config may ask for sampling, ban repeated n-grams, or force an end of text.
# Each would change what is measured: repetition would be hidden and the stop rate would be made up.
PLAIN_DECODING: dict[str, Any] = {
    "do_sample": False,
    "temperature": None,
    "top_k": None,
    "top_p": None,
    "num_return_sequences": 1,
    "repetition_penalty": None,
    "no_repeat_ngram_size": None,
    "encoder_no_repeat_ngram_size": None,
    "encoder_repetition_penalty": None,
    "exponential_decay_length_penalty": None,
    "length_penalty": 1.0,
    "early_stopping": False,
    "min_length": 0,
    "min_new_tokens": None,
    "max_length": None,
    "forced_eos_token_id": None,
    "use_cache": True,
}


@dataclass(frozen=True, slots=True)
class Generation:
    """One generated text.

    Attributes:
        text: The text, special tokens skipped.
        tokens: How many tokens were generated, the end of text not counted.
        stopped: Whether the model ended the text itself, before `max_new_tokens`.
    """

    text: str
    tokens: int
    stopped: bool
    _proof: object = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self._proof is not _PROOF:
            raise TypeError(
                "A Generation is made by deltatune.evaluation.generate() only: text that was decoded from "
                "teacher-forced logits must not be scored as if the model had written it."
            )


def generate(
    model: Model,
    encoded: EncodedRows,
    encoder: BatchEncoder,
    *,
    batch_size: int = 32,
    max_new_tokens: int = 64,
    num_beams: int = 1,
    progress: Progress | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Generate a text for each row, greedily or by beam search, with a KV cache.

    The decoding is the same for every model: penalties, sampling and forced tokens of the checkpoint's own
    generation config are switched off, except the forced first token (a language code, for example).

    Args:
        model: Model with its active deltas; put in evaluation mode meanwhile, and back.
        encoded: The encoded rows.
        encoder: The encoder that made them; its `eos_ids` end a text.
        batch_size: Rows generated at once.
        max_new_tokens: Tokens after which a text is cut off.
        num_beams: 1 is greedy.
        progress: Called with (rows done, rows in total) after each batch.

    Yields:
        (row number, generation), the longest rows first.
    """
    done = 0
    for rows in longest_first(encoded.lengths, batch_size):
        features = [encoded.features[row] for row in rows]
        batch = write(model, features, encoder, max_new_tokens=max_new_tokens, num_beams=num_beams)
        yield from zip(rows, batch.generations, strict=True)
        done += len(rows)
        if progress:
            progress(done, len(encoded.lengths))


class Written(NamedTuple):
    """What a model wrote for a batch."""

    generations: list[Generation]
    """One a row."""
    states: Tensor | None
    """What its encoder made of the prompts, for a loss on the same rows; None if it has none."""


def write(
    model: Model,
    features: list[dict[str, Any]],
    encoder: BatchEncoder,
    *,
    max_new_tokens: int,
    num_beams: int,
) -> Written:
    """Generate the texts of one batch; arguments as of `generate`."""
    if any(ANSWER in feature for feature in features):  # which the method knows, and the model is not asked
        return Written([_finish(feature[ANSWER][:max_new_tokens], encoder) for feature in features], None)
    arguments = PLAIN_DECODING | {
        "max_new_tokens": max_new_tokens,
        "num_beams": num_beams,
        "eos_token_id": list(encoder.eos_ids) or None,
        # Only what follows the end of a text is filled with this, and that is cut off by position.
        "pad_token_id": next(iter(encoder.eos_ids), 0),
    }
    batch = to_device(encoder.collate_prompts(features), model.device)
    with evaluating(model), padding_told(batch):
        states = model.encoder_states(batch)
    until = [feature.get(UNTIL) for feature in features]
    new = _generate_batch(model, batch, states, encoder, arguments, over=_over(until, encoder))
    return Written([_finish(ids, encoder, text) for ids, text in zip(new, until, strict=True)], states)


def next_token_logits(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Logits [rows, vocabulary] of the first token that is generated behind a batch of prompts."""
    arguments = PLAIN_DECODING | {"max_new_tokens": 1, "num_beams": 1, "pad_token_id": 0}
    with evaluating(model):
        output = model.generate(**batch, **arguments, output_logits=True, return_dict_in_generate=True)
    first: Tensor = output.logits[0]
    return first


def _generate_batch(
    model: Model,
    batch: dict[str, Tensor],
    states: Tensor | None,
    encoder: BatchEncoder,
    arguments: dict[str, Any],
    *,
    over: Over | None,
) -> list[list[int]]:
    """New ids of each row, with whatever follows their end. Beams go on where `over` tells of an end."""
    with evaluating(model), padding_told(batch):
        if arguments["num_beams"] == 1 and model.may_drop_rows:
            ids = greedy_ids(model, batch, states, arguments, over)
        else:
            known: dict[str, Any] = {}
            if states is not None:  # in an object of its own: beam search repeats the rows in it
                known["encoder_outputs"] = BaseModelOutput(last_hidden_state=states)
            elif model.may_drop_rows:
                known = dict(read_once(model, batch, arguments))
            ids = list(model.generate(**batch, **known, **arguments))
    # A decoder of its own begins with its start token, the only one that is not written.
    start = _prompt_length(batch, ids) if TASKS.get(encoder.task).continues else 1
    return [row[start:].tolist() for row in ids]


def _over(until: Sequence[str | None], encoder: BatchEncoder) -> Over | None:
    """What tells whether the text that ends a row has come; None if no row has such a text."""

    def over(row: int, ids: list[int]) -> bool:
        text = until[row]  # the last tokens are looked at first, which takes less
        return text is not None and all(encoder.before(part, text) is not None for part in (ids[-TAIL:], ids))

    return over if any(until) else None


def _prompt_length(batch: dict[str, Tensor], ids: Sequence[Tensor]) -> int:
    length = batch["input_ids"].shape[1]
    starts = zip(ids, batch["input_ids"], strict=True)
    if not all(torch.equal(row[:length], prompt) for row, prompt in starts):
        raise RuntimeError(
            "generate() of a decoder-only model must return the prompt followed by the new tokens; "
            "without it the prompt cannot be told from the answer."
        )
    return length


def _finish(ids: list[int], encoder: BatchEncoder, until: str | None = None) -> Generation:
    """Cut at the first end of text. By position: the padding id may well be the end-of-text id.

    Args:
        ids: What was generated.
        encoder: Knows the end tokens.
        until: A text that ends it too.
    """
    ends = set(encoder.eos_ids)
    end = next((position for position, token in enumerate(ids) if token in ends), None)
    kept = ids if end is None else ids[:end]
    if until is not None and (before := encoder.before(kept, until)) is not None:
        return Generation(encoder.decode(before), len(before), True, _PROOF)
    return Generation(encoder.decode(kept), len(kept), end is not None, _PROOF)
