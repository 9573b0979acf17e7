"""Several texts behind one prompt: what the model makes of the prompt is computed once, and shared by them.

The answers to a question, of which the likeliest is wanted, differ in their last tokens only. So the prompts
go through the model, padded on the left, and leave their keys and values in a cache; each text then goes
through behind its prompt's part of the cache. Its first token needs no pass of its own: the prompt's last
position foretells it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache

from deltatune.core.fast.labelled_head import Labelled
from deltatune.evaluation.greedy import CACHES
from deltatune.evaluation.interfaces import evaluating, longest_first

Asked = tuple[Sequence[int], Sequence[int]]
"""The ids of a prompt, and those of a text behind it, of which there is at least one."""
FLOAT32, OTHERS = 1e-3, 6e-2
"""How far log-probabilities may be apart, as a share of the largest: in float32, and in other types."""
TRIED = 2
"""Prompts that are computed in both ways, to see whether they agree."""


class Score(NamedTuple):
    """Of a text behind a prompt."""

    likelihood: float
    """The log-probability of all of its tokens."""
    greedy: bool
    """Whether each is the likeliest."""


class Prompts(NamedTuple):
    """Prompts that have gone through a model."""

    cache: Cache
    mask: Tensor
    """Which places of the cache are seen, [prompts, length]; learned vectors are among them."""
    logits: Tensor
    """Of the next token, [prompts, vocabulary]."""


class Continuations:
    """Scores texts behind prompts.

    Whether prompts may be shared is tried on the first of them. A model that counts positions by what its
    cache holds, or keeps no keys and values, computes each prompt with its text.

    Args:
        model: `AdaptedModel` around a decoder-only base, with the deltas that act.
        pad_id: Stands for no token.
        batch_size: Rows at once.
        room: Positions of the model; of longer rows the beginning is left out.
    """

    def __init__(self, model: Any, pad_id: int, batch_size: int, room: int) -> None:
        self._model, self._pad, self._size, self._room = model, pad_id, batch_size, room
        self._shares: bool | None = None

    def scores(self, asked: Sequence[Asked]) -> list[Score]:
        """Of each text, behind its prompt."""
        alike: dict[tuple[int, ...], list[int]] = {}
        for place, (prompt, text) in enumerate(asked):
            if prompt and len(prompt) + len(text) <= self._room:
                alike.setdefault(tuple(prompt), []).append(place)
        groups = [places for places in alike.values() if len(places) > 1]
        if self._shares is None and groups:
            self._shares = self._agrees([asked[place] for places in groups[:TRIED] for place in places])
        shared = [place for places in groups for place in places] if self._shares else []
        alone = sorted(set(range(len(asked))) - set(shared))
        found: dict[int, Score] = {}
        for places, way in ((shared, self._together), (alone, self._apart)):
            found |= zip(places, way([asked[place] for place in places]), strict=True)
        return [found[place] for place in range(len(asked))]

    def _agrees(self, asked: Sequence[Asked]) -> bool:
        """Whether both ways give the same."""
        try:
            shared = torch.tensor([score.likelihood for score in self._together(asked)])
        except Exception:  # any code may be asked for a cache
            return False
        alone = torch.tensor([score.likelihood for score in self._apart(asked)])
        limit = FLOAT32 if self._model.base.dtype == torch.float32 else OTHERS
        return bool((shared - alone).abs().max() <= limit * alone.abs().max())

    def _apart(self, asked: Sequence[Asked]) -> list[Score]:
        """Each text with a prompt of its own."""
        found: dict[int, Score] = {}
        for places in longest_first([len(prompt) + len(text) for prompt, text in asked], self._size):
            found |= zip(places, self._whole([asked[place] for place in places]), strict=True)
        return [found[place] for place in range(len(asked))]

    def _whole(self, asked: Sequence[Asked]) -> list[Score]:
        kept = [[*prompt, *text][-self._room - 1 :] for prompt, text in asked]
        ids, mask = self._padded([row[:-1] for row in kept], left=False)
        wanted, _ = self._padded([row[1:] for row in kept], left=False)
        counts = [min(len(text), len(row) - 1) for row, (_, text) in zip(kept, asked, strict=True)]
        ends = mask.sum(dim=1)
        starts = ends - torch.tensor(counts, device=ends.device)
        at = torch.arange(ids.shape[1], device=ends.device)
        keep = (at >= starts[:, None]) & (at < ends[:, None])
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        labelled = _labelled(inputs, keep, wanted)
        with evaluating(self._model), self._model.fast.at_labels(labelled):
            logits = self._model(**inputs).logits
        return _scored(logits, labelled.targets, counts)

    def _together(self, asked: Sequence[Asked]) -> list[Score]:
        """Texts behind prompts that are computed once."""
        alike: dict[tuple[int, ...], list[int]] = {}
        for place, (prompt, _) in enumerate(asked):
            alike.setdefault(tuple(prompt), []).append(place)
        groups, found = list(alike.items()), dict[int, Score]()
        for part in longest_first([len(prompt) for prompt, _ in groups], self._size):
            with evaluating(self._model):
                prompts = read(self._model, *self._padded([groups[number][0] for number in part], left=True))
                places = [(row, place) for row, number in enumerate(part) for place in groups[number][1]]
                texts = [asked[place][1] for _, place in places]
                scores = self._behind_all(prompts, [row for row, _ in places], texts)
            found |= {place: score for (_, place), score in zip(places, scores, strict=True)}
        return [found[place] for place in range(len(asked))]

    def _behind_all(
        self, prompts: Prompts, owners: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> list[Score]:
        """Scores of texts, each behind the prompt whose row it names."""
        first = torch.log_softmax(prompts.logits.float(), dim=-1)
        likeliest = first.argmax(dim=-1).tolist()
        begun = first[torch.tensor(owners), torch.tensor([text[0] for text in texts])].tolist()
        scores = [
            Score(value, likeliest[owner] == text[0])
            for value, owner, text in zip(begun, owners, texts, strict=True)
        ]
        longer = [place for place, text in enumerate(texts) if len(text) > 1]
        for part in longest_first([len(texts[place]) for place in longer], self._size):
            rows = [longer[place] for place in part]
            rest = self._behind(prompts, [owners[row] for row in rows], [texts[row] for row in rows])
            for row, (value, hit) in zip(rows, rest, strict=True):
                scores[row] = Score(scores[row].likelihood + value, scores[row].greedy and hit)
        return scores

    def _behind(self, prompts: Prompts, owners: Sequence[int], texts: Sequence[Sequence[int]]) -> list[Score]:
        """Scores of all tokens of each text but the first; texts have two tokens at least."""
        index = torch.tensor(owners, device=self._model.device)
        ids, mask = self._padded([text[:-1] for text in texts], left=False)
        wanted, _ = self._padded([text[1:] for text in texts], left=False)
        seen = torch.cat([prompts.mask.index_select(0, index), mask], dim=1)
        labelled = _labelled(_inputs(self._model, ids, seen), mask.bool(), wanted)
        with self._model.behind_prompts():
            logits, _ = _logits(self._model, labelled, _rows_of(prompts.cache, index))
        return _scored(logits, labelled.targets, [len(text) - 1 for text in texts])

    def _padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        """Ids and mask [rows, length] on the model's device."""
        length = max(map(len, rows))
        ids, mask = [], []
        for row in rows:
            blank = (length - len(row), 0) if left else (0, length - len(row))
            ids.append(F.pad(torch.tensor(row), blank, value=self._pad))
            mask.append(F.pad(torch.ones(len(row), dtype=torch.long), blank))
        return torch.stack(ids).to(self._model.device), torch.stack(mask).to(self._model.device)


