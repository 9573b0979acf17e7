"""Metrics of generated texts, of predicted classes, sets of labels, numbers and tags: one file for each."""

from deltatune.evaluation.metrics.classes import class_metric, classification_metrics
from deltatune.evaluation.metrics.label_sets import label_set_metric, label_set_metrics
from deltatune.evaluation.metrics.neighbours import neighbour_metric, neighbour_metrics
from deltatune.evaluation.metrics.registry import METRICS, Metric, Scores, chance_metric, corpus_metric
from deltatune.evaluation.metrics.tags import tag_metric, tag_metrics
from deltatune.evaluation.metrics.texts import text_metric, text_metrics
from deltatune.evaluation.metrics.values import value_metric, value_metrics

# Losses come from teacher-forced logits, never from answers, so they have no function here: see kinds/.
METRICS.add("loss", Metric({"loss": False}))
METRICS.add("perplexity", Metric({"perplexity": False}))

__all__ = [
    "METRICS",
    "Metric",
    "Scores",
    "chance_metric",
    "class_metric",
    "classification_metrics",
    "corpus_metric",
    "label_set_metric",
    "label_set_metrics",
    "neighbour_metric",
    "neighbour_metrics",
    "tag_metric",
    "tag_metrics",
    "text_metric",
    "text_metrics",
    "value_metric",
    "value_metrics",
]
