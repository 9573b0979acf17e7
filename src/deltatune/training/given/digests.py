"""What a run rests on: its recipe, rows, labels, tokens and base, so that it goes on with nothing else."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltatune.data.dataset import Dataset
from deltatune.data.encode import Encoded
from deltatune.data.rows import Row
from deltatune.errors import ChangedError
from deltatune.recipe.sections import PARTS
from deltatune.tasks.task import each_reference
from deltatune.tasks.values import listed

ANEW = "Restore it, or start anew with --overwrite."


@dataclass(frozen=True)
class Inputs:
    """Digests of all that decides what a run comes to."""

    rows: str
    """Of all rows, in their order."""
    each: dict[str, Tensor]
    """By part: of every row's id, and of what it holds, int64 [rows, 2]."""
    labels: list[str] | None
    tokens: str
    """Of what the tokenizer, or the image processor, makes of the rows."""
    base: str
    """Of the base's weights."""
    start: str | None = None
    """Of the saved delta that the run started from, if it did."""
    dtype: str | None = None
    """Of the base's weights that are not quantized, on which their digest depends."""

    def as_state(self) -> dict[str, Any]:
        """The form in which it is saved."""
        return dict(vars(self))

    def require_same(self, saved: Mapping[str, Any] | None, warn: Callable[[str], None]) -> None:
        """Refuse to go on from a state that rests on something else.

        Args:
            saved: What `as_state` gave when the state was saved; None in those of version 0.1.
            warn: Is told that nothing can be checked then.

        Raises:
            ChangedError: It names what has changed.
        """
        if saved is None:
            warn(
                "This run was begun by version 0.1, which did not note its data, tokenizer and base: whether "
                "they are still the same cannot be checked."
            )
            return
        changed = list(self._changes(saved))
        if changed:
            raise ChangedError(
                f"{'; '.join(changed)}. The run would have learned from both.", field="--resume", remedy=ANEW
            )

    def _changes(self, saved: Mapping[str, Any]) -> Iterator[str]:
        if saved["labels"] != self.labels:
            gone, new = (
                sorted(set(one or ()) - set(other or ()))
                for one, other in ((saved["labels"], self.labels), (self.labels, saved["labels"]))
            )
            words = [f"{', '.join(gone)} gone"] * bool(gone) + [f"{', '.join(new)} new"] * bool(new)
            yield f"the labels have changed since the run began ({'; '.join(words) or 'another order'})"
        if saved["rows"] != self.rows:
            told = [text for part in PARTS if (text := _rows_changed(part, saved["each"], self.each))]
            told += _leaked(saved["each"], self.each)
            yield f"the rows have changed since the run began ({'; '.join(told) or 'another order'})"
        elif saved["tokens"] != self.tokens:
            yield "the tokenizer or image processor has changed since the run began"
        begun = saved.get("dtype") or self.dtype
        if begun != self.dtype:
            yield f"the base is in {self.dtype} on this device, and was in {begun} when the run began"
        elif saved["base"] != self.base:
            yield "the weights of the base have changed since the run began"
        if saved.get("start") != self.start:
            yield "the delta that it started from has changed since the run began"


def row_digests(rows: list[Row]) -> Tensor:
    """Of every row's id, and of its input and target, int64 [rows, 2]."""
    numbers = array("q")
    for row in rows:
        content = hashlib.sha256(b"\0".join(row.content_bytes()))
        for digest in (hashlib.sha256(row.id.encode(errors="surrogatepass")), content):
            numbers.append(int.from_bytes(digest.digest()[:8], signed=True))
    return torch.tensor(numbers, dtype=torch.int64).reshape(-1, 2)


def dataset_digests(dataset: Dataset) -> dict[str, Tensor]:
    """`row_digests` of each part."""
    return {part: row_digests(getattr(dataset, part)) for part in PARTS}


def tokens_digest(parts: Mapping[str, Encoded], processor: Any) -> str:
    """SHA-256 of the ids of all rows; of images, which are read anew for every batch, of the processor."""
    digest = hashlib.sha256()
    for part, encoded in parts.items():
        digest.update(f"{part} {len(encoded.features)}\0".encode())
        for feature in each_reference(encoded.features):
            for key in ("input_ids", "labels", "prompt_length", "label"):
                value = feature.get(key, [])
                digest.update(array("q", value if isinstance(value, list) else [value]).tobytes() + b"\0")
            if "label_set" in feature:
                digest.update(array("q", [feature["outputs"], *feature["label_set"]]).tobytes() + b"\0")
            if "token_type_ids" in feature:
                digest.update(array("q", feature["token_type_ids"]).tobytes() + b"\0")
            if "value" in feature:
                digest.update(array("d", listed(feature["value"])).tobytes())
    if hasattr(processor, "image_mean"):
        digest.update(processor.to_json_string().encode())
    return digest.hexdigest()


def _rows_changed(part: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    """In words, how many rows of a part were removed, added or changed, whatever became of their numbers."""
    old, new = (_pairs(each[part]) for each in (before, after))
    gone = Counter(content for _, content in old) - Counter(content for _, content in new)
    come = Counter(content for _, content in new) - Counter(content for _, content in old)
    now = dict(new)
    changed = sum(1 for name, content in old if content in gone and now.get(name) in come)
    counts = {
        "changed": changed,
        "removed": sum(gone.values()) - changed,
        "added": sum(come.values()) - changed,
    }
    told = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count > 0)
    return told and f"{part}: {told}"


def _leaked(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Rows that would judge the run and that it may have learned from."""
    trained, tested = ({content for _, content in _pairs(each)} for each in (before["train"], after["test"]))
    judged_before = {content for _, content in _pairs(before["test"])}
    count = len((tested & trained) - judged_before)
    return [f"{count:,} of the test rows were training rows before"] if count else []


def _pairs(digests: Tensor) -> list[tuple[int, int]]:
    return [(int(name), int(content)) for name, content in digests.tolist()]
