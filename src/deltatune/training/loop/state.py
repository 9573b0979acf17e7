"""The states that a run keeps: its adapter's at its best, and all from which an interrupted run goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltatune.core.adapter import Adapter
from deltatune.errors import AdapterError
from deltatune.results import CertificateLine
from deltatune.training.proof.certificate import snapshot

ANEW = "Start the run again with --overwrite."


def adapter_state(adapter: Adapter) -> dict[str, Any]:
    """A copy of its parameters, and of what else its method needs to go on."""
    return {"parameters": snapshot(adapter), "extra": _copied(adapter.resume_state())}


@torch.no_grad()
def load_adapter_state(adapter: Adapter, state: dict[str, Any], device: torch.device) -> None:
    """Take what `adapter_state` gave."""
    parameters = dict(adapter.named_parameters())
    for name, value in state["parameters"].items():
        parameters[name].copy_(value)
    adapter.load_resume_state(_copied(state["extra"], device))


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Its moments, in the order of `parameters`."""
    return [optimizer.state[parameter] for parameter in parameters]


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], state: Sequence[dict[str, Any]]
) -> None:
    """Take what `optimizer_state` gave."""
    for parameter, saved in zip(parameters, state, strict=True):
        optimizer.state[parameter] = {
            # The number of steps as well: a fused kernel counts them where the parameters are.
            key: value.to(parameter.device) if isinstance(value, Tensor) else value
            for key, value in saved.items()
        }


@contextlib.contextmanager
def state_explained(folder: Path) -> Iterator[None]:
    """Within the block a state is taken up; one that does not fit this run is an error that says so.

    Raises:
        AdapterError: A part of it is missing, or of another kind or shape.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise AdapterError(
            f"the state in '{folder}' is not one of this run ({type(error).__name__}: {error}).", remedy=ANEW
        ) from error


def state_lines(lines: Sequence[Any], folder: Path) -> list[CertificateLine]:
    """The certificate's lines of the part of a run before an interruption.

    Raises:
        AdapterError: They are none.
    """
    where = f"a line of the certificate in '{folder}'"
    return [CertificateLine.of(line, where, remedy=ANEW, error=AdapterError) for line in lines]


def _copied(value: Any, device: torch.device | str = "cpu") -> Any:
    """A tree of dicts with its tensors copied to `device`."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {key: _copied(item, device) for key, item in value.items()}
    return value
