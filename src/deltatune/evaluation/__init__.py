"""Evaluation by generation, classification and regression, with metrics that refuse teacher-forced text."""

from deltatune.evaluation.generation import Generation, generate
from deltatune.evaluation.keys import higher_is_better, metric_keys, primary_metric
from deltatune.evaluation.kinds.classes import probabilities
from deltatune.evaluation.kinds.kind import Job
from deltatune.evaluation.metrics import (
    METRICS,
    Scores,
    class_metric,
    classification_metrics,
    label_set_metric,
    label_set_metrics,
    tag_metric,
    tag_metrics,
    text_metric,
    text_metrics,
    value_metric,
    value_metrics,
)
from deltatune.evaluation.run import (
    Evaluation,
    Prediction,
    answer,
    evaluate,
    loss_on,
    losses_on,
    threshold_on,
)

__all__ = [
    "METRICS",
    "Evaluation",
    "Generation",
    "Job",
    "Prediction",
    "Scores",
    "answer",
    "class_metric",
    "classification_metrics",
    "evaluate",
    "generate",
    "higher_is_better",
    "label_set_metric",
    "label_set_metrics",
    "loss_on",
    "losses_on",
    "metric_keys",
    "primary_metric",
    "probabilities",
    "tag_metric",
    "tag_metrics",
    "text_metric",
    "text_metrics",
    "threshold_on",
    "value_metric",
    "value_metrics",
]
