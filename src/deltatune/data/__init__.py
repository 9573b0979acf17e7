"""Data: from files to rows, and from rows to batches. Importing this package costs no torch."""

from __future__ import annotations

from deltatune.data.batches import batches
from deltatune.data.dataset import Dataset
from deltatune.data.load import load_data, prompt_row
from deltatune.data.readers import READERS, read_source
from deltatune.data.rows import Record, Row, Table
from deltatune.data.tables import flatten_table

__all__ = [
    "READERS",
    "Dataset",
    "Record",
    "Row",
    "Table",
    "batches",
    "flatten_table",
    "load_data",
    "prompt_row",
    "read_source",
]