class SharingError(Exception):
    """A model leaves no cache behind a prompt, or not one whose rows can be chosen."""


def read(model: Any, ids: Tensor, mask: Tensor) -> Prompts:
    """Let prompts, padded on the left, go through the model, without gradients.

    Args:
        model: As of `Continuations`, in evaluation mode.
        ids: [prompts, length].
        mask: Which of them are no padding.

    Raises:
        SharingError: It leaves no cache.
    """
    keep = torch.zeros_like(mask, dtype=torch.bool)
    keep[:, -1] = True
    logits, cache = _logits(model, _labelled(_inputs(model, ids, mask), keep, ids), None)
    prompted = model.prompted_mask
    return Prompts(cache, mask if prompted is None else prompted, logits)


def _cache_name(model: Any) -> str:
    takes = inspect.signature(model.base.forward).parameters
    return next((name for name in CACHES if name in takes), CACHES[-1])


def _logits(model: Any, labelled: Labelled, cache: Cache | None) -> tuple[Tensor, Cache]:
    """Logits at the chosen positions, and the cache with what was read."""
    name = _cache_name(model)
    given = {} if cache is None else {name: cache}
    with model.fast.at_labels(labelled):
        output = model(**labelled.inputs, **given, use_cache=True)
    left = getattr(output, name, None)
    if not isinstance(left, Cache):
        raise SharingError
    return output.logits, left


def _inputs(model: Any, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What the base gets for the last places of a mask: positions are counted from it."""
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in inspect.signature(model.base.forward).parameters:
        inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return inputs


def _labelled(inputs: dict[str, Any], keep: Tensor, wanted: Tensor) -> Labelled:
    """Inputs with the positions [rows, length] where logits are looked at, and the ids that follow there."""
    places = keep.flatten().nonzero().squeeze(1)
    return Labelled(inputs, keep, places, wanted.flatten()[places])


def _scored(logits: Tensor, targets: Tensor, counts: Sequence[int]) -> list[Score]:
    """Scores of rows, of which each has so many logits, row after row."""
    likely = torch.log_softmax(logits.float(), dim=-1).gather(1, targets[:, None])[:, 0]
    hits = logits.argmax(dim=-1) == targets
    parts = zip(likely.split(list(counts)), hits.split(list(counts)), strict=True)
    return [Score(float(part.sum()), bool(hit.all())) for part, hit in parts]


def _rows_of(cache: Cache, rows: Tensor) -> Cache:
    """A cache of these rows of another, which stays as it is.

    Raises:
        SharingError: A part of it has no rows to choose.
    """
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    try:
        chosen.batch_select_indices(rows)
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise SharingError from error
    return chosen
