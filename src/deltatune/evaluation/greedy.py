"""Greedy decoding in which rows leave the batch once they have ended.

Transformers decodes a batch until its last row has ended, and computes the ended rows with it. Here a pass
stops when half of its rows have ended, and another goes on with the rest behind their part of the cache: so
no row is computed much longer than it takes, and there are few passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, StoppingCriteria, StoppingCriteriaList
from transformers.modeling_outputs import BaseModelOutput

from deltatune.evaluation.interfaces import Model

FEWEST = 4
"""Rows that are decoded to their ends together: fewer take hardly less time for a token."""
CACHES = ("cache", "past_key_values")
"""What Transformers calls the cache, since 5.24 and before."""
Over = Callable[[int, list[int]], bool]
"""Of `greedy_ids`."""


def greedy_ids(
    model: Model,
    batch: dict[str, Tensor],
    states: Tensor | None,
    arguments: dict[str, Any],
    over: Over | None = None,
) -> list[Tensor]:
    """Decode greedily.

    Args:
        model: Lets `generate` go on with some of its rows.
        batch: Of `generate`: ids and mask of the inputs.
        states: What the model's encoder makes of them; None without an encoder.
        arguments: Of `generate`; neither sampling nor beams.
        over: Tells of a row, by its number and the ids that it has written, whether it has ended. None: only
            end tokens tell.

    Returns:
        For each row what `generate` returns, with or without some of what follows its end.
    """
    rows = torch.arange(len(batch["input_ids"]))
    found: dict[int, Tensor] = {}
    inputs: dict[str, Any] = dict(batch)
    length = 1 if states is not None else batch["input_ids"].shape[1]  # 1: the decoder's start token
    start, left = length, arguments["max_new_tokens"]
    ends = torch.tensor(arguments["eos_token_id"] or [], dtype=torch.long, device=batch["input_ids"].device)
    while True:
        if states is not None:
            inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=states)
        ended = _Ended(ends, over, rows, start)
        output = model.generate(
            **inputs,
            **arguments | {"max_new_tokens": left},
            stopping_criteria=StoppingCriteriaList([ended]),
            return_dict_in_generate=True,
        )
        ids = output.sequences
        found |= zip(rows.tolist(), ids, strict=True)
        new = ids.shape[1] - length
        left -= new
        # None new: it hides the prompt, which the caller sees.
        if left <= 0 or new <= 0 or bool(ended.rows.all()):
            return [found[row] for row in range(len(found))]
        length = ids.shape[1]
        staying = (~ended.rows).nonzero().flatten()
        rows, states = rows[staying.cpu()], None if states is None else states[staying]
        inputs = _behind(output, inputs, staying)


def _behind(output: Any, inputs: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """What `generate` goes on from with `rows` of those that it had."""
    ids, mask = output.sequences[rows], inputs["attention_mask"][rows]
    behind = {"attention_mask": mask}
    name = next((name for name in CACHES if isinstance(getattr(output, name, None), Cache)), None)
    if name:  # without a cache, the ids are computed anew
        behind[name] = getattr(output, name)
        behind[name].batch_select_indices(rows)
    if "encoder_outputs" in inputs:
        behind["input_ids"], behind["decoder_input_ids"] = inputs["input_ids"][rows], ids
        # Without it Transformers would put all of the decoder's ids behind the cache once more.
        behind["decoder_attention_mask"] = torch.ones_like(ids)
    else:
        behind["input_ids"] = ids
        behind["attention_mask"] = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
    return behind


class _Ended(StoppingCriteria):
    """Knows which rows have ended, and stops all when half of many have.

    Args:
        ends: Ids that end a text.
        over: As of `greedy_ids`.
        rows: The rows' numbers.
        start: Where what is written begins.
    """

    def __init__(self, ends: Tensor, over: Over | None, rows: Tensor, start: int) -> None:
        self._ends, self._over, self._numbers, self._start = ends, over, rows.tolist(), start
        self.rows = torch.zeros(len(rows), dtype=torch.bool, device=ends.device)
        """Which have, [rows]."""

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Return [rows]: those that are to stop."""
        self.rows = self.rows | torch.isin(input_ids[:, -1], self._ends)
        if self._over is not None:
            written = input_ids[:, self._start :].tolist()
            said = [self._over(number, ids) for number, ids in zip(self._numbers, written, strict=True)]
            self.rows = self.rows | torch.tensor(said, device=self.rows.device)
        if len(self.rows) <= FEWEST:
            return self.rows
        return self.rows | (2 * self.rows.sum() >= len(self.rows))
