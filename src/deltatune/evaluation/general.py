"""Forgetting: the loss on general text, of the base alone and with a delta.

Decoders predict each token of a text from those before it, as in their pretraining. Encoder-decoders of T5's
kind were trained to fill in corrupted spans (Raffel et al. 2020, section 3.1.4): 15 % of the tokens, in spans
of three on average, which are drawn here once for each text. Other bases have no head that predicts text, or
were trained by what is not rebuilt here, and a number made up for them would mean nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from torch import Tensor

from deltatune.data.general import FIELD, GeneralText
from deltatune.errors import DataError
from deltatune.evaluation.interfaces import Model, Progress
from deltatune.evaluation.kinds.kind import Job
from deltatune.evaluation.kinds.texts import row_losses
from deltatune.evaluation.loss import RowLoss, mean
from deltatune.results.lost import GeneralLoss
from deltatune.tasks import tasks_that, tokens
from deltatune.tasks.task import IGNORED, Feature, Tools

LONGEST = 512
"""Tokens of a document that are read; the rest of it is left out."""
NEXT, SPANS = "next token", "corrupted spans"
CORRUPTED, SPAN = 0.15, 3
"""Share of the tokens that are taken out, and the mean length of a span of them."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Documents:
    """General text as a base reads it."""

    measure: str
    """`NEXT` or `SPANS`."""
    ids: list[str]
    """Names of the documents."""
    features: list[Feature]
    lengths: list[int]


