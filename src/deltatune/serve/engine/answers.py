"""Answers of several deltas from one pass: what their kind asks the model for is asked for all at once.

How outputs become an answer is a kind's affair (`deltatune.evaluation.kinds`), and it asks a model with one
delta. So each request is answered twice: first by a model that notes what it is asked for and breaks off;
then, when one pass has computed all that was noted, by one that gives what belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoded
from deltatune.data.rows import Row
from deltatune.evaluation import answer
from deltatune.results import Prediction
from deltatune.runs.loaded import LoadedRun
from deltatune.serve.engine.acting import acting
from deltatune.tasks import TASKS
from deltatune.tasks.task import IGNORED


@dataclass(frozen=True)
class Part:
    """Rows of one delta."""

    run: LoadedRun
    rows: Sequence[Row]
    encoded: Encoded


class _Asked(Exception):
    """What a model was asked for."""

    def __init__(self, what: str, batch: Mapping[str, Tensor]) -> None:
        super().__init__(what)
        self.what, self.batch = what, dict(batch)

    @property
    def group(self) -> tuple[Any, ...]:
        """Parts with the same one can be computed in one pass."""
        shapes = [
            (name, tensor.dim(), tensor.shape[1] if tensor.dim() == 3 else None)
            for name, tensor in sorted(self.batch.items())
        ]
        return (self.what, *shapes)


class _Model:
    """A model that is asked once, and breaks off; or that knows what it will be asked for."""

    training = False
    may_drop_rows = is_sharded = False

    def __init__(self, device: torch.device, known: Any = None) -> None:
        self.device = device
        self._known = known

    def modules(self) -> Iterator[torch.nn.Module]:
        """None: the engine keeps all of them in evaluation mode."""
        return iter(())

    def _asked(self, what: str, batch: Mapping[str, Tensor]) -> Any:
        if self._known is None:
            raise _Asked(what, batch)
        return self._known

    def class_logits(self, batch: Mapping[str, Tensor]) -> Any:
        """As of `AdaptedModel`."""
        return self._asked("class_logits", batch)

    def labelled_logits(self, batch: Mapping[str, Tensor], states: Tensor | None = None) -> Any:
        """As of `AdaptedModel`."""
        return self._asked("labelled_logits", batch)

    def text_vectors(self, batch: Mapping[str, Tensor]) -> Any:
        """As of `AdaptedModel`."""
        return self._asked("text_vectors", batch)

    def encoder_states(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Nobody asks who does not write."""
        return None

    def generate(self, **arguments: Any) -> Any:
        """Nobody asks who does not write."""
        raise NotImplementedError


def answer_together(model: AdaptedModel, parts: Sequence[Part]) -> list[list[Prediction]]:
    """Answer the rows of several deltas.

    Args:
        model: The model; each part's rows go to its delta.
        parts: Each has its rows in one batch.

    Returns:
        For each part the predictions of its rows.
    """
    asked = [_noted(model.device, part) for part in parts]
    outputs: dict[int, Any] = {}
    for group in dict.fromkeys(each.group for each in asked):
        places = [place for place, each in enumerate(asked) if each.group == group]
        found = _computed(model, [parts[place] for place in places], [asked[place] for place in places])
        outputs |= zip(places, found, strict=True)
    return [_answered(_Model(model.device, outputs[place]), part) for place, part in enumerate(parts)]


def answer_alone(model: AdaptedModel, part: Part) -> list[Prediction]:
    """Answer rows by a pass, or several, of their own, as `predict` does: beam search, for example."""
    with acting(model, [part.run.adapter]):
        return _answered(model, part)


def _answered(model: Any, part: Part) -> list[Prediction]:
    spec = part.run.recipe.evaluation.model_copy(update={"batch_size": len(part.rows)})
    return answer(model, part.rows, part.encoded, part.run.encoder, spec, part.run.threshold)


def _noted(device: torch.device, part: Part) -> _Asked:
    try:
        _answered(_Model(device), part)
    except _Asked as asked:
        return asked
    raise RuntimeError(f"the task {part.run.recipe.task} answered without asking its model.")


def _computed(model: AdaptedModel, parts: Sequence[Part], asked: Sequence[_Asked]) -> list[Any]:
    """One pass for all, and what of it belongs to each."""
    sizes = [len(next(iter(each.batch.values()))) for each in asked]
    pairs = zip(parts, sizes, strict=True)
    adapters = [part.run.adapter for part, size in pairs for _ in range(size)]
    tokens = None if "pixel_values" in asked[0].batch else parts[0].run.encoder.tokens
    fills = {"labels": IGNORED}
    if tokens is not None:  # by its id some models find where a row ends
        fills |= {"input_ids": tokens.pad_id, "token_type_ids": tokens.pad_type}
    batch = {
        name: _stacked([each.batch[name] for each in asked], fills.get(name, 0)) for name in asked[0].batch
    }
    compute: Callable[[Mapping[str, Tensor]], Any] = getattr(model, asked[0].what)
    with acting(model, adapters):
        found = compute(batch)
    if isinstance(found, Tensor):
        return list(found.split(sizes))
    counts = [
        int(TASKS.get(part.run.recipe.task).count(each.batch["labels"]).sum())
        for part, each in zip(parts, asked, strict=True)
    ]
    return list(zip(*(tensor.split(counts) for tensor in found), strict=True))


def _stacked(tensors: Sequence[Tensor], fill: int) -> Tensor:
    """Batches one below the other, padded on the right to the longest: [rows, ..., length]."""
    if tensors[0].is_floating_point():  # images, which all have one size
        return torch.cat(list(tensors))
    longest = max(tensor.shape[-1] for tensor in tensors)
    padded = [F.pad(tensor, (0, longest - tensor.shape[-1]), value=fill) for tensor in tensors]
    return torch.cat(padded)
