"""All tags of a data set, the scheme that they are written in, and what is in the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from deltatune.data.rows import Row
from deltatune.errors import DataError
from deltatune.tasks.tags import OUTSIDE, Tagging, ill_formed, scheme_of, whole_set

_SHOWN = 4


def tag_labels(parts: Mapping[str, Sequence[Row]], notes: list[str]) -> list[str]:
    """The tags that the model tells apart: those of all rows, and what else their scheme may need.

    Those of held-out rows count as well: a class that no training row has cannot be learned, and its entities
    are missed, which is said.

    Args:
        parts: The rows by part; training rows tell the scheme.
        notes: Gets what a person should know.

    Raises:
        DataError: All words have one tag.
    """
    tags = {part: Counter(tag for row in rows for tag in row.class_names) for part, rows in parts.items()}
    if len(tags["train"]) < 2:
        [label] = tags["train"]
        raise DataError(
            f"is the only tag of all words of the {len(parts['train'])} training rows.",
            field=f"tag {label!r}",
            remedy="Give rows with entities; if the tags stand in another column, name it as "
            "data.columns.target.",
        )
    scheme = scheme_of([row.class_names for row in parts["train"]])
    labels = whole_set(set().union(*tags.values()), scheme)
    tagging = Tagging.of(labels)
    for part, rows in parts.items():
        wrong = [row for row in rows if ill_formed(row.class_names, scheme, tagging)]
        if wrong:
            name = "training" if part == "train" else part
            count = sum(ill_formed(row.class_names, scheme, tagging) for row in wrong)
            verb = "tag cannot" if count == 1 else "tags cannot"
            notes.append(
                f"{count:,} {verb} stand where {'it does' if count == 1 else 'they do'} by the scheme "
                f"{scheme}, in {len(wrong):,} of {len(rows):,} {name} rows (the first: row {wrong[0].id}); "
                "such a tag begins an entity, as seqeval has it by default."
            )
    learned = set(tagging.classes(tags["train"]))
    for part in ("validation", "test"):
        if tags.get(part) and not tagging.classes(tags[part]):
            notes.append(f"no {part} row has an entity, so that none can be right: entity_f1 says nothing.")
        unknown = [label for label in tagging.classes(tags.get(part, ())) if label not in learned]
        if unknown:
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            notes.append(
                f"no training row has an entity of {', '.join(unknown[:_SHOWN])}{more}, and {part} rows "
                "have: a model cannot find them."
            )
    if tagging.alone:
        notes.append(
            f"no word has the tag {OUTSIDE}, so each word counts as an entity of its own: entity_f1 is the "
            "share of words with the right tag, and entity_macro_f1 weighs all tags alike."
        )
    return labels


def described(parts: Mapping[str, Sequence[Row]], labels: Sequence[str]) -> dict[str, Any]:
    """How words are tagged, and the entities of each class, as `deltatune.results.preview.TaggedWords`."""
    tagging, scheme = Tagging.of(labels), scheme_of([row.class_names for row in parts["train"]])
    entities = {
        part: Counter(entity.label for row in rows for entity in tagging.entities(row.class_names))
        for part, rows in parts.items()
    }
    rows = [row for part in parts.values() for row in part]
    return {
        "scheme": scheme,
        "forms": list(dict.fromkeys(row.words.form for row in rows if row.words is not None)),
        "words": {part: sum(len(row.class_names) for row in rows) for part, rows in parts.items()},
        "entities": {part: dict(counts.most_common()) for part, counts in entities.items()},
        "ill_formed": {
            part: sum(ill_formed(row.class_names, scheme, tagging) for row in rows)
            for part, rows in parts.items()
        },
    }
