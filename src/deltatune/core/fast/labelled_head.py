"""Label-only head: the vocabulary projection runs only where there is a label."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deltatune.core.devices import send
from deltatune.core.sites import BaseView
from deltatune.errors import ModelError


class LabelledHead:
    """A tap in front of a language model's output head that lets only chosen positions through.

    Exact, and it spares the [batch, length, vocabulary] tensor: only [n_labelled, vocabulary] is made.
    """

    def __init__(self, base: nn.Module) -> None:
        self._base: Any = base

    @contextlib.contextmanager
    def select(self, places: Tensor) -> Iterator[None]:
        """Within the block the head sees the positions at `places` [n] of all rows one after another.

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
            return (args[0].flatten(0, 1).index_select(0, places),)

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

    @contextlib.contextmanager
    def deferred(self) -> Iterator[list[Tensor]]:
        """Within the block the head computes nothing; what it is given, [n, width], is put into the list."""
        given: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
            given.append(args[0])
            return (args[0][:0],)

        handle = self._base.get_output_embeddings().register_forward_pre_hook(keep)
        try:
            yield given
        finally:
            handle.remove()

    def why_not_fused(self) -> str | None:
        """Why the loss cannot be computed from what the head is given and its weight; None if it can be."""
        head = self._base.get_output_embeddings()
        if type(head) is not nn.Linear:
            return f"the output head is a {type(head).__name__}, not a plain linear layer"
        return None if head.bias is None else "the output head has a bias"


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


class Labelled(NamedTuple):
    """What a model with labels at tokens gets for a batch, and where its logits are looked at."""

    inputs: dict[str, Any]
    """The base's arguments."""
    keep: Tensor
    """Where there is a label, [rows, length]; where the labels are, so on the host if these stayed there."""
    places: Tensor
    """The same as places in all rows one after another, [n], on the base's device."""
    targets: Tensor
    """The labels there, [n], on the base's device."""

    def of(self, logits: Tensor) -> Tensor:
        """Those of logits [rows, length, ...] that are looked at, [n, ...]."""
        return logits.flatten(0, 1).index_select(0, self.places)


def labelled_inputs(view: BaseView, batch: Mapping[str, Tensor], states: Tensor | None = None) -> Labelled:
    """Find out by the labels, where they are, what a base gets and where it is looked at.

    Args:
        view: The base.
        batch: As of `AdaptedModel.labelled_logits`.
        states: What the base's encoder made of it; by default the encoder runs.
    """
    inputs: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
    labels, device = batch["labels"], view.device
    if states is not None:
        inputs["encoder_outputs"] = (states,)
    if view.is_encoder_decoder:
        inputs["decoder_input_ids"] = send(decoder_inputs(view.base, labels), device)
    if view.is_encoder_decoder or view.labels_tokens:
        targets = labels
    else:
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    keep = targets != -100
    places = keep.flatten().nonzero().squeeze(1)
    return Labelled(inputs, keep, send(places, device), send(targets.flatten()[places], device))
