"""The table of metrics, and what one is: functions by kind of answer, keys with directions, resampling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from deltatune.evaluation.corpus import CorpusMetric
from deltatune.evaluation.metrics.chances import ChanceMetric
from deltatune.registry import Registry


@dataclass(frozen=True)
class Scores:
    """What a metric found.

    Attributes:
        values: One number a key, over all rows.
        examples: Per key one number a row, for metrics that are means over rows.
        signatures: By metric name, what must be known to compare the numbers with others'.
    """

    values: dict[str, float]
    examples: dict[str, list[float]] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def per_example(
        cls, examples: dict[str, list[float]], signatures: dict[str, str] | None = None
    ) -> Scores:
        """Scores whose values are the means over the rows."""
        values = {key: sum(scores) / len(scores) for key, scores in examples.items()}
        return cls(values, examples, signatures or {})


@dataclass(frozen=True)
class Metric:
    """A registered metric."""

    keys: Mapping[str, bool | None]
    """The numbers it yields, each with whether higher is better (None: neither way)."""
    functions: Mapping[str, Callable[..., Scores]] = field(default_factory=dict)
    """By kind of answer (`Task.scored_as`): (answers, references, what else the kind gives) to scores."""
    corpus: Mapping[str, CorpusMetric] = field(default_factory=dict)
    """By key: how a number that is no mean over rows follows from sums over them."""
    corpus_of: Mapping[str, Mapping[str, CorpusMetric]] = field(default_factory=dict)
    """The same by kind of answer, for kinds whose answers are read in another way."""
    chances: Mapping[str, ChanceMetric] = field(default_factory=dict)
    """By key: how a number follows from the probabilities of classes."""
    several: Callable[..., Scores] | None = None
    """Of texts: (generations, references of each row) to scores, where rows have several. None: a row's
    number is the best that any of its references gives; what is no mean over rows is of the first ones."""


METRICS: Registry[Metric] = Registry("metric")
"""Metrics by the name that a recipe's `evaluation.metrics` bears."""


def add_function(
    name: str,
    keys: Mapping[str, bool | None],
    kind: str,
    function: Callable[..., Scores],
    corpus: Mapping[str, CorpusMetric] | None = None,
) -> None:
    """Register a metric of a kind of answer under a name that another kind may have taken before."""
    metric = METRICS.get(name) if name in METRICS else Metric(keys)
    if name in METRICS:
        METRICS.remove(name)
    functions = {**metric.functions, kind: function}
    METRICS.add(
        name, replace(metric, functions=functions, corpus_of={**metric.corpus_of, kind: corpus or {}})
    )


def corpus_metric(key: str, kind: str = "") -> CorpusMetric | None:
    """How the number of this key follows from sums over rows; None if it is a mean, or of losses.

    Args:
        key: The number.
        kind: The kind of answers, which may be read in another way than texts, classes and numbers are.
    """
    for name in METRICS.names():
        corpus = METRICS.get(name).corpus_of.get(kind, METRICS.get(name).corpus)
        if key in corpus:
            return corpus[key]
    return None


def chance_metric(key: str) -> ChanceMetric | None:
    """How the number of this key follows from probabilities of classes; None if it does from others."""
    for name in METRICS.names():
        if key in METRICS.get(name).chances:
            return METRICS.get(name).chances[key]
    return None


def score(
    kind: str, names: Sequence[str], outputs: Sequence[Any], truths: Sequence[Any], *more: Any
) -> Scores:
    """Run each named metric's function of `kind` and put the results together.

    Raises:
        ValueError: Unequal numbers of answers and references, or none.
    """
    if len(outputs) != len(truths) or not truths:
        raise ValueError(f"{len(outputs)} predictions for {len(truths)} references; one each is needed.")
    return together(METRICS.get(name).functions[kind](outputs, truths, *more) for name in names)


def together(found: Iterable[Scores]) -> Scores:
    """What several metrics found, as one."""
    whole = Scores({})
    for scores in found:
        whole.values.update(scores.values)
        whole.examples.update(scores.examples)
        whole.signatures.update(scores.signatures)
    return whole
