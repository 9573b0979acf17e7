"""The kinds of answers, one file each: how a model gives them, and how they are scored.

A task names its kind (`Task.scored_as`). A package of one's own registers another by an entry point of the
group `deltatune.kinds`, and a script by one call: `KINDS.add("my-kind", MyKind())`.
"""

from deltatune.evaluation.kinds.kind import Kind
from deltatune.registry import Registry

KINDS: Registry[Kind] = Registry(
    "kind of answer",
    {
        "text": "deltatune.evaluation.kinds.texts:KIND",
        "classes": "deltatune.evaluation.kinds.classes:KIND",
        "label_sets": "deltatune.evaluation.kinds.label_sets:KIND",
        "values": "deltatune.evaluation.kinds.values:KIND",
        "tags": "deltatune.evaluation.kinds.tags:KIND",
        "neighbours": "deltatune.evaluation.kinds.neighbours:KIND",
        "cosines": "deltatune.evaluation.kinds.cosines:KIND",
    },
    group="deltatune.kinds",
)

__all__ = ["KINDS", "Kind"]
