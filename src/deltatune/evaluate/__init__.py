"""Evaluation by generation and by classification, with metrics that refuse teacher-forced text."""

from deltatune.evaluate.generation import Generation, generate
from deltatune.evaluate.loss import classify, loss_on
from deltatune.evaluate.metrics import (
    METRICS,
    Scores,
    class_metric,
    classification_metrics,
    text_metric,
    text_metrics,
)
from deltatune.evaluate.run import (
    PRIMARY,
    Evaluation,
    Prediction,
    evaluate,
    higher_is_better,
    metric_keys,
    primary_metric,
    probabilities,
)

__all__ = [
    "METRICS",
    "PRIMARY",
    "Evaluation",
    "Generation",
    "Prediction",
    "Scores",
    "class_metric",
    "classification_metrics",
    "classify",
    "evaluate",
    "generate",
    "higher_is_better",
    "loss_on",
    "metric_keys",
    "primary_metric",
    "probabilities",
    "text_metric",
    "text_metrics",
]
