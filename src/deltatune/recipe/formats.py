"""Formats of files: what their names tell, and what they bring."""

from __future__ import annotations

from pathlib import PurePath

from deltatune.recipe.sections import CONVERSATION_FORMS, Format

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "sentence-label",
    ".npz": "npz",
    ".conll": "conll",
    ".conllu": "conll",
    ".bio": "conll",
    ".iob": "conll",
}
"""What `format: auto` makes of a file's suffix."""
ONE_PART_FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "sentence-label", "table-folder", "conll")
"""Formats that never bring parts of their own, so that one source needs a split."""

TEXT_FORMATS = ("csv", "tsv", "jsonl", "json", "sentence-label", "table-folder", "conll")
"""Formats whose files are texts, in an encoding."""
PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of packed files; the one before tells the format."""


def format_by_name(name: str, declared: Format = "auto") -> Format:
    """Tell a source's format from its name alone; `auto` is returned for folders and unknown suffixes."""
    if declared not in ("auto", *CONVERSATION_FORMS):
        return declared
    if name.startswith("bundled:"):
        return "bundled"
    if name.startswith("hub:"):
        return "hub"
    path = PurePath(name.lower())
    return SUFFIXES.get(PurePath(path.stem if path.suffix in PACKED else path).suffix, "auto")