@dataclass(frozen=True)
class _Encoder:
    """Makes batches of documents; its task says how the labels of a row are counted."""

    tools: Tools
    measure: str
    labels: Sequence[str] | None = None
    scale: None = None

    @property
    def task(self) -> str:
        goes_on = self.measure == NEXT
        return tasks_that(lambda task: task.writes_text and task.continues is goes_on)[0]

    @property
    def eos_ids(self) -> Sequence[int]:
        return list(self.tools.tokens.eos_ids)

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        labels = tokens.pad([feature["labels"] for feature in features], IGNORED)
        return {**self.collate_prompts(features), "labels": labels}

    def collate_prompts(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        return tokens.padded([feature["input_ids"] for feature in features], self.tools)

    def reference(self, text: str) -> str:
        return text

    def before(self, ids: list[int], text: str) -> list[int] | None:
        return None  # nothing is generated

    def decode(self, ids: list[int]) -> str:
        return str(self.tools.tokens.decode(ids))


def measure_of(config: Any, tools: Tools) -> str | None:
    """How the loss of a base on plain text is defined; None: it is not.

    Args:
        config: Of the base, which writes texts.
        tools: The encoder of its rows.
    """
    if not config.is_encoder_decoder:
        return NEXT
    return SPANS if _sentinels(tools, 1) else None


def read(text: GeneralText, measure: str, tools: Tools, longest: int = LONGEST) -> Documents:
    """Tokenise documents; those without a token to predict are left out.

    Args:
        text: The documents.
        measure: What `measure_of` gave.
        tools: The encoder of the base's rows.
        longest: Tokens of a document that are read.

    Raises:
        DataError: None of them has a token to predict.
    """
    feature_of = _to_go_on if measure == NEXT else _to_fill_in
    features = [feature_of(document, tools, longest) for document in text.texts]
    kept = [(id_, feature) for id_, feature in zip(text.ids, features, strict=True) if feature is not None]
    if not kept:
        raise DataError(
            f"'{text.name}' has no document of two tokens.", field=FIELD, remedy="Name a file of texts."
        )
    ids, made = zip(*kept, strict=True)
    both = measure != NEXT  # an encoder reads, and a decoder writes
    lengths = [len(feature["input_ids"]) + both * len(feature["labels"]) for feature in made]
    return Documents(measure, list(ids), list(made), lengths)


def losses(
    model: Model, documents: Documents, tools: Tools, batch_size: int, progress: Progress | None = None
) -> list[RowLoss]:
    """The loss of each document by what acts in the model at present."""
    return row_losses(Job(model, documents, _Encoder(tools, documents.measure), batch_size, progress))


def compared(
    text: GeneralText, documents: Documents, base: Sequence[RowLoss], delta: Sequence[RowLoss]
) -> GeneralLoss:
    """How much the loss has changed, with an interval by resampling documents in pairs.

    Raises:
        TrainingError: A loss is not finite.
    """
    before, after = mean(base), mean(delta)
    low, high = _interval(base, delta)
    return GeneralLoss(
        text=text.name,
        sha256=text.digest,
        measure=documents.measure,
        documents=len(documents.ids),
        tokens=sum(row.tokens for row in base),
        base=before,
        delta=after,
        difference=after - before,
        low=low,
        high=high,
    )


def only_guesses(documents: Documents, base: Sequence[RowLoss], vocabulary: int) -> bool:
    """Whether a base that was to fill in spans does no better than giving all tokens the same chance.

    Tuned to write titles, T5 may give its sentinels e^-46: what a delta adds to that means nothing.
    """
    return documents.measure == SPANS and mean(base) > math.log(vocabulary)


def lines(documents: Documents, base: Sequence[RowLoss], delta: Sequence[RowLoss]) -> list[dict[str, Any]]:
    """What each document adds, for the base alone and with the delta: a line for each."""
    return [
        {"id": id_, "tokens": one.tokens, "base": one.nll, "delta": other.nll}
        for id_, one, other in zip(documents.ids, base, delta, strict=True)
    ]


def _interval(base: Sequence[RowLoss], delta: Sequence[RowLoss]) -> tuple[float | None, float | None]:
    count = len(base)
    if count < 2:
        return None, None
    changes = np.array([after.nll - before.nll for before, after in zip(base, delta, strict=True)])
    counts = np.array([row.tokens for row in base], dtype=np.float64)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    low, high = np.percentile((drawn @ changes) / (drawn @ counts), [2.5, 97.5])
    return float(low), float(high)


def _to_go_on(text: str, tools: Tools, longest: int) -> Feature | None:
    """A text whose tokens are predicted one after the other; its end is not, which chats end otherwise."""
    ids, _ = tools.tokens.prompt(text, limit=len(text.encode()) + 8)
    ids = ids[:longest]
    return {"input_ids": ids, "labels": ids} if len(ids) > 1 else None


def _to_fill_in(text: str, tools: Tools, longest: int) -> Feature | None:
    """A text with spans taken out, and what was in them behind the sentinel of each, as T5 learned it."""
    ids, end = tools.tokens.bare(text)[: longest - 1], tools.tokens.eos_ids[0]
    corrupted = min(max(1, round(CORRUPTED * len(ids))), len(ids) - 1)
    if corrupted < 1:
        return None
    draw = random.Random(text)
    spans = min(max(1, round(corrupted / SPAN)), len(ids) - corrupted)
    sentinels = _sentinels(tools, spans)
    kept, taken = _parts(len(ids) - corrupted, len(sentinels), draw), _parts(corrupted, len(sentinels), draw)
    read, wanted, at = [], [], 0
    for sentinel, left, out in zip(sentinels, kept, taken, strict=True):
        read += [*ids[at : at + left], sentinel]
        wanted += [sentinel, *ids[at + left : at + left + out]]
        at += left + out
    return {"input_ids": [*read, end], "labels": [*wanted, end]}


def _parts(total: int, count: int, draw: random.Random) -> list[int]:
    """`total` cut at random into `count` parts, none of which is empty."""
    cuts = sorted(draw.sample(range(1, total), count - 1))
    return [end - start for start, end in zip([0, *cuts], [*cuts, total], strict=True)]


def _sentinels(tools: Tools, count: int) -> list[int]:
    """Ids of the first of T5's sentinels, as far as there are so many; none of other tokenizers."""
    tokenizer = tools.tokens.tokenizer
    ids = (tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(count))
    return list(takewhile(lambda id_: id_ not in (None, tokenizer.unk_token_id), ids))
