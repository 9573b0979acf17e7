"""Which numbers an evaluation will have, and which of them decides: known before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deltatune.errors import RecipeError, nearest
from deltatune.evaluation.metrics import METRICS
from deltatune.tasks import TASKS
from deltatune.tasks.tokens import LOSSES


class EvaluationSettings(Protocol):
    """The part of a recipe's `evaluation` section that is needed here."""

    @property
    def metrics(self) -> str | Sequence[str]:
        """`auto`, or names of metrics ("rouge") and of their keys ("rougeL_f")."""

    @property
    def primary(self) -> str:
        """`auto`, or the key that decides a comparison."""

    @property
    def select_by(self) -> str:
        """The key by which validation rows choose."""

    @property
    def batch_size(self) -> int:
        """Rows at once."""

    @property
    def max_new_tokens(self) -> int:
        """Where a generated text is cut off."""

    @property
    def num_beams(self) -> int:
        """1 is greedy decoding."""

    @property
    def positive(self) -> str | None:
        """Of two classes the positive one; None: the second."""


def metric_keys(spec: EvaluationSettings, task: str, *, targets: bool = True) -> list[str]:
    """Keys that an evaluation with these settings will have. Call it before training, to fail early.

    Args:
        spec: The settings.
        task: The recipe's task.
        targets: Whether the rows have targets; plain text has none.

    Raises:
        RecipeError: An unknown metric, one that does not fit the task, or one that is to decide (`primary`,
            `select_by`) and is better in neither direction.
    """
    if isinstance(spec.metrics, str) and spec.metrics != "auto":
        raise RecipeError(
            f"{spec.metrics!r} is neither auto nor a list of metrics.",
            field="evaluation.metrics",
            remedy=f"Write [{spec.metrics}].",
        )
    names = _automatic(task, targets) if isinstance(spec.metrics, str) else spec.metrics
    offered = _offered(task, targets)
    wanted: list[str] = []
    for index, name in enumerate(names):
        wanted += _expand(name, offered, f"evaluation.metrics[{index}]", task)
    ranking = {key: [key] for key in _ranking_keys(task, targets)}
    _expand(spec.select_by, ranking, "evaluation.select_by", task)  # is measured on validation rows only
    if spec.primary != "auto":
        wanted += _expand(spec.primary, ranking, "evaluation.primary", task)
    return list(dict.fromkeys(wanted))


def generates(spec: EvaluationSettings, task: str, *, targets: bool = True) -> bool:
    """Whether an evaluation with these settings lets the model write texts; arguments as of `metric_keys`."""
    keys = [*metric_keys(spec, task, targets=targets), spec.select_by]
    return TASKS.get(task).writes_text and targets and bool(scoring(keys))


def scoring(keys: Sequence[str]) -> list[str]:
    """Names of the metrics that yield some of `keys` by scoring answers; losses need none."""
    return [
        name for name in METRICS.names() if name not in LOSSES and set(METRICS.get(name).keys) & set(keys)
    ]


def primary_metric(spec: EvaluationSettings, task: str, *, targets: bool = True) -> str:
    """The key that decides: as the recipe says; else the task's own if evaluated; else the first that can.

    Raises:
        RecipeError: An unknown metric, one that does not fit the task, or no metric that could decide.
    """
    keys = metric_keys(spec, task, targets=targets)
    if spec.primary != "auto":
        return spec.primary
    deciding = [key for key in keys if key in _ranking_keys(task, targets)]
    if not deciding:
        raise RecipeError(
            f"none of {', '.join(keys) or 'no metrics'} tells better from worse.",
            field="evaluation.metrics",
            remedy=f"Add {TASKS.get(task).primary}.",
        )
    primary = TASKS.get(task).primary
    return primary if primary in deciding else deciding[0]


def higher_is_better(key: str) -> bool:
    """Whether a higher value of this metric key is the better one.

    Raises:
        RecipeError: No metric has this key, or it is better in neither direction.
    """
    known = {k: direction for name in METRICS.names() for k, direction in METRICS.get(name).keys.items()}
    direction = known.get(key)
    if direction is None:
        ranking = [k for k, d in known.items() if d is not None]
        raise RecipeError(f"{key!r} does not tell better from worse.", remedy=nearest(key, ranking))
    return direction


def _automatic(task: str, targets: bool) -> tuple[str, ...]:
    return TASKS.get(task).metrics if targets else TASKS.get(task).losses


def _offered(task: str, targets: bool) -> dict[str, list[str]]:
    """What a recipe may ask for in this task: names of metrics, and single keys, each with its keys."""
    kind, losses = TASKS.get(task).scored_as, TASKS.get(task).losses
    offered: dict[str, list[str]] = {}
    for name in METRICS.names():
        metric = METRICS.get(name)
        if name in losses or (targets and kind in metric.functions):
            offered[name] = list(metric.keys)
            offered |= {key: [key] for key in metric.keys}
    return offered


def _ranking_keys(task: str, targets: bool) -> list[str]:
    keys = {key for names in _offered(task, targets).values() for key in names}
    directions = {k: d for name in METRICS.names() for k, d in METRICS.get(name).keys.items()}
    return sorted(key for key in keys if directions[key] is not None)


def _expand(name: str, offered: dict[str, list[str]], where: str, task: str) -> list[str]:
    if name not in offered:
        raise RecipeError(
            f"{name!r} is not a metric that can be used here in the task {task}.",
            field=where,
            remedy=nearest(name, offered),
        )
    return offered[name]
