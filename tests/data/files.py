"""What tests of data write into files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Write = Callable[..., Path]
SPLIT = {"validation": 0, "test": 0}


def jsonl(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


ROWS = [{"input": f"a{index}", "target": f"b{index}"} for index in range(20)]


def image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), shade, dtype=np.uint8)).save(path)
