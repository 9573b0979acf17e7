"""The kinds of values that fields of a recipe have: numbers are strict, so that `epochs: "3"` is refused."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict

LARGEST_INT = 2**63 - 1
"""Larger integers fit neither a tensor nor a seed."""
Int = Annotated[int, Strict(), Field(ge=-LARGEST_INT, le=LARGEST_INT)]
Float = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Bool = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1, le=LARGEST_INT)]
Share = Annotated[float, Strict(), Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Budget = Count | Annotated[str, Field(pattern=r"^(0*[1-9]\d*(\.\d+)?|0+\.\d*[1-9]\d*)\s*%$")]
"""A number of parameters, or a share of the base's such as `0.5%`."""


Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?)$")]
"""`auto`, `cpu`, or a GPU: `cuda` or `cuda:1` (Nvidia, AMD), `xpu` (Intel), `mps` (Apple)."""

Duration = Annotated[str, Field(pattern=r"^(0*[1-9]\d*(\.\d+)?|0+\.\d*[1-9]\d*)\s*(s|m|min|h)$")]
"""A time such as `30s`, `10min` (or `10m`) or `1.5h`."""
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


def seconds_of(every: str | int) -> float | None:
    """The seconds of a `Duration`; None for what is none."""
    found = re.fullmatch(r"([\d.]+)\s*(s|m|min|h)", str(every))
    return float(found[1]) * _SECONDS[found[2]] if found else None


def _named(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value


ClassName = Annotated[Text, BeforeValidator(_named)]
"""The name of a class; YAML reads that of some as a number or a switch."""
Weight = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
"""What a row of a class counts for."""

Format = Literal[
    "auto",
    "csv",
    "tsv",
    "jsonl",
    "json",
    "parquet",
    "table-folder",
    "sentence-label",
    "image-folder",
    "npz",
    "hub",
    "bundled",
    "messages",
    "sharegpt",
    "alpaca",
    "prompt-completion",
    "conll",
]
"""Formats of data: of files, and of conversations in them."""
