"""Training rows as texts, kept by a method that trains nothing, and saved with it as a tensor of bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deltatune.core.adapter import Adapter
from deltatune.errors import AdapterError, DataError
from deltatune.tasks.task import Row, Shot

KEY = "rows"


class KeepsRows(Adapter):
    """An adapter that is rows: their inputs and targets."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Shot] = []

    def keep(self, shots: Sequence[Shot]) -> None:
        """Take rows as those that are kept."""
        self.kept = list(shots)

    def stored(self) -> dict[str, Tensor]:
        """The rows as JSON in UTF-8."""
        text = json.dumps(self.kept, ensure_ascii=False).encode(errors="surrogatepass")
        return {KEY: torch.frombuffer(bytearray(text), dtype=torch.uint8)}

    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `stored` gave.

        Raises:
            AdapterError: It is something else.
        """
        try:
            [key] = tensors
            content = json.loads(tensors[key].numpy().tobytes().decode(errors="surrogatepass"))
            shots = [Shot(str(text), str(target)) for text, target in content]
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise AdapterError(
                "its file holds no rows as this method keeps them.", remedy="Copy or make it again."
            ) from error
        self.keep(shots)


def shots_of(rows: Sequence[Row], method: str) -> list[Shot]:
    """Rows as they are kept.

    Raises:
        DataError: They have no targets.
    """
    if not any(row.target for row in rows):
        raise DataError(
            "has only plain text, and no targets that could be shown or copied.",
            field=method,
            remedy="Name a target column as data.columns.target, or take the entry out.",
        )
    return [Shot(str(row.input), row.target) for row in rows]
