"""Label-only head: the vocabulary projection runs only where there is a label."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.core.sites import BaseView
from deltatune.errors import ModelError


class LabelledHead:
    """A tap in front of a language model's output head that lets only chosen positions through.

    Exact, and it spares the [batch, length, vocabulary] tensor: only [n_labelled, vocabulary] is made.
    """

    def __init__(self, base: nn.Module) -> None:
        self._base: Any = base

    @contextlib.contextmanager
    def select(self, keep: Tensor) -> Iterator[None]:
        """Within the block the head sees the positions where `keep` [rows, length] is true, row after row.

        Raises:
            ModelError: The base has no output head, or did not call it.
        """
        head = self._base.get_output_embeddings()
        if head is None:
            raise ModelError(
                f"{type(self._base).__name__} has no language-model head.",
                field="model",
                remedy="Use a task that fits it; `deltatune tasks` lists them.",
            )
        calls = 0

        def choose(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
            nonlocal calls
            calls += 1
            return (args[0][keep],)

        handle = head.register_forward_pre_hook(choose, prepend=True)
        try:
            yield
        finally:
            handle.remove()
        if calls != 1:
            raise ModelError(
                f"{type(self._base).__name__} called its output head {calls} times in one pass, not once.",
                field="model",
                remedy="Please report this architecture.",
            )


def decoder_inputs(base: Any, labels: Tensor) -> Tensor:
    """What the decoder of an encoder-decoder model reads: the labels, shifted right by its start token.

    Args:
        base: The model, whose own rule is used where it has one (mBART starts with the last token).
        labels: [rows, length] with -100 as padding.
    """
    if hasattr(base, "prepare_decoder_input_ids_from_labels"):
        ids: Tensor = base.prepare_decoder_input_ids_from_labels(labels=labels)
        return ids
    config = base.config
    start = torch.full_like(labels[:, :1], config.decoder_start_token_id)
    shifted = torch.cat([start, labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, config.pad_token_id)


def labelled_inputs(
    view: BaseView, batch: Mapping[str, Tensor], states: Tensor | None = None
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """What a model with labels at tokens gets for a batch, and where its logits are looked at.

    Args:
        view: The base.
        batch: As of `AdaptedModel.labelled_logits`.
        states: What the base's encoder made of it; by default the encoder runs.

    Returns:
        (the base's arguments, positions with a label [rows, length], targets [rows, length]).
    """
    inputs: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
    labels = batch["labels"]
    if states is not None:
        inputs["encoder_outputs"] = (states,)
    if view.is_encoder_decoder:
        inputs["decoder_input_ids"] = decoder_inputs(view.base, labels)
        return inputs, labels != -100, labels
    if view.labels_tokens:
        return inputs, labels != -100, labels
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    return inputs, targets != -100, targets
