"""Greedy decoding in which rows leave the batch once they have ended.

Transformers decodes a batch until its last row has ended, and computes the ended rows with it. Here a pass
stops when half of its rows have ended, and another goes on with the rest behind their part of the cache: so
no row is computed much longer than it takes, and there are few passes.
"""

from __future__ import annotations

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


def greedy_ids(
    model: Model, batch: dict[str, Tensor], states: Tensor | None, arguments: dict[str, Any]
) -> list[Tensor]:
    """Decode greedily.

    Args:
        model: Lets `generate` go on with some of its rows.
        batch: Of `generate`: ids and mask of the inputs.
        states: What the model's encoder makes of them; None without an encoder.
        arguments: Of `generate`; neither sampling nor beams.

    Returns:
        For each row what `generate` returns, with or without some of what follows its end.
    """
    rows = torch.arange(len(batch["input_ids"]))
    found: dict[int, Tensor] = {}
    inputs: dict[str, Any] = dict(batch)
    length = 1 if states is not None else batch["input_ids"].shape[1]  # 1: the decoder's start token
    left: int = arguments["max_new_tokens"]
    ends = torch.tensor(arguments["eos_token_id"] or [], dtype=torch.long, device=batch["input_ids"].device)
    while True:
        if states is not None:
            inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=states)
        output = model.generate(
            **inputs,
            **arguments | {"max_new_tokens": left},
            stopping_criteria=StoppingCriteriaList([_HalfEnded(ends)] if len(rows) > FEWEST else []),
            return_dict_in_generate=True,
        )
        ids = output.sequences
        found |= zip(rows.tolist(), ids, strict=True)
        ended = torch.isin(ids[:, length:], ends).any(dim=1)
        new = ids.shape[1] - length
        left -= new
        if left <= 0 or new <= 0 or bool(ended.all()):  # none new: it hides the prompt, which the caller sees
            return [found[row] for row in range(len(found))]
        length = ids.shape[1]
        staying = (~ended).nonzero().flatten()
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


class _HalfEnded(StoppingCriteria):
    """Stops all rows when half of them have ended.

    Args:
        ends: Ids that end a text.
    """

    def __init__(self, ends: Tensor) -> None:
        self._ends = ends
        self._ended: Tensor | None = None

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Return [rows]: all are to stop, or none."""
        now = torch.isin(input_ids[:, -1], self._ends)
        self._ended = now if self._ended is None else self._ended | now
        return (2 * self._ended.sum() >= len(self._ended)).expand(len(self._ended))
